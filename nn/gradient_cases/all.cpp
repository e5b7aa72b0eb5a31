#include <iterator>

#include "nn/gradcheck.h"

namespace camo {

std::vector<GradientCase> all_gradient_cases() {
  std::vector<GradientCase> all;
  for (auto* family : {elementwise_gradient_cases, reduce_gradient_cases, shape_gradient_cases, matmul_gradient_cases,
                       conv_gradient_cases, norm_gradient_cases}) {
    std::vector<GradientCase> cases = family();
    all.insert(all.end(), std::make_move_iterator(cases.begin()), std::make_move_iterator(cases.end()));
  }
  return all;
}

}  // namespace camo
