#include "core/random.h"

#include <cmath>
#include <numbers>

#include "core/parallel.h"

namespace camo {

Generator& default_generator() {
  thread_local Generator generator;
  return generator;
}

void seed_everything(uint64_t seed) { default_generator() = Generator(seed); }

namespace {

/// Fills a new tensor with value(key, i) computed in double.
template <class Fn>
Tensor random_tensor(const Shape& shape, DType dtype, Device device, const char* op, Fn value) {
  CAMO_CHECK(is_floating(dtype), op, ": needs a floating dtype; got ", dtype);
  const RandomKey key = default_generator().next();
  Tensor values =
      empty(shape, dtype, cpu);  // initialisation is no hot path: made on the host, the same on every device
  dispatch_all(dtype, [&]<class T>() {
    T* out = values.data<T>();
    parallel_for(values.numel(), 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = convert<T>(value(key, static_cast<uint64_t>(i)));
    });
  });
  if (device.is_cpu()) return values;
  Tensor moved = empty(shape, dtype, device);
  copy_into(moved, values);
  return moved;
}

/// In (0, 1), with 32 bits.
double open_uniform(uint32_t bits) { return (static_cast<double>(bits) + 0.5) * 0x1p-32; }

/// Two normal numbers from two uniform ones (Box and Muller, 1958).
std::array<double, 2> box_muller(uint32_t bits_a, uint32_t bits_b) {
  const double radius = std::sqrt(-2 * std::log(open_uniform(bits_a)));
  const double angle = 2 * std::numbers::pi * open_uniform(bits_b);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace

Tensor random_uniform(const Shape& shape, double low, double high, DType dtype, Device device) {
  return random_tensor(shape, dtype, device, "random_uniform", [=](RandomKey key, uint64_t i) {
    return low + (high - low) * static_cast<double>(key.uniform(i));
  });
}

Tensor random_normal(const Shape& shape, double deviation, DType dtype, Device device) {
  return random_tensor(shape, dtype, device, "random_normal", [=](RandomKey key, uint64_t i) {
    const auto words = philox(key.seed, i / 2, key.stream);
    return deviation * box_muller(words[0], words[1])[i % 2];
  });
}

Tensor random_truncated_normal(const Shape& shape, double deviation, double cut, DType dtype, Device device) {
  CAMO_CHECK(cut > 0, "random_truncated_normal: cut must be above 0; got ", cut);
  return random_tensor(shape, dtype, device, "random_truncated_normal", [=](RandomKey key, uint64_t i) {
    for (uint64_t attempt = 0;; ++attempt) {  // attempts draw from counters that no element index reaches
      const auto words = philox(key.seed, i + (attempt << 48), key.stream);
      for (const auto& pair : {box_muller(words[0], words[1]), box_muller(words[2], words[3])}) {
        for (double z : pair) {
          if (std::abs(z) <= cut) return deviation * z;
        }
      }
    }
  });
}

}  // namespace camo
