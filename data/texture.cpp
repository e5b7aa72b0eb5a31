#include "data/texture.h"

#include <algorithm>
#include <cmath>

namespace camo {
namespace {

// Dark, middle and light colour of: dry sand, moss, bark, grey stone, leaf litter, reef, lichen.
constexpr std::array<std::array<Colour, 3>, 7> kPalettes = {
    {{{{.42f, .33f, .22f}, {.66f, .55f, .40f}, {.86f, .78f, .62f}}},
     {{{.12f, .18f, .08f}, {.29f, .38f, .16f}, {.55f, .60f, .32f}}},
     {{{.16f, .11f, .08f}, {.36f, .27f, .20f}, {.58f, .48f, .38f}}},
     {{{.22f, .22f, .23f}, {.45f, .45f, .44f}, {.70f, .69f, .66f}}},
     {{{.23f, .14f, .07f}, {.50f, .33f, .16f}, {.74f, .58f, .34f}}},
     {{{.10f, .20f, .26f}, {.30f, .42f, .42f}, {.68f, .66f, .52f}}},
     {{{.24f, .26f, .20f}, {.48f, .52f, .42f}, {.76f, .78f, .66f}}}}};

// A well mixed hash of a lattice point, as a number in [0, 1).
float lattice(int x, int y, uint32_t seed) {
  uint32_t h = static_cast<uint32_t>(x) * 0x8da6b343u ^ static_cast<uint32_t>(y) * 0xd8163841u ^ seed;
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  h ^= h >> 16;
  return uniform_from_bits(h);
}

// Smooth noise in [0, 1) with one feature per unit.
float value_noise(float x, float y, uint32_t seed) {
  const float fx = std::floor(x), fy = std::floor(y);
  const int ix = static_cast<int>(fx), iy = static_cast<int>(fy);
  const auto smooth = [](float t) { return t * t * (3 - 2 * t); };
  const float u = smooth(x - fx), v = smooth(y - fy);
  const float top = std::lerp(lattice(ix, iy, seed), lattice(ix + 1, iy, seed), u);
  const float bottom = std::lerp(lattice(ix, iy + 1, seed), lattice(ix + 1, iy + 1, seed), u);
  return std::lerp(top, bottom, v);
}

// Octaves of noise, each of twice the frequency and about half the amplitude; in [0, 1).
float fractal_noise(float x, float y, uint32_t seed, int octaves) {
  float sum = 0, amplitude = 1, total = 0;
  for (int i = 0; i < octaves; ++i) {
    sum += amplitude * value_noise(x, y, seed + static_cast<uint32_t>(i) * 0x9e3779b9u);
    total += amplitude;
    amplitude *= 0.55f;
    // A turn between octaves hides the lattice.
    const float turned = 1.6f * x + 1.2f * y;
    y = -1.2f * x + 1.6f * y;
    x = turned;
  }
  return sum / total;
}

float sharpen(float value, float contrast) { return std::clamp(0.5f + (value - 0.5f) * contrast, 0.f, 1.f); }

}  // namespace

Texture::Texture(Draws& draws) : kind_(static_cast<TextureKind>(draws.pick(kTextureKinds))) {
  palette_ = kPalettes[static_cast<size_t>(draws.pick(static_cast<int>(kPalettes.size())))];
  for (Colour& colour : palette_)
    for (float& channel : colour)
      channel = std::clamp(channel + static_cast<float>(draws.uniform(-.05, .05)), 0.f, 1.f);
  seed_ = draws.bits();
  grain_ = static_cast<float>(draws.uniform(9, 18));
  const double angle = draws.uniform(0, 6.2831853);
  cos_ = static_cast<float>(std::cos(angle));
  sin_ = static_cast<float>(std::sin(angle));
}

Colour Texture::blend(float value, float tint) const {
  const bool upper = value > 0.5f;
  const float t = upper ? 2 * value - 1 : 2 * value;
  Colour out;
  for (size_t c = 0; c < 3; ++c) {
    out[c] = std::lerp(palette_[upper ? 1 : 0][c], palette_[upper ? 2 : 1][c], t);
    out[c] *= 1 + (c == 0 ? 0.10f : c == 2 ? -0.10f : 0.f) * (2 * tint - 1);
  }
  return out;
}

Colour Texture::pebbles(float x, float y) const {
  const int cell_x = static_cast<int>(std::floor(x)), cell_y = static_cast<int>(std::floor(y));
  float nearest = 9, second = 9, shade = 0;
  for (int j = cell_y - 1; j <= cell_y + 1; ++j) {
    for (int i = cell_x - 1; i <= cell_x + 1; ++i) {
      const float dx = static_cast<float>(i) + lattice(i, j, seed_) - x;
      const float dy = static_cast<float>(j) + lattice(i, j, seed_ ^ 0x51u) - y;
      const float distance = std::sqrt(dx * dx + dy * dy);
      if (distance < nearest) {
        second = nearest;
        nearest = distance;
        shade = lattice(i, j, seed_ ^ 0xa7u);
      } else {
        second = std::min(second, distance);
      }
    }
  }
  const float gap = std::clamp((second - nearest) * 5, 0.f, 1.f);  // 0 on the borders between pebbles
  const float value = (0.25f + 0.65f * shade) * gap + 0.12f * fractal_noise(3 * x, 3 * y, seed_ ^ 0x3cu, 3);
  return blend(std::clamp(value, 0.f, 1.f), shade);
}

Colour Texture::leaves(float x, float y) const {
  Colour out = blend(0.35f * fractal_noise(x, y, seed_, 4), 0.5f);
  // Two layers of leaves, one per lattice cell; the later covers the earlier.
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const uint32_t seed = seed_ + 0x1000u * (layer + 1);
    const float px = x + 0.5f * static_cast<float>(layer), py = y + 0.5f * static_cast<float>(layer);
    const int cell_x = static_cast<int>(std::floor(px)), cell_y = static_cast<int>(std::floor(py));
    for (int j = cell_y - 1; j <= cell_y + 1; ++j) {
      for (int i = cell_x - 1; i <= cell_x + 1; ++i) {
        const float dx = px - static_cast<float>(i) - lattice(i, j, seed);
        const float dy = py - static_cast<float>(j) - lattice(i, j, seed ^ 0x51u);
        // Leaves lean around the texture's own direction.
        const float lean = 2.2f * (lattice(i, j, seed ^ 0x77u) - 0.5f);
        const float along = dx * std::cos(lean) + dy * std::sin(lean);
        const float across = dy * std::cos(lean) - dx * std::sin(lean);
        const float outline = 0.26f * (1 - (along / 0.75f) * (along / 0.75f));  // half width of the leaf here
        if (std::abs(along) >= 0.75f || std::abs(across) >= outline) continue;
        const float shade = lattice(i, j, seed ^ 0xa7u);
        float value = 0.25f + 0.6f * shade + 0.25f * (across / 0.26f) * 0.5f;
        if (std::abs(across) < 0.025f) value += 0.15f;  // midrib
        out = blend(std::clamp(value, 0.f, 1.f), lattice(i, j, seed ^ 0x19u));
      }
    }
  }
  return out;
}

Colour Texture::at(float x, float y) const {
  const float u = grain_ * (cos_ * x + sin_ * y), v = grain_ * (cos_ * y - sin_ * x);
  switch (kind_) {
    case TextureKind::stripes: {
      const float warp = 1.6f * fractal_noise(0.35f * u, 0.35f * v, seed_, 3);
      const float wave = 0.5f + 0.5f * std::sin(6.2831853f * (0.6f * u + warp));
      const float fibre = fractal_noise(3 * u, 0.5f * v, seed_ ^ 0x33u, 4);
      return blend(sharpen(0.55f * wave + 0.45f * fibre, 1.3f), fractal_noise(0.3f * u, 0.3f * v, seed_ ^ 0x91u, 2));
    }
    case TextureKind::pebbles: return pebbles(0.9f * u, 0.9f * v);
    case TextureKind::leaves: return leaves(0.8f * u, 0.8f * v);
    default: {
      const float value = fractal_noise(0.7f * u, 0.7f * v, seed_, 5);
      return blend(sharpen(value, 2.f), fractal_noise(0.4f * u, 0.4f * v, seed_ ^ 0x91u, 3));
    }
  }
}

}  // namespace camo
