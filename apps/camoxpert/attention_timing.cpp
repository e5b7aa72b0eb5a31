#include "apps/camoxpert/attention_timing.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "apps/camoxpert/max_or_nan.h"
#include "core/autograd.h"
#include "core/random.h"
#include "ops/elementwise.h"
#include "ops/math_mode.h"
#include "ops/shape_ops.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/graph.h"
#include "core/cuda/runtime.h"
#endif

namespace camo::app {

namespace {

/// One set of inputs; q, k and v are leaves, or slices of the leaf `fused`.
struct Inputs {
  Tensor fused, q, k, v, dy, y;

  Inputs(const AttentionShape& shape, DType dtype, Device device, AttentionInput input) {
    const auto normal = [&](const Shape& extents) { return random_normal(extents, 1, dtype, device); };
    const Shape tokens{shape.batch, shape.tokens, shape.heads, shape.width};
    dy = normal(tokens);
    if (input == AttentionInput::dense) {
      q = normal(tokens);
      k = normal(tokens);
      v = normal(tokens);
    } else {
      fused = normal({shape.batch, shape.tokens, 3, shape.heads, shape.width});
      fused.set_requires_grad(true);
    }
    for (const Tensor& x : {q, k, v}) {
      if (x.defined()) x.set_requires_grad(true);
    }
  }
  Tensor forward(const AttentionOptions& options) const {
    if (!fused.defined()) return scaled_dot_product_attention(q, k, v, options);
    const Tensors parts = unstack(fused, 2);  // as the layers do
    return scaled_dot_product_attention(parts[0], parts[1], parts[2], options);
  }
  void backward_again() const {
    backward(y, dy, {.retain_graph = true});
    for (const Tensor& x : {q, k, v, fused}) {
      if (x.defined()) x.set_grad({});
    }
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Median milliseconds of work(i) for i in [0, count), one after the other.
double milliseconds_of([[maybe_unused]] Device device, size_t count, double seconds,
                       const std::function<void(size_t)>& work) {
  const auto all = [&] {
    for (size_t i = 0; i < count; ++i) work(i);
  };
  all();  // makes plans, and fills the allocator's cache
  wait_for(device);
  std::vector<double> times;
  const Clock::time_point begin = Clock::now();
  const auto enough = [&] { return times.size() >= 3 && (seconds_since(begin) > seconds || times.size() >= 200); };
#ifdef CAMO_WITH_CUDA
  if (device.is_cuda()) {
    const cuda::Graph graph(device, all);
    cuda::Event start(true), stop(true);
    graph.launch();
    while (!enough()) {
      start.record(cuda::use(device));
      graph.launch();
      stop.record(cuda::use(device));
      stop.synchronize();
      times.push_back(static_cast<double>(stop.milliseconds_since(start)) / static_cast<double>(count));
    }
    return median(std::move(times));
  }
#endif
  while (!enough()) {
    const Clock::time_point start = Clock::now();
    all();
    times.push_back(1e3 * seconds_since(start) / static_cast<double>(count));
  }
  return median(std::move(times));
}

[[maybe_unused]] double round_up(int64_t value, int64_t step) {
  return static_cast<double>((value + step - 1) / step * step);
}

double largest_difference(const Tensor& got, const Tensor& expected, bool relative) {
  const auto a = got.to_vector<double>(), b = expected.to_vector<double>();
  double worst = 0, scale = 1;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    worst = max_or_nan(worst, difference);
    scale = std::max(scale, std::abs(b[i]));
  }
  return relative ? worst / scale : worst;
}

}  // namespace

std::string AttentionShape::text() const { return fmt::format("B{} H{} N{} D{}", batch, heads, tokens, width); }

AttentionTiming time_attention(const AttentionShape& shape, DType dtype, Device device, AttentionBackend backend,
                               AttentionInput input, double seconds) {
  constexpr int64_t kCache = int64_t{192} << 20;  // beyond the L2 cache of any GPU
  const int64_t bytes = 4 * shape.batch * shape.tokens * shape.heads * shape.width * size_in_bytes(dtype);
  const int64_t sets = device.is_cuda() ? std::clamp<int64_t>(kCache / bytes, 1, 32) : 1;
  const AttentionOptions options{.backend = backend};
  std::vector<Inputs> inputs;
  for (int64_t i = 0; i < sets; ++i) inputs.emplace_back(shape, dtype, device, input);

  AttentionTiming result;
  {
    const int64_t before = memory_stats(device).live_bytes;
    reset_peak_memory(device);
    inputs[0].y = inputs[0].forward(options);
    inputs[0].backward_again();
    result.peak_bytes = memory_stats(device).peak_bytes - before;
  }
  {
    const NoGrad guard;
    result.forward_ms = milliseconds_of(device, inputs.size(), seconds, [&](size_t i) { inputs[i].forward(options); });
  }
  for (Inputs& set : inputs) set.y = set.forward(options);
  result.backward_ms = milliseconds_of(device, inputs.size(), seconds, [&](size_t i) { inputs[i].backward_again(); });
  return result;
}

AttentionError attention_error(const AttentionShape& shape, DType dtype, Device device, AttentionBackend backend) {
  const AttentionShape one{1, shape.tokens, 1, shape.width};
  const auto run = [&](const Inputs& in, AttentionBackend with) {
    backward(in.forward({.backend = with}), in.dy);
    const NoGrad guard;
    return Tensors{in.forward({.backend = with}), in.q.grad(), in.k.grad(), in.v.grad()};
  };
  const Inputs narrow(one, dtype, device, AttentionInput::dense);
  Inputs wide = narrow;
  for (Tensor* x : {&wide.q, &wide.k, &wide.v, &wide.dy}) *x = to(x->detach(), f64);
  for (const Tensor& x : {wide.q, wide.k, wide.v}) x.set_requires_grad(true);
  const Tensors got = run(narrow, backend), expected = run(wide, AttentionBackend::math);
  AttentionError error{largest_difference(got[0], expected[0], false), 0};
  for (size_t i = 1; i < 4; ++i) {
    error.gradient = max_or_nan(error.gradient, largest_difference(got[i], expected[i], true));
  }
  return error;
}

AttentionFloor attention_floor([[maybe_unused]] const AttentionShape& shape, [[maybe_unused]] DType dtype,
                               [[maybe_unused]] Device device) {
  AttentionFloor floor;
#ifdef CAMO_WITH_CUDA
  if (!device.is_cuda() || dtype == f64) return floor;
  const cuda::DeviceInfo& info = cuda::device_info(device);
  if (info.major != 9) return floor;
  // A multiprocessor of Hopper does 4096 16-bit operations a clock; 1.70 GHz is what it holds under such load. Memory:
  // 3.35 TB/s of the H100, 4.8 TB/s of the H200, which is told by its size.
  const double clocks = 1.70e9 * info.multiprocessors, operations = 4096 * clocks, exponentials = 25.35 * clocks;
  const double bandwidth = info.total_bytes > int64_t{100} << 30 ? 4.8e12 : 3.35e12;
  const auto scores = static_cast<double>(shape.scores());
  const double products = dtype == f32 && !allow_tf32() ? 3 : 1;
  const double deep = round_up(shape.width, 16), wide = round_up(shape.width, 8);
  const double tensor_bytes =
      static_cast<double>(shape.batch * shape.tokens * shape.heads * shape.width * size_in_bytes(dtype));
  const auto longest = [&](double depth, double tensors) {
    return 1e3 * std::max({2 * products * scores * depth / operations, scores / exponentials,
                           tensors * tensor_bytes / bandwidth});
  };
  floor.forward_ms = longest(deep + wide, 4);
  floor.backward_ms = longest(2 * deep + 3 * wide, 8);
#endif
  return floor;
}

}  // namespace camo::app
