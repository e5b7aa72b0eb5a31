#include "data/synthetic.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>

#include "core/error.h"
#include "core/parallel.h"
#include "data/texture.h"

namespace camo {
namespace {

constexpr uint64_t kSceneDraws = 0x7363656e65;         // "scene"
constexpr int64_t kFirstTestIndex = int64_t{1} << 32;  // test scenes never repeat training scenes
constexpr double kTau = 6.283185307179586;

// A closed smooth outline around a centre: an ellipse whose radius swings with the angle.
class Blob {
 public:
  Blob(Draws& draws, double width, double height) {
    const double side = std::min(width, height);
    radius_ = draws.uniform(0.13, 0.25) * side;
    stretch_ = draws.uniform(1.0, 1.7);
    x_ = draws.uniform(0.18, 0.82) * width;
    y_ = draws.uniform(0.18, 0.82) * height;
    const double angle = draws.uniform(0, kTau);
    cos_ = std::cos(angle);
    sin_ = std::sin(angle);
    for (size_t k = 0; k < kSwings; ++k) {
      amplitude_[k] = draws.uniform(0.3, 1) * 0.34 / static_cast<double>(k + 2);
      phase_[k] = draws.uniform(0, kTau);
    }
  }

  struct Place {
    double inside;                        // distance to the outline, positive inside (approximate)
    double from_centre_x, from_centre_y;  // relative to the radius: about -1..1 inside
  };
  Place place(double x, double y) const {
    const double dx = x - x_, dy = y - y_;
    const double along = (cos_ * dx + sin_ * dy) / std::sqrt(stretch_);
    const double across = (cos_ * dy - sin_ * dx) * std::sqrt(stretch_);
    const double angle = std::atan2(across, along);
    double outline = 1;
    for (size_t k = 0; k < kSwings; ++k)
      outline += amplitude_[k] * std::sin(static_cast<double>(k + 2) * angle + phase_[k]);
    return {radius_ * outline - std::hypot(along, across), dx / radius_, dy / radius_};
  }

 private:
  static constexpr size_t kSwings = 4;
  double x_, y_, radius_, stretch_, cos_, sin_;
  std::array<double, kSwings> amplitude_{}, phase_{};
};

struct CamouflagedObject {
  CamouflagedObject(Draws& draws, double width, double height, double cue) : blob(draws, width, height) {
    const double turn = (draws.chance(0.5) ? 1 : -1) * draws.uniform(0.7, 1.9);
    const double scale = draws.chance(0.5) ? draws.uniform(0.6, 0.8) : draws.uniform(1.3, 1.6);
    cos = static_cast<float>(std::cos(turn) * scale);
    sin = static_cast<float>(std::sin(turn) * scale);
    shift_x = static_cast<float>(draws.uniform(3, 9));
    shift_y = static_cast<float>(draws.uniform(3, 9));
    tone = 1 + cue * (draws.chance(0.5) ? 1 : -1) * draws.uniform(0.08, 0.18);
    warmth = cue * draws.uniform(-0.05, 0.05);
    shading = cue * draws.uniform(0.1, 0.22);
    contour = cue * draws.uniform(0.2, 0.45);
    shadow = cue * draws.uniform(0.1, 0.25);
  }

  Blob blob;
  float cos, sin, shift_x, shift_y;  // where on the scene's texture the object's skin comes from
  double tone, warmth, shading, contour, shadow;
};

void check(const SyntheticOptions& options) {
  CAMO_CHECK_CODE(usage, options.width >= 8 && options.height >= 8 && options.width <= 8192 && options.height <= 8192,
                  "synthetic: a picture's sides must be within 8 and 8192; got ", options.width, " x ", options.height);
  CAMO_CHECK_CODE(usage, options.cue >= 0 && options.cue <= 1, "synthetic: cue must be within 0 and 1; got ",
                  options.cue);
}

}  // namespace

LoadedSample make_synthetic_sample(const SyntheticOptions& options, int64_t index) {
  check(options);
  const auto words = philox(options.seed, static_cast<uint64_t>(index), kSceneDraws);
  Draws draws({uint64_t{words[0]} << 32 | words[1], 0});

  const double unit = 1.0 / std::max(options.width, options.height);  // one pixel
  const double width = options.width * unit, height = options.height * unit;
  const Texture texture(draws);
  const double light_angle = draws.uniform(0, kTau);
  const double light_x = std::cos(light_angle), light_y = std::sin(light_angle);
  const double falloff = draws.uniform(0, 0.25);
  std::vector<CamouflagedObject> objects;
  const int count = draws.chance(0.3) ? 2 : 1;
  for (int i = 0; i < count; ++i) objects.emplace_back(draws, width, height, options.cue);
  Draws noise({uint64_t{words[2]} << 32 | words[3], 1});

  LoadedSample sample{Image(options.width, options.height, 3), Image(options.width, options.height, 1)};
  for (int row = 0; row < options.height; ++row) {
    for (int column = 0; column < options.width; ++column) {
      const double x = (column + 0.5) * unit, y = (row + 0.5) * unit;
      Colour colour = texture.at(static_cast<float>(x), static_cast<float>(y));
      double gain = 1 + falloff * ((x - width / 2) * light_x + (y - height / 2) * light_y);
      bool covered = false;
      for (const CamouflagedObject& object : objects) {
        const Blob::Place place = object.blob.place(x, y);
        // The shadow falls away from the light, on the ground only.
        const double shade = object.blob.place(x + 0.02 * light_x, y + 0.02 * light_y).inside;
        gain *= 1 - object.shadow * std::clamp(shade / 0.02 + 0.5, 0., 1.) * (place.inside > 0 ? 0. : 1.);
        const double cover = std::clamp(place.inside / unit + 0.5, 0., 1.);
        if (cover <= 0) continue;
        covered = covered || cover > 0.5;
        const auto u = static_cast<float>(x), v = static_cast<float>(y);
        const Colour skin = texture.at(object.cos * u + object.sin * v + object.shift_x,
                                       object.cos * v - object.sin * u + object.shift_y);
        const double towards_light = place.from_centre_x * light_x + place.from_centre_y * light_y;
        const double edge = std::exp(-place.inside / 0.012);
        const double tone = object.tone * (1 + object.shading * towards_light) * (1 - object.contour * edge);
        for (size_t c = 0; c < 3; ++c) {
          const double warm = 1 + object.warmth * (1 - static_cast<double>(c));
          colour[c] = static_cast<float>(
              std::lerp(static_cast<double>(colour[c]), static_cast<double>(skin[c]) * tone * warm, cover));
        }
      }
      for (size_t c = 0; c < 3; ++c) {
        const double value = 255 * static_cast<double>(colour[c]) * gain + noise.uniform(-4, 4);
        sample.image.row(row)[3 * column + static_cast<int>(c)] =
            static_cast<uint8_t>(std::lround(std::clamp(value, 0., 255.)));
      }
      sample.mask.row(row)[column] = covered ? 255 : 0;
    }
  }
  return sample;
}

void write_synthetic_dataset(const SyntheticDatasetOptions& options,
                             const std::function<void(int64_t done, int64_t all)>& progress) {
  check(options.scene);
  const auto is_count = [](int64_t count) { return count >= 0 && count < kFirstTestIndex; };
  CAMO_CHECK_CODE(usage, is_count(options.train_count) && is_count(options.test_count),
                  "synthetic: counts must be within 0 and ", kFirstTestIndex - 1, "; got ", options.train_count,
                  " and ", options.test_count);
  CAMO_CHECK_CODE(usage, options.train_count + options.test_count > 0, "synthetic: no pair to write; give a count");
  struct Part {
    const char* name;
    int64_t count, first_index;
  };
  const std::array<Part, 2> parts = {
      {{"Train", options.train_count, 0}, {"Test", options.test_count, kFirstTestIndex}}};
  for (const Part& part : parts) {
    const auto folder = options.folder / part.name;
    CAMO_CHECK_CODE(data, !std::filesystem::exists(folder), folder.string(),
                    ": is there already; remove it, or give another folder");
  }
  for (const Part& part : parts) {
    if (part.count == 0) continue;
    for (const char* kind : {"Imgs", "GT"}) std::filesystem::create_directories(options.folder / part.name / kind);
  }

  std::mutex mutex;
  int64_t done = 0;
  const int64_t all = options.train_count + options.test_count;
  parallel_for(all, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Part& part = i < options.train_count ? parts[0] : parts[1];
      const int64_t number = i < options.train_count ? i : i - options.train_count;
      const LoadedSample sample = make_synthetic_sample(options.scene, part.first_index + number);
      std::string stem = std::to_string(number + 1);
      stem.insert(0, stem.size() < 5 ? 5 - stem.size() : 0, '0');
      const auto folder = options.folder / part.name;
      if (options.jpeg) encode_jpeg(folder / "Imgs" / (stem + ".jpg"), sample.image);
      else encode_png(folder / "Imgs" / (stem + ".png"), sample.image);
      encode_png(folder / "GT" / (stem + ".png"), sample.mask);
      const std::lock_guard lock(mutex);
      ++done;
      if (progress) progress(done, all);
    }
  });
}

}  // namespace camo
