// What must hold for the mixtures of experts of a network, computed a second way, and what they chose.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "models/camoxpert/network.h"

namespace camo::app {

struct MoeCheck {
  std::string rule;
  double worst = 0, allowed = 0;
  bool holds() const { return worst <= allowed; }
};

/// The choices of one stage, summed over pictures.
struct StageRouting {
  std::vector<int64_t> counts;  // pictures per expert
  std::vector<double> weights;  // sum of the weights they had

  double share(size_t expert) const;
  double mean_weight(size_t expert) const { return weights[expert] / static_cast<double>(counts[expert]); }
  /// Entropy of the shares over its largest value: 1 when all experts are chosen equally often, 0 when one always is.
  double balance() const;
};

class MoeChecks {
 public:
  explicit MoeChecks(CamoXpert& network);

  /// Runs the network on x [N, S, S, 3] and compares each stage with its parts, run one picture at a time.
  void add(const Tensor& x);
  /// `tolerance` for values computed in another order, relative to the largest of the map.
  std::vector<MoeCheck> results(double tolerance) const;
  const std::vector<StageRouting>& stages() const { return stages_; }
  int64_t chosen_per_image() const { return chosen_per_image_; }

 private:
  struct Layer {
    ContentAwareGate* gate = nullptr;
    std::vector<Expert*> experts;
  };
  void check_choice(const std::vector<int64_t>& chosen, const double* logits, const double* weights);
  void check_mixture(const Layer& layer, const StageTrace& trace, const RoutingReport& routing, int64_t picture);

  CamoXpert& network_;
  int64_t chosen_per_image_ = 0;
  std::array<Layer, 4> layers_;
  std::vector<StageRouting> stages_;
  double wrong_choices_ = 0, wrong_counts_ = 0, weight_ = 0, loss_ = 0, gate_ = 0, mixture_ = 0;
};

}  // namespace camo::app
