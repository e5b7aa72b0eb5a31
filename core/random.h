// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// A number depends only on (seed, stream position), never on the thread or device that computes it.
#pragma once

#include <array>
#include <cstdint>

#include "core/half.h"
#include "core/tensor.h"

namespace camo {

/// Four 32-bit random words for a 64-bit key and a 128-bit counter.
CAMO_HOST_DEVICE inline std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

/// Uniform in [0, 1) from 32 random bits; exact in float (24 bits are used).
CAMO_HOST_DEVICE inline float uniform_from_bits(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

/// Names a block of random numbers: element i of the block is word i % 4 of philox(seed, i / 4, stream).
struct RandomKey {
  uint64_t seed = 0;
  uint64_t stream = 0;

  CAMO_HOST_DEVICE uint32_t bits(uint64_t i) const { return philox(seed, i / 4, stream)[i % 4]; }
  CAMO_HOST_DEVICE float uniform(uint64_t i) const { return uniform_from_bits(bits(i)); }
};

/// Hands out keys: each call of next() names a fresh block. Its whole state is two numbers.
class Generator {
 public:
  explicit Generator(uint64_t seed = 0) : key_{seed, 0} {}
  RandomKey next() { return {key_.seed, key_.stream++}; }
  RandomKey state() const { return key_; }
  void set_state(RandomKey state) { key_ = state; }

 private:
  RandomKey key_;
};

/// The generator of this thread that dropout, initialisers and random_*() take their keys from.
Generator& default_generator();
/// Restarts default_generator() of this thread.
void seed_everything(uint64_t seed);

/// Uniform in [low, high). This and the next two take one key of default_generator(); floating dtypes only.
Tensor random_uniform(const Shape& shape, double low = 0, double high = 1, DType dtype = f32,
                      Device device = default_device());
/// Normal with mean 0 and this deviation (Box-Muller).
Tensor random_normal(const Shape& shape, double deviation = 1, DType dtype = f32, Device device = default_device());
/// Normal with mean 0, redrawn beyond `cut` deviations.
Tensor random_truncated_normal(const Shape& shape, double deviation, double cut = 2, DType dtype = f32,
                               Device device = default_device());

}  // namespace camo
