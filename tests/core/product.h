// An operation of the tests' own, and leaves for it: the tape and what builds on it must not depend on ops/.
#pragma once

#include "core/autograd.h"
#include "tests/support/test_support.h"

namespace camo::test {

/// y = a * b, element by element.
struct ProductNode final : Node {
  ProductNode() : Node("product") {}
  Saved a{this, "a"}, b{this, "b"};
  static Tensor multiply(const Tensor& x, const Tensor& y) {
    std::vector<double> values = x.to_vector<double>();
    const std::vector<double> others = y.to_vector<double>();
    for (size_t i = 0; i < values.size(); ++i) values[i] *= others[i];
    return from_vector(values, x.shape());
  }
  Tensors backward(const Tensors& dy) override {
    return {needs(0) ? multiply(dy[0], *b) : Tensor(), needs(1) ? multiply(dy[0], *a) : Tensor()};
  }
};

inline Tensor product(const Tensor& a, const Tensor& b) {
  Tensor y = ProductNode::multiply(a, b);
  if (auto* node = record<ProductNode>(y, {a, b})) {
    node->a = a;
    node->b = b;
  }
  return y;
}

inline Tensor leaf(std::vector<double> values) {
  const auto count = static_cast<int64_t>(values.size());
  return from_vector<double>(values, {count}).set_requires_grad(true);
}
inline std::vector<double> grad_of(const Tensor& x) { return x.grad().to_vector<double>(); }
inline const std::vector<double> kOnes{1, 1};
inline Tensor ones2() { return ones({2}, f64); }

}  // namespace camo::test
