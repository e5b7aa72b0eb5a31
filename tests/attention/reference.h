// The definition of attention as plain loops in double precision: what every implementation is compared with.
#pragma once

#include "ops/attention.h"

namespace camo::test {

/// All on the CPU in f64. Of one head: [Nq or Nk, D]; log_sum_exp [Nq].
struct AttentionReference {
  Tensor y, log_sum_exp, dq, dk, dv;
};

/// Head h of picture b, from the numbers that q, k, v and dy [B, N, H, D] hold in their own dtype. All rules of the
/// options hold; the backend does not matter. Without dy there are no gradients. With `stored_y` [B, Nq, H, D],
/// gradients follow from the output as it was stored, as flash attention's do.
AttentionReference attention_reference(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy,
                                       const AttentionOptions& options, int64_t b, int64_t h,
                                       const Tensor& stored_y = {});

}  // namespace camo::test
