#include "apps/camoxpert/training/loss_means.h"

#include <fmt/core.h>

namespace camo::app {

void LossMeans::add(const LossMeans& other) {
  if (sums.empty()) sums.resize(other.sums.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    sums[i] = {other.sums[i].first, sums[i].second + other.sums[i].second};
  }
  count += other.count;
}

std::string LossMeans::str() const {
  std::string text;
  for (size_t i = 0; i < sums.size(); ++i)
    text += fmt::format("{}{} {:.4f}", i > 0 ? "  " : "", sums[i].first, mean(i));
  return text;
}

void LossMeans::write_to(nlohmann::json& row) const {
  for (size_t i = 0; i < sums.size(); ++i) row[sums[i].first] = mean(i);
}

}  // namespace camo::app
