// Procedural natural textures: colours as functions of position, the same at every resolution.
#pragma once

#include <array>
#include <cstdint>

#include "core/random.h"

namespace camo {

/// Numbers in the order of drawing from a RandomKey.
class Draws {
 public:
  explicit Draws(RandomKey key) : key_(key) {}
  double uniform(double low, double high) { return low + (high - low) * static_cast<double>(key_.uniform(at_++)); }
  uint32_t bits() { return key_.bits(at_++); }
  /// One of 0..count-1.
  int pick(int count) { return static_cast<int>(uint64_t{bits()} * static_cast<uint64_t>(count) >> 32); }
  bool chance(double probability) { return uniform(0, 1) < probability; }

 private:
  RandomKey key_;
  uint64_t at_ = 0;
};

using Colour = std::array<float, 3>;  // RGB in [0, 1]

enum class TextureKind { rock, stripes, pebbles, leaves };
inline constexpr int kTextureKinds = 4;

/// A random texture of its own: kind, palette, grain and direction are drawn once.
class Texture {
 public:
  explicit Texture(Draws& draws);
  TextureKind kind() const { return kind_; }
  /// Colour at a point; the picture's longer side spans one unit.
  Colour at(float x, float y) const;

 private:
  Colour blend(float value, float tint) const;
  Colour pebbles(float x, float y) const;
  Colour leaves(float x, float y) const;

  TextureKind kind_;
  std::array<Colour, 3> palette_;  // dark, middle, light
  uint32_t seed_;
  float grain_;  // features per unit
  float cos_, sin_;
};

}  // namespace camo
