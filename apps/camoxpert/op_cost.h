// What an operation must do at least: arithmetic, and bytes to and from memory.
#pragma once

#include <span>
#include <string>

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

/// Waits until the device has done everything.
void wait_for(Device device);

}  // namespace camo::app
