// The order of floating-point operations is NumPy's where a score depends on the last bit: in the mean that sets the
// adaptive threshold, and in the means of constant regions of the S-measure. (Compiled without fused multiply-add.)
#include "data/metrics.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "data/resize_image.h"
#include "data/transforms.h"

namespace camo {
namespace {

constexpr double kEpsilon = 0x1p-52;
constexpr double kBetaSquared = 0.3;

/// A prediction in [0, 1] and its mask, whole or a rectangle of them. `stride` elements from row to row.
struct Region {
  const double* prediction;
  const uint8_t* mask;
  int width, height, stride;

  double count() const { return static_cast<double>(width) * height; }
  Region part(int x, int y, int part_width, int part_height) const {
    const ptrdiff_t offset = static_cast<ptrdiff_t>(y) * stride + x;
    return {prediction + offset, mask + offset, part_width, part_height, stride};
  }
};

/// NumPy's sum of contiguous numbers: blocks of 128 with eight partial sums each, then pairs of halves.
double pairwise_sum(const double* values, size_t count) {
  if (count < 8) {
    double sum = 0;
    for (size_t i = 0; i < count; ++i) sum += values[i];
    return sum;
  }
  if (count <= 128) {
    std::array<double, 8> sums;
    std::copy_n(values, 8, sums.begin());
    const size_t whole = count - count % 8;
    for (size_t i = 8; i < whole; i += 8)
      for (size_t k = 0; k < 8; ++k) sums[k] += values[i + k];
    double sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    for (size_t i = whole; i < count; ++i) sum += values[i];
    return sum;
  }
  const size_t half = count / 2 - count / 2 % 8;
  return pairwise_sum(values, half) + pairwise_sum(values + half, count - half);
}

/// NumPy's mean: of a contiguous array in one go, else of as many whole rows at a time as its buffer of 8192 holds.
double mean_prediction(const Region& region) {
  if (region.width == region.stride || region.height == 1)
    return pairwise_sum(region.prediction, static_cast<size_t>(region.width) * static_cast<size_t>(region.height)) /
           region.count();
  const int rows_at_once = std::max(1, 8192 / region.width);
  std::vector<double> buffer;
  double sum = 0;
  for (int y = 0; y < region.height; y += rows_at_once) {
    buffer.clear();
    for (int k = y; k < std::min(region.height, y + rows_at_once); ++k) {
      const double* row = region.prediction + static_cast<ptrdiff_t>(k) * region.stride;
      buffer.insert(buffer.end(), row, row + region.width);
    }
    sum += pairwise_sum(buffer.data(), buffer.size());
  }
  return sum / region.count();
}

/// Pixels of the foreground and of the background at each of 256 levels.
struct Histogram {
  std::array<int64_t, 256> inside{}, outside{};
};

double ratio(double numerator, double denominator) { return denominator == 0 ? 0 : numerator / denominator; }

/// What a cut prediction gets right and wrong.
struct Counts {
  double hits, false_alarms, misses, rejections;

  double pixels() const { return hits + false_alarms + misses + rejections; }
  double precision() const { return ratio(hits, hits + false_alarms); }
  double recall() const { return ratio(hits, hits + misses); }
};

double f_measure(const Counts& counts) {
  if (counts.hits == 0) return 0;
  const double precision = counts.precision(), recall = counts.recall();
  return (1 + kBetaSquared) * precision * recall / (kBetaSquared * precision + recall);
}

/// Enhanced-alignment measure (Fan et al., 2018). A cut map takes two values, and so does the mask: four kinds of
/// pixels.
double e_measure(const Counts& counts) {
  const double pixels = counts.pixels();
  const double predicted = counts.hits + counts.false_alarms, wanted = counts.hits + counts.misses;
  double sum = 0;
  if (wanted == 0) {
    sum = pixels - predicted;
  } else if (wanted == pixels) {
    sum = predicted;
  } else {
    const double mean_predicted = predicted / pixels, mean_wanted = wanted / pixels;
    const auto add = [&](double count, double value_predicted, double value_wanted) {
      const double p = value_predicted - mean_predicted, w = value_wanted - mean_wanted;
      const double alignment = 2 * (p * w) / (p * p + w * w + kEpsilon);
      sum += (alignment + 1) * (alignment + 1) / 4 * count;
    };
    add(counts.hits, 1, 1);
    add(counts.false_alarms, 1, 0);
    add(counts.misses, 0, 1);
    add(counts.rejections, 0, 0);
  }
  return sum / (pixels - 1 + kEpsilon);
}

/// How bright and how even the pixels of one histogram are, given the value of each level.
double object_score(const std::array<int64_t, 256>& histogram, const std::array<double, 256>& values) {
  double count = 0, sum = 0, squares = 0;
  for (size_t level = 0; level < 256; ++level) {
    count += static_cast<double>(histogram[level]);
    sum += static_cast<double>(histogram[level]) * values[level];
  }
  const double mean = sum / count;
  for (size_t level = 0; level < 256; ++level) {
    const double difference = values[level] - mean;
    squares += static_cast<double>(histogram[level]) * difference * difference;
  }
  const double deviation = count > 1 ? std::sqrt(squares / (count - 1)) : 0;
  return 2 * mean / (mean * mean + 1 + deviation + kEpsilon);
}

/// Structural similarity of one rectangle. An empty one, where PySODMetrics returns NaN, has weight 0 and counts as 0.
double similarity(const Region& region) {
  if (region.width == 0 || region.height == 0) return 0;
  double wanted = 0;
  for (int y = 0; y < region.height; ++y)
    for (int x = 0; x < region.width; ++x) wanted += region.mask[static_cast<ptrdiff_t>(y) * region.stride + x];
  const double mean_p = mean_prediction(region), mean_w = wanted / region.count();
  double variance_p = 0, covariance = 0;
  for (int y = 0; y < region.height; ++y) {
    for (int x = 0; x < region.width; ++x) {
      const ptrdiff_t i = static_cast<ptrdiff_t>(y) * region.stride + x;
      const double p = region.prediction[i] - mean_p, w = region.mask[i] - mean_w;
      variance_p += p * p;
      covariance += p * w;
    }
  }
  const double variance_w = wanted * (1 - mean_w) * (1 - mean_w) + (region.count() - wanted) * mean_w * mean_w;
  const double freedom = region.count() - 1 + kEpsilon;
  const double alpha = 4 * mean_p * mean_w * covariance / freedom;
  const double beta = (mean_p * mean_p + mean_w * mean_w) * ((variance_p + variance_w) / freedom);
  if (alpha != 0) return alpha / (beta + kEpsilon);
  return beta == 0 ? 1 : 0;
}

/// Similarity of the four rectangles that meet at the centre of the foreground, weighted by area.
double region_score(const Region& whole) {
  int64_t sum_x = 0, sum_y = 0, wanted = 0;
  for (int y = 0; y < whole.height; ++y) {
    for (int x = 0; x < whole.width; ++x) {
      if (!whole.mask[static_cast<ptrdiff_t>(y) * whole.stride + x]) continue;
      sum_x += x;
      sum_y += y;
      ++wanted;
    }
  }
  // Ties to even, as NumPy rounds; one more, as MATLAB counts from 1.
  const auto centre = [&](int64_t sum) {
    return static_cast<int>(std::lrint(static_cast<double>(sum) / static_cast<double>(wanted))) + 1;
  };
  const int left = centre(sum_x), top = centre(sum_y);
  const int right = whole.width - left, bottom = whole.height - top;
  const double area = whole.count();
  const double left_top = static_cast<double>(left) * top / area, right_top = static_cast<double>(top) * right / area;
  const double left_bottom = static_cast<double>(bottom) * left / area;
  return similarity(whole.part(0, 0, left, top)) * left_top + similarity(whole.part(left, 0, right, top)) * right_top +
         similarity(whole.part(0, top, left, bottom)) * left_bottom +
         similarity(whole.part(left, top, right, bottom)) * (1 - left_top - right_top - left_bottom);
}

/// Structure measure (Fan et al., 2017).
double s_measure(const Region& whole, const Histogram& levels, const std::array<double, 256>& values, double wanted) {
  const double share = wanted / whole.count();
  if (wanted == 0) return 1 - mean_prediction(whole);
  if (wanted == whole.count()) return mean_prediction(whole);
  std::array<double, 256> inverted;
  for (size_t level = 0; level < 256; ++level) inverted[level] = 1 - values[level];
  const double object =
      object_score(levels.inside, values) * share + object_score(levels.outside, inverted) * (1 - share);
  return std::max(0.0, object * 0.5 + region_score(whole) * 0.5);
}

double mean_of(const ScoreCurves::Curve& curve) {
  double sum = 0;
  for (double value : curve) sum += value;
  return sum / static_cast<double>(curve.size());
}

void summarize_curves(PictureScore& score) {
  score.scores.mean_fm = mean_of(score.curves.f);
  score.scores.max_fm = *std::max_element(score.curves.f.begin(), score.curves.f.end());
  score.scores.mean_em = mean_of(score.curves.e);
  score.scores.max_em = *std::max_element(score.curves.e.begin(), score.curves.e.end());
}

template <class Operation>
void for_each_curve(ScoreCurves& a, const ScoreCurves& b, Operation operation) {
  for (auto curve : {&ScoreCurves::precision, &ScoreCurves::recall, &ScoreCurves::f, &ScoreCurves::e})
    for (size_t t = 0; t < 256; ++t) (a.*curve)[t] = operation((a.*curve)[t], (b.*curve)[t]);
}

}  // namespace

std::array<double, 256> stretched_levels(const Image& prediction) {
  const auto [low, high] = std::minmax_element(prediction.pixels.begin(), prediction.pixels.end());
  const double least = *low / 255.0, most = *high / 255.0;
  std::array<double, 256> values{};
  for (size_t level = *low; level <= *high; ++level) {
    const double value = static_cast<double>(level) / 255.0;
    values[level] = least == most ? value : (value - least) / (most - least);
  }
  return values;
}

PictureScore score_prediction(const Image& prediction, const Image& mask) {
  CAMO_CHECK(mask.channels == 1 && !mask.pixels.empty() && prediction.channels == 1 && !prediction.pixels.empty(),
             "score_prediction: prediction and mask must be grey and hold a pixel; got ", prediction.width, " x ",
             prediction.height, " x ", prediction.channels, " and ", mask.width, " x ", mask.height, " x ",
             mask.channels);
  if (prediction.width != mask.width || prediction.height != mask.height)
    return score_prediction(resize_bilinear(prediction, mask.width, mask.height), mask);

  const std::array<double, 256> values = stretched_levels(prediction);
  std::vector<double> stretched(mask.pixels.size());
  std::vector<uint8_t> wanted(mask.pixels.size());
  Histogram levels;
  for (size_t i = 0; i < mask.pixels.size(); ++i) {
    const uint8_t level = prediction.pixels[i];
    wanted[i] = mask.pixels[i] > kMaskThreshold;
    stretched[i] = values[level];
    ++(wanted[i] ? levels.inside : levels.outside)[level];
  }
  double inside = 0, outside = 0, error = 0;
  for (size_t level = 0; level < 256; ++level) {
    inside += static_cast<double>(levels.inside[level]);
    outside += static_cast<double>(levels.outside[level]);
    error += static_cast<double>(levels.inside[level]) * (1 - values[level]) +
             static_cast<double>(levels.outside[level]) * values[level];
  }
  const Region whole{stretched.data(), wanted.data(), mask.width, mask.height, mask.width};

  // Pixels whose level passes.
  const auto cut = [&](auto passes) {
    double hits = 0, false_alarms = 0;
    for (size_t level = 0; level < 256; ++level) {
      if (!passes(values[level])) continue;
      hits += static_cast<double>(levels.inside[level]);
      false_alarms += static_cast<double>(levels.outside[level]);
    }
    return Counts{hits, false_alarms, inside - hits, outside - false_alarms};
  };

  PictureScore result;
  SegmentationScores& scores = result.scores;
  scores.mae = error / whole.count();
  scores.sm = s_measure(whole, levels, values, inside);
  scores.wfm = inside == 0 ? 0 : weighted_f_measure(stretched, wanted, mask.width, mask.height);
  const double threshold = std::min(2 * mean_prediction(whole), 1.0);
  const Counts adaptive = cut([&](double value) { return value >= threshold; });
  scores.adp_fm = f_measure(adaptive);
  scores.adp_em = e_measure(adaptive);
  for (int t = 0; t < 256; ++t) {
    const auto slot = static_cast<size_t>(t);
    const Counts counts = cut([&](double value) { return static_cast<int>(value * 255) >= t; });
    result.curves.precision[slot] = counts.precision();
    result.curves.recall[slot] = counts.recall();
    result.curves.f[slot] = f_measure(counts);
    result.curves.e[slot] = e_measure(counts);
  }
  summarize_curves(result);
  const Counts half = cut([](double value) { return value > 0.5; });
  scores.iou = ratio(half.hits, half.hits + half.false_alarms + half.misses);
  scores.dice = ratio(2 * half.hits, 2 * half.hits + half.false_alarms + half.misses);
  scores.precision = half.precision();
  scores.recall = half.recall();
  scores.specificity = ratio(half.rejections, half.rejections + half.false_alarms);
  scores.accuracy = (half.hits + half.rejections) / half.pixels();
  return result;
}

void ScoreAccumulator::add(const PictureScore& picture) {
  ++count_;
  for (const ScoreField& field : kScoreFields) sum_.scores.*field.value += picture.scores.*field.value;
  for_each_curve(sum_.curves, picture.curves, [](double a, double b) { return a + b; });
}

PictureScore ScoreAccumulator::mean() const {
  CAMO_CHECK_CODE(data, count_ > 0, "metrics: a mean needs at least one picture; got none");
  const auto count = static_cast<double>(count_);
  PictureScore mean = sum_;
  for (const ScoreField& field : kScoreFields) mean.scores.*field.value /= count;
  for_each_curve(mean.curves, mean.curves, [&](double a, double) { return a / count; });
  summarize_curves(mean);
  return mean;
}

}  // namespace camo
