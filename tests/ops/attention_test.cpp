#include "ops/attention.h"

#include <cmath>
#include <limits>

#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

Function attention(const AttentionOptions& options = {}) {
  return [options](const Tensors& in) { return scaled_dot_product_attention(in[0], in[1], in[2], options); };
}

Tensor bool_mask(const std::vector<uint8_t>& values, const Shape& shape) {
  return to(from_vector<uint8_t>(values, shape), boolean);
}

/// The definition for one query, in double.
std::vector<double> naive_row(const Tensor& q, const Tensor& k, const Tensor& v, int64_t b, int64_t i, int64_t h) {
  const int64_t width = q.size(3), heads = q.size(2);
  const auto host_q = q.to_vector<double>(), host_k = k.to_vector<double>(), host_v = v.to_vector<double>();
  const auto at = [&](const std::vector<double>& x, int64_t tokens, int64_t n, int64_t d) {
    return x[static_cast<size_t>(((b * tokens + n) * heads + h) * width + d)];
  };
  std::vector<double> out(static_cast<size_t>(width));
  double sum = 0;
  for (int64_t j = 0; j < k.size(1); ++j) {
    double score = 0;
    for (int64_t d = 0; d < width; ++d) score += at(host_q, q.size(1), i, d) * at(host_k, k.size(1), j, d);
    const double weight = std::exp(score / std::sqrt(static_cast<double>(width)));
    sum += weight;
    for (int64_t d = 0; d < width; ++d) out[static_cast<size_t>(d)] += weight * at(host_v, v.size(1), j, d);
  }
  for (double& value : out) value /= sum;
  return out;
}

TEST(Attention, AgreesWithTheDefinition) {
  const Tensor q = uniform({2, 70, 3, 5}), k = uniform({2, 9, 3, 5}), v = uniform({2, 9, 3, 5});
  const Tensor y = scaled_dot_product_attention(q, k, v);
  EXPECT_TRUE(y.is_contiguous());
  for (const int64_t i : {0, 63, 64, 69}) {
    const Tensor row = from_vector(naive_row(q, k, v, 1, i, 2), {5});
    EXPECT_TRUE(all_close(select(select(select(y, 0, 1), 0, i), 0, 2), row, 1e-14));
  }
}

TEST(Attention, AgreesWithPyTorch) {
  Fixture("attention").check({"q", "k", "v"}, attention());
  Fixture("attention_causal").check({"q", "k", "v"}, attention({.causal = true}));
  const Fixture seen("attention_bool_mask");
  seen.check({"q", "k", "v"}, attention({.mask = to(seen.at("in/mask"), boolean)}));
  const Fixture added("attention_additive_mask");
  added.check({"q", "k", "v"}, attention({.mask = added.at("in/mask")}));
}

TEST(Attention, SlicesOfAFusedProjection) {
  const int64_t heads = 3, width = 4;
  const Tensor qkv = uniform({2, 70, 3 * heads * width});
  const auto part = [&](int i) {
    return reshape(slice(qkv, 2, i * heads * width, (i + 1) * heads * width), {2, 70, heads, width});
  };
  const Tensor y = scaled_dot_product_attention(part(0), part(1), part(2));
  const Tensor dense = scaled_dot_product_attention(clone(part(0)), clone(part(1)), clone(part(2)));
  if (qkv.is_cuda()) EXPECT_TRUE(all_close(y, dense, 1e-14));  // other strides may mean another kernel
  else EXPECT_TRUE(bitwise_equal(y, dense));
}

TEST(Attention, CausalOffset) {
  const Tensor v = from_vector<double>({1, 10, 100}, {1, 3, 1, 1});
  // Two queries, three keys: the last query sees all keys, the first one less.
  const Tensor more_keys =
      scaled_dot_product_attention(zeros({1, 2, 1, 1}, f64), zeros({1, 3, 1, 1}, f64), v, {.causal = true});
  EXPECT_TRUE(all_close(more_keys, from_vector<double>({5.5, 37}, {1, 2, 1, 1}), 1e-14));
  // Four queries, three keys: the first query sees none.
  const Gradients fewer = run(attention({.causal = true}), {zeros({1, 4, 1, 1}, f64), zeros({1, 3, 1, 1}, f64), v},
                              ones({1, 4, 1, 1}, f64));
  EXPECT_TRUE(all_close(fewer.y, from_vector<double>({0, 1, 5.5, 37}, {1, 4, 1, 1}), 1e-14));
  EXPECT_EQ(fewer.grads[0].to_vector<double>()[0], 0);
}

TEST(Attention, RowsThatSeeNothing) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Tensor seen = bool_mask({1, 1, 0, 0}, {2, 2});
  const Tensor added = from_vector<double>({0, 0, -kInfinity, -kInfinity}, {2, 2});
  for (const Tensor& mask : {seen, added}) {
    const Gradients result =
        run(attention({.mask = mask}), {uniform({1, 2, 1, 3}), uniform({1, 2, 1, 3}), uniform({1, 2, 1, 3})},
            uniform({1, 2, 1, 3}));
    EXPECT_TRUE(all_close(select(result.y, 1, 1), zeros({1, 1, 3}, f64), 0));
    EXPECT_TRUE(all_close(select(result.grads[0], 1, 1), zeros({1, 1, 3}, f64), 0));
    EXPECT_GT(std::abs(result.grads[2].to_vector<double>()[0]), 0);
  }
}

TEST(Attention, DropoutFollowsTheKey) {
  const RandomKey key{9, 4};
  const double p = 0.3;
  // With equal scores every weight is 1/4, and v = identity shows the weights.
  const Tensor v = reshape(from_vector<double>({1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}, {4, 4}), {1, 4, 1, 4});
  const Tensor y = scaled_dot_product_attention(zeros({1, 3, 1, 4}, f64), zeros({1, 4, 1, 4}, f64), v,
                                                {.dropout = p, .dropout_key = key});
  std::vector<double> expected;
  for (uint64_t i = 0; i < 12; ++i) expected.push_back(key.uniform(i) < 0.3f ? 0 : 0.25 / (1 - p));
  EXPECT_TRUE(all_close(y, from_vector(expected, {1, 3, 1, 4}), 1e-14));
}

TEST(Attention, F32StridesAndThreads) {
  const Tensors inputs{uniform({2, 70, 2, 8}), uniform({2, 50, 2, 8}), uniform({2, 50, 2, 8})};
  Tensors singles;
  for (const Tensor& x : inputs) singles.push_back(converted(x, f32));
  for (const AttentionOptions& options : {AttentionOptions{}, AttentionOptions{.causal = true},
                                          AttentionOptions{.dropout = 0.2, .dropout_key = {1, 2}}}) {
    expect_f32_agrees(attention(options), inputs, 2e-6);
    expect_strided_agrees(attention(options), inputs);
    expect_threads_agree(attention(options), singles);
  }
}

TEST(Attention, WithoutAGraphTheSameBits) {
  const Tensors inputs{uniform({1, 70, 2, 4}), uniform({1, 30, 2, 4}), uniform({1, 30, 2, 4})};
  for (const double dropout : {0.0, 0.25}) {
    const Function fn = attention({.dropout = dropout, .dropout_key = {3, 3}});
    EXPECT_TRUE(bitwise_equal(fn(inputs), run(fn, inputs, uniform({1, 70, 2, 4})).y));
  }
}

TEST(Attention, EmptyInputs) {
  const Tensor y =
      scaled_dot_product_attention(uniform({1, 3, 2, 4}), zeros({1, 0, 2, 4}, f64), zeros({1, 0, 2, 4}, f64));
  EXPECT_TRUE(all_close(y, zeros({1, 3, 2, 4}, f64), 0));
  EXPECT_EQ(scaled_dot_product_attention(zeros({0, 3, 2, 4}), zeros({0, 3, 2, 4}), zeros({0, 3, 2, 4})).numel(), 0);
}

TEST(Attention, Errors) {
  const Tensor x = zeros({1, 3, 2, 4});
  const auto call = [&](const AttentionOptions& options) { return scaled_dot_product_attention(x, x, x, options); };
  EXPECT_ERROR(scaled_dot_product_attention(zeros({3, 4}), x, x), "q, k and v must be [B, N, H, D]; got q [3, 4]");
  EXPECT_ERROR(scaled_dot_product_attention(x, x, zeros({1, 4, 2, 4})), "k and v must have one shape");
  EXPECT_ERROR(scaled_dot_product_attention(zeros({1, 3, 1, 4}), x, x),
               "q and k must agree in batch, heads and head dimension; got q [1, 3, 1, 4]");
  EXPECT_ERROR(scaled_dot_product_attention(x, x, zeros({1, 3, 2, 4}, f64)),
               "must have one dtype; got q f32, k f32, v f64");
  EXPECT_ERROR(call({.dropout = 1.5}), "dropout must be in [0, 1]; got 1.5");
  EXPECT_ERROR(scaled_dot_product_attention(zeros({1, 3, 2, 0}), zeros({1, 3, 2, 0}), zeros({1, 3, 2, 0})),
               "a head dimension of 0 needs a scale");
  EXPECT_ERROR(call({.mask = zeros({3, 3}, f64)}), "mask must be bool or have the dtype of q; got mask f64, q f32");
  EXPECT_ERROR(call({.mask = zeros({2, 3})}), "mask must broadcast to [1, 2, 3, 3] [B, H, Nq, Nk]; got mask [2, 3]");
  const Tensor wanted = zeros({3, 3});
  wanted.set_requires_grad(true);
  EXPECT_ERROR(call({.mask = wanted}), "scaled_dot_product_attention: mask: has no gradient");
}

}  // namespace
}  // namespace camo
