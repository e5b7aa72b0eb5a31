// Looks at every file of a data set before time is spent on training with it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset.h"

namespace camo {

/// Something about one file, or about two.
struct DatasetFinding {
  bool is_error = false;  // errors spoil training or scores; the others are to know about
  std::string kind;       // "unreadable", "size mismatch", "unpaired", "in both splits", "twice", "no object", ...
  std::string message;
};

/// What one split looks like.
struct SplitSummary {
  std::string name;
  int64_t pairs = 0, good = 0;
  int min_width = 0, min_height = 0, max_width = 0, max_height = 0;  // of the good ones
  double foreground = 0;                                             // mean share of the mask
};

struct DatasetReport {
  std::vector<SplitSummary> splits;
  std::vector<DatasetFinding> findings;  // errors first

  int64_t errors() const;
};

/// Decodes all pictures and masks, on all cores: files that can't be read, pairs of different sizes, pictures and masks
/// without partner, the same pixels in training and test data (compared by a hash, then in full) or twice within one,
/// masks without object or with nothing else or with many values between 0 and 255, grey, CMYK, 16-bit and other
/// unusual pictures (which are read correctly), and suffixes that lie.
DatasetReport check_dataset(const DatasetSplits& splits, const std::function<void(int64_t done)>& on_progress = {});

}  // namespace camo
