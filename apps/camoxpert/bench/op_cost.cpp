#include "apps/camoxpert/bench/op_cost.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "core/autograd.h"
#include "core/random.h"
#include "ops/ops.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#endif

namespace camo::app {

namespace {

double bytes_of(const Tensor& x) { return x.defined() ? static_cast<double>(x.numel() * size_in_bytes(x.dtype())) : 0; }

double total_bytes(std::span<const Tensor> tensors) {
  double bytes = 0;
  for (const Tensor& x : tensors) bytes += bytes_of(x);
  return bytes;
}

/// Of one product as large as the forward.
double product_flops(const std::string& op, std::span<const Tensor> outputs, std::span<const Tensor> inputs) {
  const auto results = static_cast<double>(outputs[0].numel());
  if (op == "conv2d") return 2 * results * static_cast<double>(inputs[1].numel() / inputs[1].size(0));
  if (op == "linear" || op == "matmul") return 2 * results * static_cast<double>(inputs[0].size(-1));
  // [B, tokens, heads, D]: scores, and their product with the values.
  if (op == "scaled_dot_product_attention") return 4 * results * static_cast<double>(inputs[1].size(1));
  return 0;
}

}  // namespace

OpCost forward_cost(const std::string& op, std::span<const Tensor> outputs, std::span<const Tensor> inputs) {
  return {product_flops(op, outputs, inputs), total_bytes(inputs) + total_bytes(outputs)};
}

OpCost backward_cost(const std::string& op, std::span<const Tensor> outputs, std::span<const Tensor> inputs) {
  OpCost cost{0, total_bytes(inputs) + total_bytes(outputs)};
  int factors = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined() || !inputs[i].requires_grad()) continue;
    cost.bytes += bytes_of(inputs[i]);
    if (i < 2) ++factors;
  }
  if (op == "scaled_dot_product_attention") factors = 2;  // four products for the forward's two
  cost.product_flops = factors * product_flops(op, outputs, inputs);
  return cost;
}

double Peaks::floor_ms(const OpCost& cost) const {
  return 1e3 * std::max(cost.product_flops / flops_per_second, cost.bytes / bytes_per_second);
}

void FloorObserver::recorded(const Node& node, std::span<const Tensor> outputs, std::span<const Tensor> inputs) {
  floor_ms_ += peaks_.floor_ms(forward_cost(node.name(), outputs, inputs));
  backward_floors_[node.sequence()] = peaks_.floor_ms(backward_cost(node.name(), outputs, inputs));
}

void FloorObserver::backward_ended(const Node& node) {
  const auto found = backward_floors_.find(node.sequence());
  if (found != backward_floors_.end()) floor_ms_ += found->second;
}

void wait_for([[maybe_unused]] Device device) {
#ifdef CAMO_WITH_CUDA
  if (device.is_cuda()) cuda::synchronize(device);
#endif
}

Peaks measure_peaks(Device device, DType dtype) {
  const NoGrad no_grad;
  // Sizes that fill a GPU for milliseconds, or a CPU for tenths of a second.
  const int64_t side = device.is_cuda() ? 8192 : 1024, copied = device.is_cuda() ? int64_t{1} << 30 : int64_t{1} << 26;
  const auto fastest = [&](auto&& run) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 6; ++i) {  // the first also makes plans
      wait_for(device);
      const auto begin = std::chrono::steady_clock::now();
      run();
      wait_for(device);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return best;
  };
  Peaks peaks;
  {
    const auto factor = [&] { return to(to(random_uniform({side, side}, -1, 1, f32, cpu), device), dtype); };
    const Tensor a = factor(), b = factor();
    const auto cubed = static_cast<double>(side * side * side);
    peaks.flops_per_second = 2 * cubed / fastest([&] { linear(a, b, {}); });
  }
  const Tensor source = full({copied / 4}, 1, f32, device), target = empty({copied / 4}, f32, device);
  peaks.bytes_per_second = 2 * static_cast<double>(copied) / fastest([&] { copy_into(target, source); });
  return peaks;
}

}  // namespace camo::app
