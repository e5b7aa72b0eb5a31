#include "core/random.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/parallel.h"

namespace camo {

Generator& default_generator() {
  thread_local Generator generator;
  return generator;
}

void seed_everything(uint64_t seed) { default_generator() = Generator(seed); }

namespace {

/// The largest number of T below x, which T holds.
template <class T>
T next_below(T x) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) {  // sign and magnitude
    const float value = static_cast<float>(x);
    x.bits = static_cast<uint16_t>(value == 0 ? 0x8001 : value > 0 ? x.bits - 1 : x.bits + 1);
    return x;
  } else {
    return static_cast<T>(std::nextafter(x, -std::numeric_limits<T>::infinity()));
  }
}

struct Range {
  double low, high;
};

/// Fills a new tensor with value(key, i) computed in double; what rounds to range.high or above becomes the number
/// below.
template <class Fn>
Tensor random_tensor(const Shape& shape, DType dtype, Device device, const char* op, Fn value,
                     Range range = {-std::numeric_limits<double>::infinity(),
                                    std::numeric_limits<double>::infinity()}) {
  CAMO_CHECK(is_floating(dtype), op, ": needs a floating dtype; got ", dtype);
  const RandomKey key = default_generator().next();
  Tensor values =
      empty(shape, dtype, cpu);  // initialisation is no hot path: made on the host, the same on every device
  dispatch_all(dtype, [&]<class T>() {
    T* out = values.data<T>();
    parallel_for(values.numel(), 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        out[i] = convert<T>(value(key, static_cast<uint64_t>(i)));
        if (convert<double>(out[i]) >= range.high && range.low < range.high) {
          out[i] = convert<T>(std::max(convert<double>(next_below(out[i])), range.low));
        }
      }
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
  CAMO_CHECK(low <= high && std::isfinite(high - low),
             "random_uniform: low must not be above high, and both finite; got low ", low, ", high ", high);
  const auto value = [=](RandomKey key, uint64_t i) {
    return low + (high - low) * static_cast<double>(key.uniform(i));
  };
  return random_tensor(shape, dtype, device, "random_uniform", value, {low, high});
}

Tensor random_normal(const Shape& shape, double deviation, DType dtype, Device device) {
  CAMO_CHECK(deviation >= 0, "random_normal: the deviation must not be negative; got ", deviation);
  return random_tensor(shape, dtype, device, "random_normal", [=](RandomKey key, uint64_t i) {
    const auto words = philox(key.seed, i / 2, key.stream);
    return deviation * box_muller(words[0], words[1])[i % 2];
  });
}

Tensor random_truncated_normal(const Shape& shape, double deviation, double cut, DType dtype, Device device) {
  CAMO_CHECK(deviation >= 0, "random_truncated_normal: the deviation must not be negative; got ", deviation);
  constexpr double kLeastCut = 0.01;  // of which 1 draw in 125 lies within
  CAMO_CHECK(cut >= kLeastCut, "random_truncated_normal: cut must be at least ", kLeastCut, "; got ", cut);
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
