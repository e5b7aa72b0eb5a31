#include "models/edgenext/blocks.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "core/op_observer.h"
#include "ops/ops.h"

namespace camo {
namespace {

constexpr int64_t kMlpRatio = 4;
constexpr double kLayerScale = 1e-6;
constexpr int64_t kFrequencies = 32;  // per axis

int64_t part_size(const SplitTransposeSpec& spec) {
  CAMO_CHECK(spec.splits >= 2 && spec.channels >= spec.splits, "split transpose block: needs 2 or more splits of at ",
             "least one channel; got ", spec.splits, " splits of ", spec.channels, " channels");
  return (spec.channels + spec.splits - 1) / spec.splits;
}

}  // namespace

Mlp::Mlp(int64_t channels)
    : fc1_(child<Linear>("fc1", LinearSpec{.in = channels, .out = kMlpRatio * channels})),
      fc2_(child<Linear>("fc2", LinearSpec{.in = kMlpRatio * channels, .out = channels})) {}

Tensor Mlp::operator()(const Tensor& x) const { return fc2_(gelu(fc1_(x))); }

ConvBlock::ConvBlock(int64_t channels, int64_t kernel)
    : gamma_(param("gamma", full({channels}, kLayerScale))),
      conv_dw_(child<Conv2d>("conv_dw", Conv2dSpec::depthwise(channels, kernel))),
      norm_(child<LayerNorm>("norm", channels)),
      mlp_(child<Mlp>("mlp", channels)) {}

Tensor ConvBlock::operator()(const Tensor& x) const { return scaled_residual(x, mlp_(norm_(conv_dw_(x))), gamma_); }

CrossCovarianceAttention::CrossCovarianceAttention(int64_t channels, int64_t heads)
    : heads_(heads),
      temperature_(param("temperature", ones({heads, 1, 1}))),
      qkv_(child<Linear>("qkv", LinearSpec{.in = channels, .out = 3 * channels})),
      proj_(child<Linear>("proj", LinearSpec{.in = channels, .out = channels})) {
  CAMO_CHECK(heads > 0 && channels % heads == 0, "cross-covariance attention: heads must divide the channels; got ",
             heads, " heads, ", channels, " channels");
}

Tensor CrossCovarianceAttention::operator()(const Tensor& tokens) const {
  const OpScope scope("attention");
  const int64_t batch = tokens.size(0), length = tokens.size(1), channels = tokens.size(2);
  const Tensor qkv = reshape(qkv_(tokens), {batch, length, 3, heads_, channels / heads_});
  const Tensors parts = unstack(qkv, 2);
  const Tensor q = l2_normalize(parts[0], 1), k = l2_normalize(parts[1], 1), v = parts[2];  // [B, L, heads, d]
  const Tensor covariance = matmul(permute(q, {0, 2, 3, 1}), permute(k, {0, 2, 1, 3}));     // [B, heads, d, d]
  const Tensor attention = softmax(covariance * temperature_, -1);
  const Tensor mixed = matmul(permute(v, {0, 2, 1, 3}), transpose(attention, 2, 3));  // [B, heads, L, d]
  return proj_(reshape(permute(mixed, {0, 2, 1, 3}), {batch, length, channels}));
}

Tensor fourier_encoding(int64_t height, int64_t width, DType dtype, Device device) {
  // The published network computes this in float also when its weights are double; sine and cosine of the rounded
  // angle.
  constexpr float kTwoPi = static_cast<float>(2 * std::numbers::pi);
  constexpr float kGuard = 1e-6f;
  std::vector<float> period(kFrequencies);
  for (int64_t j = 0; j < kFrequencies; ++j) {
    period[static_cast<size_t>(j)] =
        static_cast<float>(std::pow(10000.0, static_cast<double>(j / 2 * 2) / static_cast<double>(kFrequencies)));
  }
  std::vector<float> values(static_cast<size_t>(height * width * 2 * kFrequencies));
  float* out = values.data();
  const auto write_half = [&](int64_t position, int64_t extent) {
    const float phase = static_cast<float>(position + 1) / (static_cast<float>(extent) + kGuard) * kTwoPi;
    for (int64_t j = 0; j < kFrequencies; ++j) {
      const double angle = phase / period[static_cast<size_t>(j)];
      *out++ = static_cast<float>(j % 2 == 0 ? std::sin(angle) : std::cos(angle));
    }
  };
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      write_half(y, height);
      write_half(x, width);
    }
  }
  return to(to(from_vector(values, {1, height, width, 2 * kFrequencies}, cpu), dtype), device);
}

FourierPositions::FourierPositions(int64_t channels)
    : token_projection_(child<Conv2d>("token_projection", Conv2dSpec{.in = 2 * kFrequencies, .out = channels})),
      weight_(token_projection_.parameters().front()) {}

Tensor FourierPositions::operator()(int64_t height, int64_t width) const {
  const auto encoding = [&] {
    const std::lock_guard lock(mutex_);
    const bool reusable = encoding_.defined() && encoding_.size(1) == height && encoding_.size(2) == width &&
                          encoding_.dtype() == weight_.dtype() && encoding_.device() == weight_.device();
    if (!reusable) encoding_ = fourier_encoding(height, width, weight_.dtype(), weight_.device());
    return encoding_;
  };
  return token_projection_(encoding());
}

SplitTransposeBlock::SplitTransposeBlock(const SplitTransposeSpec& spec)
    : gamma_xca_(param("gamma_xca", full({spec.channels}, kLayerScale))),
      gamma_(param("gamma", full({spec.channels}, kLayerScale))),
      convs_(child<ModuleList<Conv2d>>("convs")),
      pos_embd_(spec.positions ? &child<FourierPositions>("pos_embd", spec.channels) : nullptr),
      norm_xca_(child<LayerNorm>("norm_xca", spec.channels)),
      xca_(child<CrossCovarianceAttention>("xca", spec.channels, spec.heads)),
      norm_(child<LayerNorm>("norm", spec.channels)),
      mlp_(child<Mlp>("mlp", spec.channels)) {
  const int64_t width = part_size(spec);
  for (int64_t i = 0; i + 1 < spec.splits; ++i) convs_.append(Conv2dSpec::depthwise(width, 3));
}

Tensor SplitTransposeBlock::cascade(const Tensor& x) const {
  const int count = static_cast<int>(convs_.size());
  const Tensors parts = chunk(x, count + 1, 3);
  Tensors emitted;
  Tensor running = parts[0];
  for (int i = 0; i < count; ++i) {
    const size_t at = static_cast<size_t>(i);
    if (i > 0) running = running + parts[at];
    running = convs_[at](running);
    emitted.push_back(running);
  }
  emitted.push_back(parts.back());
  return concat(emitted, 3);
}

Tensor SplitTransposeBlock::operator()(const Tensor& x) const {
  const int64_t batch = x.size(0), height = x.size(1), width = x.size(2), channels = x.size(3);
  Tensor mixed = cascade(x);
  if (pos_embd_ != nullptr) mixed = mixed + (*pos_embd_)(height, width);
  const Tensor tokens = reshape(mixed, {batch, height * width, channels});
  const Tensor attended = scaled_residual(tokens, xca_(norm_xca_(tokens)), gamma_xca_);
  return scaled_residual(x, reshape(mlp_(norm_(attended)), x.shape()), gamma_);
}

}  // namespace camo
