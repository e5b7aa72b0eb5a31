// Identities that gradients of attention obey, what is recorded, and the reference itself.
#include <cmath>

#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"
#include "tests/attention/agreement.h"

namespace camo {
namespace {

using namespace test;

constexpr int64_t kWidths[] = {10, 20, 36, 73, 128};

Tensor in_double(const Tensor& x) { return to(to(x.detach(), cpu), f64); }

/// sum of |terms|: what a sum may be off by, times the rounding of each term.
double sum_of(const Tensor& x) { return sum(x).item(); }

/// Scores are bilinear in q and k: sum(dq * q) = sum(dk * k) in each head.
TEST(FlashGradients, QueriesAndKeysBalance) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : kWidths) {
      const AttentionInputs in(2, 130, 145, 2, width, dtype);
      const AttentionOutputs got = flash(in);
      const Tensor by_queries = in_double(got.dq) * in_double(in.q), by_keys = in_double(got.dk) * in_double(in.k);
      for (const int64_t h : {0, 1}) {
        const Tensor a = clone(select(by_queries, 2, h)), b = clone(select(by_keys, 2, h));
        const double terms = sum_of(abs(a)) + sum_of(abs(b));
        EXPECT_NEAR(sum_of(a), sum_of(b), attention_bounds(dtype).gradient * terms) << in.text();
      }
    }
  }
}

/// Rows of P sum to 1: the sum of dv over keys is that of dy over queries. Rows of dS sum to 0: equal keys give the
/// queries no gradient.
TEST(FlashGradients, RowsSumToOneAndZero) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : kWidths) {
      AttentionInputs in(1, 130, 145, 2, width, dtype);
      const AttentionOutputs got = flash(in);
      const double bound = attention_bounds(dtype).gradient;
      const Tensor by_keys = sum(in_double(got.dv), {1}), by_queries = sum(in_double(in.dy), {1});
      EXPECT_LE(max_difference(by_keys, by_queries), bound * 145) << in.text();
      in.k = clone(expand(slice(in.k, 1, 0, 1), in.k.shape()));
      const Tensor dq = flash(in).dq;
      EXPECT_TRUE(all_close(dq, zeros(dq.shape(), f64), bound)) << in.text();
    }
  }
}

/// Gradients are linear in dy, and zero for zero.
TEST(FlashGradients, LinearInTheCotangent) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : kWidths) {
      AttentionInputs in(1, 70, 83, 2, width, dtype), twice = in, none = in;
      twice.dy = in.dy * 2.0;
      none.dy = zeros(in.dy.shape(), dtype);
      const AttentionOutputs once = flash(in), doubled = flash(twice), zero = flash(none);
      for (const auto& [x, y, z] :
           {std::tuple{once.dq, doubled.dq, zero.dq}, {once.dk, doubled.dk, zero.dk}, {once.dv, doubled.dv, zero.dv}}) {
        EXPECT_TRUE(all_close(in_double(x) * 2.0, in_double(y), attention_bounds(dtype).gradient)) << in.text();
        EXPECT_TRUE(all_close(z, zeros(z.shape(), f64), 0)) << in.text();
      }
    }
  }
}

TEST(FlashGradients, OneOfThree) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : kWidths) {
      const AttentionInputs in(1, 40, 50, 2, width, dtype);
      const AttentionOutputs expected = flash(in);
      const Tensors all{expected.dq, expected.dk, expected.dv};
      for (size_t wanted = 0; wanted < 3; ++wanted) {
        Tensors x{in.q.detach(), in.k.detach(), in.v.detach()};
        x[wanted].set_requires_grad(true);
        backward(scaled_dot_product_attention(x[0], x[1], x[2], {.backend = AttentionBackend::flash}), in.dy);
        EXPECT_TRUE(bitwise_equal(x[wanted].grad(), all[wanted])) << in.text();
      }
    }
  }
}

/// A sum's cotangent has strides of 0, and one tensor may be q, k and v.
TEST(FlashGradients, OddGraphs) {
  for (const DType dtype : flash_dtypes()) {
    const AttentionInputs in(2, 70, 70, 2, 20, dtype);
    const Tensor x = in.q.detach().set_requires_grad(true);
    backward(sum(scaled_dot_product_attention(x, x, x, {.backend = AttentionBackend::flash})));
    AttentionInputs same = in;
    same.k = same.v = in.q;
    same.dy = ones(in.dy.shape(), dtype);
    const AttentionReference expected = attention_reference(same.q, same.k, same.v, same.dy, {}, 1, 1);
    const Tensor total = expected.dq + expected.dk + expected.dv;
    EXPECT_TRUE(all_close(select(select(x.grad(), 0, 1), 1, 1), total, 3 * attention_bounds(dtype).gradient))
        << name(dtype);
  }
}

TEST(FlashGradients, WithoutAGraphTheSameBits) {
  for (const DType dtype : flash_dtypes()) {
    for (const int64_t width : kWidths) {
      const AttentionInputs in(2, 70, 83, 2, width, dtype);
      const Tensor expected = flash(in).y;
      const NoGrad guard;
      const Tensor y = scaled_dot_product_attention(in.q, in.k, in.v, {.backend = AttentionBackend::flash});
      EXPECT_TRUE(bitwise_equal(y, expected)) << in.text();
      EXPECT_FALSE(y.requires_grad());
    }
  }
}

/// math gives the log-sum-exp too.
TEST(FlashGradients, LogSumExpOfMath) {
  const AttentionInputs in(2, 70, 83, 2, 20, f32);
  const AttentionOptions options{.causal = true};
  const Tensor sums = run_attention(in, options, AttentionBackend::math).log_sum_exp;
  const AttentionReference expected = attention_reference(in.q, in.k, in.v, {}, options, 1, 0);
  EXPECT_EQ(sums.shape(), (Shape{2, 2, 70}));
  EXPECT_FALSE(sums.requires_grad());
  EXPECT_TRUE(all_close(select(select(sums, 0, 1), 0, 0), expected.log_sum_exp, 3e-6));
}

/// The gradients of the reference are its central differences.
TEST(AttentionReference, GradientsAreCentralDifferences) {
  const DType dtype = f64;
  set_default_device(cpu);
  AttentionInputs in(1, 5, 7, 1, 3, dtype);
  std::vector<uint8_t> seen(35, 1);
  for (const size_t hidden : {0u, 9u, 14u, 15u, 16u, 17u, 18u, 19u, 20u}) seen[hidden] = 0;
  const Tensor mask = to(from_vector<uint8_t>(seen, {5, 7}), boolean);
  for (const AttentionOptions& options :
       {AttentionOptions{}, AttentionOptions{.mask = mask}, AttentionOptions{.dropout = 0.3, .dropout_key = {1, 2}},
        AttentionOptions{.causal = true, .scale = 0.7}}) {
    const AttentionReference exact = attention_reference(in.q, in.k, in.v, in.dy, options, 0, 0);
    const auto loss = [&] {
      const Tensor y = attention_reference(in.q, in.k, in.v, {}, options, 0, 0).y;
      return sum(y * select(select(in.dy, 0, 0), 1, 0)).item();
    };
    for (const auto& [x, gradient] : {std::pair{in.q, exact.dq}, {in.k, exact.dk}, {in.v, exact.dv}}) {
      const auto expected = gradient.to_vector<double>();
      for (int64_t i = 0; i < x.numel(); ++i) {
        double& number = x.data<double>()[i];
        const double before = number, step = 1e-5;
        number = before + step;
        const double above = loss();
        number = before - step;
        const double below = loss();
        number = before;
        EXPECT_NEAR((above - below) / (2 * step), expected[static_cast<size_t>(i)], 1e-9);
      }
    }
  }
}

}  // namespace
}  // namespace camo
