// Flash attention against the plain one in f64 on the CPU, from the same rounded inputs. Run once with tensors on the
// CPU (f64 and f32) and once on CUDA (f32, f16, bf16).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "core/device.h"
#include "ops/attention.h"
#include "ops/attention/flash.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"
#include "tests/ops/fixture.h"

namespace camo {
namespace {

using namespace test;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<DType> dtypes() {
  return default_device().is_cuda() ? std::vector<DType>{f32, f16, bf16} : std::vector<DType>{f64, f32};
}

/// What an element may differ by, relative to the largest (or 1): of the output, and of gradients.
struct Bounds {
  double output, gradient;
};
Bounds bounds_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return {1e-12, 1e-12};
    case DType::f32: return {5e-6, 1e-5};
    case DType::f16: return {5e-4, 1e-3};
    default: return {4e-3, 8e-3};
  }
}

Tensor in_double(const Tensor& x) { return to(to(x.detach(), cpu), f64); }

struct Inputs {
  Tensor q, k, v, dy;

  Inputs(int64_t batch, int64_t queries, int64_t keys, int64_t heads, int64_t width, DType dtype)
      : q(random_normal({batch, queries, heads, width}, 1, dtype)),
        k(random_normal({batch, keys, heads, width}, 1, dtype)),
        v(random_normal({batch, keys, heads, width}, 1, dtype)),
        dy(random_normal({batch, queries, heads, width}, 1, dtype)) {}
};

Gradients flash(const Inputs& in, AttentionOptions options = {}) {
  options.backend = AttentionBackend::flash;
  return run([&](const Tensors& x) { return scaled_dot_product_attention(x[0], x[1], x[2], options); },
             {in.q, in.k, in.v}, in.dy);
}
Gradients oracle(const Inputs& in, AttentionOptions options = {}) {
  options.backend = AttentionBackend::math;
  if (options.mask.defined()) {
    options.mask = options.mask.dtype() == boolean ? to(options.mask, cpu) : in_double(options.mask);
  }
  return run([&](const Tensors& x) { return scaled_dot_product_attention(x[0], x[1], x[2], options); },
             {in_double(in.q), in_double(in.k), in_double(in.v)}, in_double(in.dy));
}

void expect_agrees(const Inputs& in, const AttentionOptions& options, const std::string& what) {
  const Bounds bounds = bounds_of(in.q.dtype());
  const Gradients got = flash(in, options), expected = oracle(in, options);
  EXPECT_TRUE(all_close(in_double(got.y), expected.y, bounds.output)) << what << ": output";
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(all_close(in_double(got.grads[i]), expected.grads[i], bounds.gradient)) << what << ": gradient of "
                                                                                        << "qkv"[i];
  }
}

std::string text_of(DType dtype, int64_t queries, int64_t keys, int64_t width) {
  return concat_text(dtype, ", ", queries, " queries, ", keys, " keys, width ", width);
}

TEST(FlashAttention, EveryWidth) {
  for (const DType dtype : dtypes()) {
    for (const int64_t width : {1, 2, 7, 8, 10, 16, 17, 20, 24, 32, 36, 40, 48, 64, 73, 80, 96, 121, 128}) {
      expect_agrees({2, 70, 83, 2, width, dtype}, {}, text_of(dtype, 70, 83, width));
    }
  }
}

TEST(FlashAttention, EverySize) {
  for (const DType dtype : dtypes()) {
    const int64_t widths[] = {10, 20, 36, 73, 128};
    int turn = 0;
    for (const int64_t tokens : {1, 2, 7, 15, 16, 17, 63, 64, 65, 121, 127, 128, 129, 143, 144, 145, 400}) {
      const int64_t width = widths[turn++ % 5];
      expect_agrees({1, tokens, tokens, 3, width, dtype}, {}, text_of(dtype, tokens, tokens, width));
      expect_agrees({1, tokens, 33, 1, width, dtype}, {}, text_of(dtype, tokens, 33, width));
      expect_agrees({3, 5, tokens, 1, width, dtype}, {}, text_of(dtype, 5, tokens, width));
    }
  }
}

TEST(FlashAttention, ShapesOfTheNetwork) {
  for (const DType dtype : dtypes()) {
    expect_agrees({1, 2304, 2304, 1, 10, dtype}, {}, text_of(dtype, 2304, 2304, 10));
    expect_agrees({1, 2304, 2304, 1, 20, dtype}, {}, text_of(dtype, 2304, 2304, 20));
    expect_agrees({1, 576, 576, 2, 36, dtype}, {}, text_of(dtype, 576, 576, 36));
    expect_agrees({2, 144, 144, 4, 73, dtype}, {}, text_of(dtype, 144, 144, 73));
    expect_agrees({1, 676, 676, 1, 64, dtype}, {}, text_of(dtype, 676, 676, 64));
  }
}

TEST(FlashAttention, Rules) {
  for (const DType dtype : dtypes()) {
    for (const auto& [queries, keys] : {std::pair<int64_t, int64_t>{130, 130}, {70, 200}, {200, 70}, {1, 65}}) {
      const Inputs in(2, queries, keys, 3, 20, dtype);
      const auto check = [&](const char* rule, const AttentionOptions& options) {
        expect_agrees(in, options, text_of(dtype, queries, keys, 20) + ", " + rule);
      };
      const auto random = [&](const Shape& shape) { return to(random_normal(shape), dtype); };
      const auto seen = [&](const Shape& shape) { return greater(random_normal(shape), -0.3); };
      check("causal", {.causal = true});
      check("scale", {.scale = 0.05});
      check("negative scale", {.scale = -0.3});
      check("zero scale", {.scale = 0.0});
      check("boolean mask", {.mask = seen({2, 3, queries, keys})});
      check("boolean mask of keys", {.mask = seen({2, 1, 1, keys})});
      check("boolean mask of queries", {.mask = seen({queries, 1})});
      check("additive mask", {.mask = random({3, queries, keys})});
      check("additive mask of heads", {.mask = random({3, 1, keys}), .causal = true});
      check("dropout", {.dropout = 0.3, .dropout_key = {5, 7}});
      check("all dropped", {.dropout = 1, .dropout_key = {5, 7}});
      check("everything",
            {.mask = seen({2, 1, queries, keys}), .dropout = 0.2, .dropout_key = {1, 9}, .causal = true, .scale = 0.4});
    }
  }
}

TEST(FlashAttention, RowsThatSeeNothing) {
  for (const DType dtype : dtypes()) {
    const Inputs in(1, 70, 66, 2, 10, dtype);
    std::vector<double> added(70 * 66, 0);
    std::fill(added.begin() + 3 * 66, added.begin() + 5 * 66, -kInfinity);
    const Tensor mask = to(from_vector(added, {70, 66}), dtype);
    for (const AttentionOptions& options : {AttentionOptions{.mask = mask}, AttentionOptions{.causal = true}}) {
      expect_agrees(in, options, concat_text(dtype));
      const int64_t first = options.causal ? 0 : 3, count = options.causal ? 4 : 2;
      const Gradients got = flash(in, options);
      for (const Tensor& x : {got.y, got.grads[0]}) {
        EXPECT_TRUE(all_close(in_double(slice(x, 1, first, first + count)), zeros({1, count, 2, 10}, f64, cpu), 0));
      }
    }
  }
}

/// Slices of one fused projection whose gaps hold NaN give the same bits as dense copies, and so does memory that
/// begins at an odd element.
TEST(FlashAttention, GapsAreNeverRead) {
  const int64_t heads = 3;
  for (const DType dtype : dtypes()) {
    for (const int64_t width : {1, 8, 10, 20, 36, 64, 73}) {
      for (const int64_t gap : {0, 1, 3, 8}) {
        for (const int64_t start : {0, 1}) {
          const Inputs in(2, 70, 70, heads, width, dtype);
          const int64_t pitch = heads * (width + gap), row = 4 * pitch;
          const Tensor memory = full({start + 2 * 70 * row}, std::nan(""), dtype);
          Inputs strided = in;
          int part = 0;
          for (Tensor* x : {&strided.q, &strided.k, &strided.v, &strided.dy}) {
            const Tensor view = make_view(memory, x->shape(), {70 * row, row, width + gap, 1}, start + part++ * pitch);
            copy_into(view, *x);
            *x = view;
          }
          const Gradients expected = flash(in), got = flash(strided);
          EXPECT_TRUE(got.y.is_contiguous());
          EXPECT_TRUE(bitwise_equal(got.y, expected.y)) << name(dtype) << " width " << width << " gap " << gap;
          for (size_t i = 0; i < 3; ++i) {
            EXPECT_TRUE(bitwise_equal(got.grads[i], expected.grads[i])) << "gradient of "
                                                                        << "qkv"[i];
          }
        }
      }
    }
  }
}

TEST(FlashAttention, AnyStrides) {
  for (const DType dtype : dtypes()) {
    const Inputs in(2, 33, 33, 2, 10, dtype);
    Inputs channels_first = in;  // [B, H, D, N] in memory
    for (Tensor* x : {&channels_first.q, &channels_first.k, &channels_first.v, &channels_first.dy}) {
      *x = permute(clone(permute(*x, {0, 2, 3, 1})), {0, 3, 1, 2});
    }
    const Gradients expected = flash(in), got = flash(channels_first);
    EXPECT_TRUE(bitwise_equal(got.y, expected.y));
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(bitwise_equal(got.grads[i], expected.grads[i]));
  }
}

TEST(FlashAttention, HeadsAreIsolated) {
  for (const DType dtype : dtypes()) {
    for (const int64_t width : {10, 36, 73}) {
      const Inputs in(2, 70, 70, 3, width, dtype);
      const Gradients expected = flash(in);
      Inputs broken = in;
      for (Tensor* x : {&broken.q, &broken.k, &broken.v, &broken.dy}) {
        *x = clone(*x);
        fill(select(select(*x, 2, 1), 0, 0), std::nan(""));
      }
      const Gradients got = flash(broken);
      const auto others = [](const Tensor& x) { return Tensors{select(x, 0, 1), select(x, 2, 0), select(x, 2, 2)}; };
      Tensors all = got.grads, all_expected = expected.grads;
      all.push_back(got.y);
      all_expected.push_back(expected.y);
      for (size_t i = 0; i < all.size(); ++i) {
        for (size_t j = 0; j < 3; ++j) {
          EXPECT_TRUE(bitwise_equal(clone(others(all[i])[j]), clone(others(all_expected[i])[j])))
              << name(dtype) << " width " << width << " tensor " << i;
        }
      }
    }
  }
}

TEST(FlashAttention, HardSoftmaxes) {
  for (const DType dtype : dtypes()) {
    const Bounds bounds = bounds_of(dtype);
    const Inputs in(1, 70, 300, 1, 16, dtype);
    // Scores that rise or fall with the key, far beyond what exp can hold: one key takes all.
    for (const double sign : {1.0, -1.0}) {
      std::vector<double> slope(300 * 16, 0);
      for (int j = 0; j < 300; ++j) slope[static_cast<size_t>(j) * 16] = sign * (j - 150) * 0.5;
      Inputs steep = in;
      steep.k = to(from_vector(slope, {1, 300, 1, 16}), dtype);
      steep.q = full({1, 70, 1, 16}, 128, dtype);
      const Tensor y = flash(steep, {.scale = 1.0}).y;
      const Tensor expected = slice(in.v, 1, sign > 0 ? 299 : 0, sign > 0 ? 300 : 1);
      for (const int64_t i : {0, 35, 69}) {
        EXPECT_TRUE(all_close(in_double(slice(y, 1, i, i + 1)), in_double(expected), bounds.output));
      }
    }
    // Equal scores: the mean of v.
    Inputs equal = in;
    equal.q = zeros({1, 70, 1, 16}, dtype);
    expect_agrees(equal, {}, "equal scores");
    // One vector added to every key changes nothing.
    if (dtype != f16 && dtype != bf16) {
      Inputs shifted = in;
      shifted.k = clone(in.k);
      add_into(shifted.k, clone(expand(select(clone(in.q), 1, 0), {1, 300, 1, 16})));
      EXPECT_TRUE(all_close(flash(shifted).y, flash(in).y, 10 * bounds.output));
    }
  }
}

TEST(FlashAttention, SameBitsEveryTime) {
  for (const DType dtype : dtypes()) {
    for (const int64_t width : {10, 64}) {
      const Inputs in(2, 150, 150, 2, width, dtype);
      const AttentionOptions options{.dropout = 0.1, .dropout_key = {2, 3}};
      const Gradients first = flash(in, options);
      for (int i = 0; i < 5; ++i) {
        const Gradients again = flash(in, options);
        EXPECT_TRUE(bitwise_equal(again.y, first.y));
        for (size_t x = 0; x < 3; ++x) EXPECT_TRUE(bitwise_equal(again.grads[x], first.grads[x]));
      }
      const NoGrad guard;
      AttentionOptions flash_options = options;
      flash_options.backend = AttentionBackend::flash;
      EXPECT_TRUE(bitwise_equal(scaled_dot_product_attention(in.q, in.k, in.v, flash_options), first.y));
    }
  }
}

TEST(FlashAttention, ThreadsAgree) {
  if (default_device().is_cuda()) GTEST_SKIP() << "about threads of the CPU";
  const Inputs in(1, 150, 170, 3, 10, f32);
  expect_threads_agree(
      [](const Tensors& x) {
        return scaled_dot_product_attention(x[0], x[1], x[2], {.backend = AttentionBackend::flash});
      },
      {in.q, in.k, in.v});
}

TEST(FlashAttention, OneGradientOfThree) {
  for (const DType dtype : dtypes()) {
    const Inputs in(1, 40, 50, 2, 10, dtype);
    const Gradients expected = flash(in);
    for (size_t wanted = 0; wanted < 3; ++wanted) {
      Tensors x{in.q.detach(), in.k.detach(), in.v.detach()};
      x[wanted].set_requires_grad(true);
      backward(scaled_dot_product_attention(x[0], x[1], x[2], {.backend = AttentionBackend::flash}), in.dy);
      EXPECT_TRUE(bitwise_equal(x[wanted].grad(), expected.grads[wanted]));
    }
  }
}

/// Sets CAMO_SDPA_BACKEND for its scope.
class BackendVariable {
 public:
  explicit BackendVariable(const char* value) {
    if (const char* before = std::getenv("CAMO_SDPA_BACKEND")) before_ = before;
    setenv("CAMO_SDPA_BACKEND", value, 1);
  }
  ~BackendVariable() {
    if (before_.empty()) unsetenv("CAMO_SDPA_BACKEND");
    else setenv("CAMO_SDPA_BACKEND", before_.c_str(), 1);
  }

 private:
  std::string before_;
};

TEST(FlashAttention, Choice) {
  const auto name = [](int64_t tokens, AttentionBackend backend) {
    return attention_kernel_name(cpu, f32, tokens, tokens, 10, backend);
  };
  const BackendVariable none("");
  EXPECT_EQ(name(16, AttentionBackend::automatic), "math");
  EXPECT_EQ(name(9216, AttentionBackend::automatic), "flash (tiled, f32)");
  EXPECT_EQ(name(16, AttentionBackend::flash), "flash (tiled, f32)");
  EXPECT_EQ(name(9216, AttentionBackend::math), "math");
  {
    const BackendVariable flash("flash");
    EXPECT_EQ(name(16, AttentionBackend::automatic), "flash (tiled, f32)");
    EXPECT_EQ(name(16, AttentionBackend::math), "math");
  }
  {
    const BackendVariable math("math");
    EXPECT_EQ(name(9216, AttentionBackend::automatic), "math");
  }
  const BackendVariable wrong("fast");
  EXPECT_ERROR(name(16, AttentionBackend::automatic), "CAMO_SDPA_BACKEND: must be auto, flash or math; got fast");
}

TEST(FlashAttention, SaysWhyNot) {
  const auto choice = flash::choose({cpu, bf16, 10, 10, 8}, AttentionBackend::flash);
  EXPECT_FALSE(choice.flash);
  EXPECT_EQ(choice.why_not, "no flash kernel for bf16 on cpu");
  EXPECT_EQ(flash::choose({cpu, bf16, 10, 10, 8}, AttentionBackend::automatic).why_not, "");
  if (!default_device().is_cuda()) return;
  EXPECT_EQ(flash::choose({default_device(), f32, 10, 10, 129}, AttentionBackend::flash).why_not,
            "it takes head dimensions up to 128; got 129");
  // f64 is asked for, and computed by math after a warning.
  const Tensor x = random_normal({1, 5, 1, 4}, 1, f64);
  EXPECT_TRUE(all_close(scaled_dot_product_attention(x, x, x, {.backend = AttentionBackend::flash}),
                        scaled_dot_product_attention(x, x, x), 0));
}

}  // namespace
}  // namespace camo
