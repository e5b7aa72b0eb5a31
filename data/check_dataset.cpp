#include "data/check_dataset.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <mutex>

#include "core/error.h"
#include "core/parallel.h"
#include "data/image_kind.h"
#include "data/transforms.h"

namespace camo {
namespace {

constexpr double kGreyShare = 0.05;  // of mask pixels between 0 and 255, beyond which a mask is worth a look

struct PairFacts {
  std::vector<DatasetFinding> findings;
  bool good = false;
  int width = 0, height = 0;
  double foreground = 0;
  uint64_t hash = 0;  // of the decoded picture
};

/// FNV-1a over 8 bytes at a time. Equal hashes are compared in full.
uint64_t hash_of(const Image& image) {
  uint64_t hash = 0xcbf29ce484222325;
  const auto mix = [&](uint64_t word) { hash = (hash ^ word) * 0x100000001b3; };
  mix(static_cast<uint64_t>(image.width));
  mix(static_cast<uint64_t>(image.height));
  for (size_t i = 0; i < image.pixels.size(); i += 8) {
    uint64_t word = 0;
    for (size_t k = i; k < std::min(i + 8, image.pixels.size()); ++k) word = word << 8 | image.pixels[k];
    mix(word);
    hash ^= hash >> 29;
  }
  return hash;
}

void note_kind(PairFacts& facts, const std::filesystem::path& path, bool is_mask) {
  std::array<uint8_t, 65536> start;
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(start.data()), start.size());
  const ImageKind kind = image_kind({start.data(), static_cast<size_t>(file.gcount())});
  const std::string promised = format_of_suffix(path.extension().string());
  if (!kind.format.empty() && kind.format != promised)
    facts.findings.push_back({false, "suffix", concat_text(path.string(), ": is a ", kind.format, " by its content")});
  const std::string unusual = kind.unusual();
  if (!unusual.empty() && !(is_mask && (unusual == "grey" || unusual == "palette")))
    facts.findings.push_back(
        {false, is_mask ? "unusual mask" : "unusual picture", concat_text(path.string(), ": ", unusual)});
}

void note_mask(PairFacts& facts, const Sample& sample, const Image& mask) {
  int64_t foreground = 0, grey = 0;
  uint8_t largest = 0;
  for (const uint8_t value : mask.pixels) {
    largest = std::max(largest, value);
    foreground += value > kMaskThreshold;
    grey += value != 0 && value != 255;
  }
  const auto pixels = static_cast<double>(mask.pixels.size());
  facts.foreground = static_cast<double>(foreground) / pixels;
  const auto note = [&](const char* kind, const std::string& text) {
    facts.findings.push_back({false, kind, concat_text(sample.mask.string(), ": ", text)});
  };
  if (foreground == 0) {
    note("no object", largest == 0 ? "no pixel is above 128"
                                   : concat_text("no pixel is above 128; the largest is ", static_cast<int>(largest),
                                                 ": objects must be drawn in 255"));
  }
  if (foreground == static_cast<int64_t>(mask.pixels.size())) note("all object", "every pixel is above 128");
  if (static_cast<double>(grey) > kGreyShare * pixels)
    note("grey mask", concat_text(static_cast<int>(100 * static_cast<double>(grey) / pixels),
                                  " % of its pixels are neither 0 nor 255 (cut above 128)"));
}

PairFacts look_at(const Sample& sample) {
  PairFacts facts;
  Image image, mask;
  const auto decode = [&](const std::filesystem::path& path, int channels, Image& out) {
    try {
      out = decode_image(path, channels);
      note_kind(facts, path, channels == 1);
      return true;
    } catch (const Error& error) {
      facts.findings.push_back({true, "unreadable", error.what()});
      return false;
    }
  };
  const bool image_read = decode(sample.image, 3, image), mask_read = decode(sample.mask, 1, mask);
  if (!image_read || !mask_read) return facts;
  if (image.width != mask.width || image.height != mask.height) {
    facts.findings.push_back({true, "size mismatch",
                              concat_text(sample.mask.string(), ": mask ", mask.width, " x ", mask.height, ", picture ",
                                          image.width, " x ", image.height, " (", sample.image.string(), ")")});
    return facts;
  }
  facts.good = true;
  facts.width = image.width, facts.height = image.height;
  facts.hash = hash_of(image);
  note_mask(facts, sample, mask);
  return facts;
}

SplitSummary summarize(const std::string& name, const std::vector<PairFacts>& facts) {
  SplitSummary summary;
  summary.name = name;
  summary.pairs = static_cast<int64_t>(facts.size());
  for (const PairFacts& pair : facts) {
    if (!pair.good) continue;
    const bool first = summary.good++ == 0;
    summary.min_width = first ? pair.width : std::min(summary.min_width, pair.width);
    summary.min_height = first ? pair.height : std::min(summary.min_height, pair.height);
    summary.max_width = std::max(summary.max_width, pair.width);
    summary.max_height = std::max(summary.max_height, pair.height);
    summary.foreground += pair.foreground;
  }
  if (summary.good > 0) summary.foreground /= static_cast<double>(summary.good);
  return summary;
}

}  // namespace

int64_t DatasetReport::errors() const {
  return std::count_if(findings.begin(), findings.end(),
                       [](const DatasetFinding& finding) { return finding.is_error; });
}

DatasetReport check_dataset(const DatasetSplits& splits, const std::function<void(int64_t done)>& on_progress) {
  DatasetReport report;
  for (const std::string& message : splits.unpaired) report.findings.push_back({true, "unpaired", message});
  struct Seen {
    const Sample* sample;
    size_t split;
  };
  std::map<uint64_t, std::vector<Seen>> by_hash;
  std::mutex mutex;
  int64_t done = 0;
  const std::pair<const char*, const std::vector<Sample>*> parts[] = {
      {splits.test.empty() ? "all" : "train", &splits.train}, {"test", &splits.test}};
  for (size_t split = 0; split < 2; ++split) {
    const std::vector<Sample>& samples = *parts[split].second;
    if (samples.empty()) continue;
    std::vector<PairFacts> facts(samples.size());
    parallel_for(static_cast<int64_t>(samples.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        facts[i] = look_at(samples[i]);
        const std::lock_guard lock(mutex);
        if (on_progress) on_progress(++done);
      }
    });
    report.splits.push_back(summarize(parts[split].first, facts));
    for (size_t i = 0; i < samples.size(); ++i) {
      report.findings.insert(report.findings.end(), facts[i].findings.begin(), facts[i].findings.end());
      if (facts[i].good) by_hash[facts[i].hash].push_back({&samples[i], split});
    }
  }
  for (const auto& [hash, seen] : by_hash) {
    for (size_t i = 1; i < seen.size(); ++i) {
      if (decode_image(seen[0].sample->image, 3) != decode_image(seen[i].sample->image, 3)) continue;
      const bool both = seen[0].split != seen[i].split;
      report.findings.push_back(
          {both, both ? "in both splits" : "twice",
           concat_text(seen[i].sample->image.string(), ": the same pixels as ", seen[0].sample->image.string())});
    }
  }
  std::stable_sort(report.findings.begin(), report.findings.end(),
                   [](const DatasetFinding& a, const DatasetFinding& b) {
                     return a.is_error != b.is_error ? a.is_error : a.kind < b.kind;
                   });
  return report;
}

}  // namespace camo
