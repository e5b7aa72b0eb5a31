// The definition of attention as plain loops in double precision: what every implementation is compared with.
#pragma once

#include "ops/attention.h"

namespace camo::test {

/// How far rounding moves the elements of a result.
struct AttentionRounding {
  Tensor bound;      // no element is further off
  Tensor deviation;  // standard deviation of the error
};

/// All on the CPU in f64. Of one head: [Nq or Nk, D]; log_sum_exp [Nq].
struct AttentionReference {
  Tensor y, log_sum_exp, dq, dk, dv;
  AttentionRounding y_rounding, dq_rounding, dk_rounding, dv_rounding;  // only where roundings were given
};

/// Relative errors of what implementations compute with. All accumulate in f32.
struct AttentionRoundings {
  double stored = 0;   // half a unit in the last place of what weights, dS and results are rounded to
  double weights = 0;  // of weights besides: their exponential
};

/// Head h of picture b, from the numbers that q, k, v and dy [B, N, H, D] hold in their own dtype. All rules of the
/// options hold; the backend does not matter. Without dy there are no gradients. With `stored_y` [B, Nq, H, D],
/// gradients follow from the output as it was stored, as flash attention's do.
///
/// With `roundings`, what they explain. A result is a sum whose terms are rounded independently: n errors within e_i
/// add up to at most the sum of the e_i, and to more than six times the root of the sum of their squares once in 3e7
/// (Hoeffding's inequality); the smaller one is the bound. Their variance is e_i^2 / 3. A weight is exp(s - L) of a
/// score and the log-sum-exp, each rounded in f32 (u = 2^-24) more than once on the way, and an absolute error of an
/// exponent is a relative one of the weight. L: as it is stored, and in base 2. s, in the forward pass and again in
/// backward: its two factors (2 u each, as pairs of halves keep 22 bits), D / 16 sums of products (2 u of what was
/// summed so far: tensor cores truncate), the scale, the product with the scale, and the difference.
AttentionReference attention_reference(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy,
                                       const AttentionOptions& options, int64_t b, int64_t h,
                                       const Tensor& stored_y = {}, const AttentionRoundings& roundings = {});

}  // namespace camo::test
