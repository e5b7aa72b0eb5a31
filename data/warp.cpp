#include "data/warp.h"

#include <cmath>
#include <cstring>

namespace camo {
namespace {

// The picture and its mask in one word a pixel: a tap of the warp is one load.
std::vector<uint32_t> pack(const ResizedSample& sample) {
  std::vector<uint32_t> packed(sample.mask.pixels.size());
  const uint8_t* from = sample.image.pixels.data();
  const uint8_t* mask = sample.mask.pixels.data();
  for (size_t i = 0; i < packed.size(); ++i, from += 3)
    packed[i] = from[0] | uint32_t{from[1]} << 8 | uint32_t{from[2]} << 16 | uint32_t{mask[i]} << 24;
  return packed;
}

// Folds a coordinate into [0, last], as if the picture went on mirrored at its first and last pixel.
struct Fold {
  float last, period, inverse;
  explicit Fold(int size) : last(static_cast<float>(size - 1)), period(2 * last), inverse(size > 1 ? 1 / period : 0) {}
  float operator()(float at) const {
    at = std::fabs(at);
    at -= period * static_cast<float>(static_cast<int>(at * inverse));
    const float folded = last - std::fabs(at - last);
    return folded > 0 ? folded : 0;  // rounding may leave it a little below, and a size of 1 anywhere
  }
};

// One row: no branch and no call, so that the compiler makes vector code of it.
void warp_row(const uint32_t* __restrict packed, int size, float xx, float yx, float x0, float y0,
              uint32_t* __restrict out) {
  const Fold fold(size);
  const int last = size - 1;
  for (int x = 0; x < size; ++x) {
    const float at_x = fold(xx * static_cast<float>(x) + x0), at_y = fold(yx * static_cast<float>(x) + y0);
    const int left = static_cast<int>(at_x) < last ? static_cast<int>(at_x) : last;
    const int upper = static_cast<int>(at_y) < last ? static_cast<int>(at_y) : last;
    const int right = left < last ? left + 1 : last, lower = upper < last ? upper + 1 : last;
    const float fx = at_x - static_cast<float>(left), fy = at_y - static_cast<float>(upper);
    const uint32_t a = packed[upper * size + left], b = packed[upper * size + right];
    const uint32_t c = packed[lower * size + left], d = packed[lower * size + right];
    const auto blend = [&](int shift) {
      const auto value = [shift](uint32_t word) { return static_cast<float>(static_cast<int>(word >> shift & 0xff)); };
      const float top = value(a) + fx * (value(b) - value(a)), bottom = value(c) + fx * (value(d) - value(c));
      return static_cast<uint32_t>(static_cast<int>(top + fy * (bottom - top) + 0.5f)) << shift;
    };
    const uint32_t above = fx < 0.5f ? a : b, below = fx < 0.5f ? c : d;
    out[x] = blend(0) | blend(8) | blend(16) | ((fy < 0.5f ? above : below) & 0xff000000u);
  }
}

}  // namespace

AffineMap affine_map(const Augmentation& turned, double angle, double scale, double shift_x, double shift_y, int size) {
  // From an output pixel back: undo the move, the scale and the turn around the centre.
  const double centre = (size - 1) / 2.0;
  const double cosine = std::cos(angle) / scale, sine = std::sin(angle) / scale;
  // On the screen y points down, so this turns counter-clockwise as one sees it.
  const AffineMap free{.xx = cosine,
                       .xy = -sine,
                       .x0 = centre - cosine * (centre + shift_x * size) + sine * (centre + shift_y * size),
                       .yx = sine,
                       .yy = cosine,
                       .y0 = centre - sine * (centre + shift_x * size) - cosine * (centre + shift_y * size)};
  // Then the walk of the mirror and quarter turns: steps of +-1 go along x, of +-size along y.
  const PixelWalk walk = walk_of(turned, size);
  const auto across = [&](int step) { return step == 1 || step == -1 ? double(step) : 0.0; };
  const auto down = [&](int step) { return step == size || step == -size ? double(step / size) : 0.0; };
  if (size == 1) return {};
  const double xx = across(walk.step_x), xy = across(walk.step_y), yx = down(walk.step_x), yy = down(walk.step_y);
  return {.xx = xx * free.xx + xy * free.yx,
          .xy = xx * free.xy + xy * free.yy,
          .x0 = xx * free.x0 + xy * free.y0 + walk.start % size,
          .yx = yx * free.xx + yy * free.yx,
          .yy = yx * free.xy + yy * free.yy,
          .y0 = yx * free.x0 + yy * free.y0 + walk.start / size};
}

ResizedSample warp(const ResizedSample& sample, const AffineMap& map) {
  const int size = sample.image.width;
  const std::vector<uint32_t> packed = pack(sample);
  std::vector<uint32_t> row(static_cast<size_t>(size));
  ResizedSample out{Image(size, size, 3), Image(size, size, 1)};
  for (int y = 0; y < size; ++y) {
    warp_row(packed.data(), size, static_cast<float>(map.xx), static_cast<float>(map.yx),
             static_cast<float>(map.xy * y + map.x0), static_cast<float>(map.yy * y + map.y0), row.data());
    uint8_t* to = out.image.row(y);
    uint8_t* mask = out.mask.row(y);
    for (size_t x = 0; x < row.size(); ++x, to += 3) {
      to[0] = static_cast<uint8_t>(row[x]);
      to[1] = static_cast<uint8_t>(row[x] >> 8);
      to[2] = static_cast<uint8_t>(row[x] >> 16);
      mask[x] = static_cast<uint8_t>(row[x] >> 24);
    }
  }
  return out;
}

ResizedSample turn(const ResizedSample& sample, const Augmentation& augmentation) {
  if (augmentation == Augmentation{}) return sample;
  const int size = sample.image.width;
  const PixelWalk walk = walk_of(augmentation, size);
  ResizedSample out{Image(size, size, 3), Image(size, size, 1)};
  uint8_t* to = out.image.pixels.data();
  uint8_t* mask = out.mask.pixels.data();
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x, to += 3) {
      const int64_t source = walk.start + int64_t{y} * walk.step_y + int64_t{x} * walk.step_x;
      std::memcpy(to, sample.image.pixels.data() + 3 * source, 3);
      *mask++ = sample.mask.pixels[static_cast<size_t>(source)];
    }
  }
  return out;
}

}  // namespace camo
