// What an operation must do at least: arithmetic, and bytes to and from memory.
#pragma once

#include <span>
#include <string>
#include <unordered_map>

#include "core/op_observer.h"
#include "core/tensor.h"

namespace camo::app {

struct OpCost {
  double product_flops = 0;  // of matrix products and convolutions: two a multiplication with addition
  double bytes = 0;          // each input read once, each result written once

  OpCost& operator+=(const OpCost& other) {
    product_flops += other.product_flops;
    bytes += other.bytes;
    return *this;
  }
};

OpCost forward_cost(const std::string& op, std::span<const Tensor> outputs, std::span<const Tensor> inputs);
/// Reads the inputs and the gradients of the outputs, writes the gradients of the inputs that want one.
OpCost backward_cost(const std::string& op, std::span<const Tensor> outputs, std::span<const Tensor> inputs);

/// How fast a device is at best, measured: products of matrices in the precision that is set, and copies.
struct Peaks {
  double flops_per_second = 0, bytes_per_second = 0;
  /// Milliseconds below which nothing of this cost can be.
  double floor_ms(const OpCost& cost) const;
};
Peaks measure_peaks(Device device, DType dtype);

/// Adds up the floors of what this thread records and differentiates during its life.
class FloorObserver final : public OpObserver {
 public:
  explicit FloorObserver(const Peaks& peaks) : peaks_(peaks) { observe_ops(this); }
  ~FloorObserver() override { observe_ops(nullptr); }

  double floor_ms() const { return floor_ms_; }

  void recorded(const Node& node, std::span<const Tensor> outputs, std::span<const Tensor> inputs) override;
  void backward_begins(const Node&) override {}
  void backward_ended(const Node& node) override;

 private:
  Peaks peaks_;
  double floor_ms_ = 0;
  std::unordered_map<uint64_t, double> backward_floors_;  // by the node's sequence number
};

/// Waits until the device has done everything.
void wait_for(Device device);

}  // namespace camo::app
