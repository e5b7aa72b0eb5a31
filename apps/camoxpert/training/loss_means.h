// Means of the loss and its parts over batches.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace camo::app {

struct LossMeans {
  std::vector<std::pair<std::string, double>> sums;  // "loss" first, then its parts
  int64_t count = 0;                                 // batches

  void add(const LossMeans& other);
  double mean(size_t part) const { return sums[part].second / static_cast<double>(count); }
  /// "loss 5.1234  bce 0.6931  ..."
  std::string str() const;
  /// Adds the means under their names.
  void write_to(nlohmann::json& row) const;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LossMeans, sums, count)

}  // namespace camo::app
