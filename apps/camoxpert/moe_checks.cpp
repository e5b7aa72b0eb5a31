#include "apps/camoxpert/moe_checks.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "apps/camoxpert/max_or_nan.h"
#include "core/error.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo::app {

namespace {

std::vector<double> values_of(const Tensor& x) { return to(contiguous(to(x, cpu)), f64).to_vector<double>(); }

/// Largest |a - b| over the largest |b|.
double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, size = 1e-30;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return INFINITY;
    difference = std::max(difference, std::abs(a[i] - b[i]));
    size = std::max(size, std::abs(b[i]));
  }
  return difference / size;
}

}  // namespace

double StageRouting::share(size_t expert) const {
  return static_cast<double>(counts[expert]) /
         static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
}

double StageRouting::balance() const {
  double entropy = 0;
  for (size_t e = 0; e < counts.size(); ++e)
    if (counts[e] > 0) entropy -= share(e) * std::log(share(e));
  return counts.size() > 1 ? entropy / std::log(static_cast<double>(counts.size())) : 1;
}

MoeChecks::MoeChecks(CamoXpert& network) : network_(network) {
  const auto experts = static_cast<size_t>(network.spec().num_experts);
  stages_.assign(4, {std::vector<int64_t>(experts), std::vector<double>(experts)});
  network.visit([this](const std::string& name, Module& module) {
    constexpr std::string_view kPrefix = "moe_layers.";
    if (!name.starts_with(kPrefix) || name.size() <= kPrefix.size()) return;
    Layer& layer = layers_.at(static_cast<size_t>(name[kPrefix.size()] - '0'));
    if (auto* mixture = dynamic_cast<MoELayer*>(&module)) chosen_per_image_ = mixture->chosen_per_image();
    if (auto* gate = dynamic_cast<ContentAwareGate*>(&module)) layer.gate = gate;
    if (auto* expert = dynamic_cast<Expert*>(&module)) layer.experts.push_back(expert);
  });
  for (const Layer& layer : layers_) CAMO_ASSERT(layer.gate != nullptr && layer.experts.size() == experts);
}

void MoeChecks::check_choice(const std::vector<int64_t>& chosen, const double* logits, const double* weights) {
  const auto experts = static_cast<int64_t>(stages_.front().counts.size());
  const std::set<int64_t> distinct(chosen.begin(), chosen.end());
  const bool in_range = *distinct.begin() >= 0 && *distinct.rbegin() < experts;
  if (static_cast<int64_t>(chosen.size()) != chosen_per_image_ || distinct.size() != chosen.size() || !in_range) {
    ++wrong_choices_;
    return;
  }
  const double least = logits[chosen.back()];
  for (size_t i = 1; i < chosen.size(); ++i) wrong_choices_ += logits[chosen[i]] > logits[chosen[i - 1]];
  for (int64_t e = 0; e < experts; ++e) wrong_choices_ += !distinct.contains(e) && logits[e] > least;
  double total = 0, sum = 0;
  for (const int64_t e : chosen) total += std::exp(logits[e] - logits[chosen.front()]);
  for (size_t i = 0; i < chosen.size(); ++i) {
    weight_ = max_or_nan(weight_, std::abs(weights[i] - std::exp(logits[chosen[i]] - logits[chosen.front()]) / total));
    sum += weights[i];
  }
  weight_ = max_or_nan(weight_, std::abs(sum - 1));
}

void MoeChecks::check_mixture(const Layer& layer, const StageTrace& trace, const RoutingReport& routing,
                              int64_t picture) {
  const Tensor x = contiguous(slice(trace.enhanced, 0, picture, picture + 1));
  gate_ = max_or_nan(gate_, relative_difference(values_of((*layer.gate)(x)),
                                                values_of(slice(trace.gate_logits, 0, picture, picture + 1))));
  const std::vector<double> weights = values_of(slice(routing.weights, 0, picture, picture + 1));
  const std::vector<int64_t>& chosen = routing.chosen[static_cast<size_t>(picture)];
  std::vector<double> sum(static_cast<size_t>(x.numel()));
  for (size_t i = 0; i < chosen.size(); ++i) {
    const std::vector<double> y = values_of((*layer.experts[static_cast<size_t>(chosen[i])])(x));
    for (size_t p = 0; p < y.size(); ++p) sum[p] += weights[i] * y[p];
  }
  mixture_ = max_or_nan(mixture_, relative_difference(sum, values_of(slice(trace.mixed, 0, picture, picture + 1))));
}

void MoeChecks::add(const Tensor& x) {
  const NoGrad no_grad;
  const CamoXpertOutput out = network_(x, {.keep_stages = true});
  for (size_t s = 0; s < layers_.size(); ++s) {
    const RoutingReport& routing = out.routing[s];
    const std::vector<double> logits = values_of(out.stages[s].gate_logits), weights = values_of(routing.weights);
    std::vector<int64_t> counts(stages_[s].counts.size());
    for (int64_t n = 0; n < x.size(0); ++n) {
      const std::vector<int64_t>& chosen = routing.chosen.at(static_cast<size_t>(n));
      const double* picture_weights = weights.data() + n * chosen_per_image_;
      check_choice(chosen, logits.data() + n * static_cast<int64_t>(counts.size()), picture_weights);
      for (size_t i = 0; i < chosen.size(); ++i) {
        ++counts.at(static_cast<size_t>(chosen[i]));
        stages_[s].weights[static_cast<size_t>(chosen[i])] += picture_weights[i];
      }
      check_mixture(layers_[s], out.stages[s], routing, n);
    }
    wrong_counts_ += counts != routing.counts;
    // The loss from its definition: experts' shares of the choices against equal shares.
    double squares = 0;
    const double choices = static_cast<double>(x.size(0) * chosen_per_image_),
                 experts = static_cast<double>(counts.size());
    for (const int64_t count : counts) squares += std::pow(static_cast<double>(count) / choices - 1 / experts, 2);
    loss_ = max_or_nan(loss_, std::abs(0.001 * squares / experts - routing.aux));
    for (size_t e = 0; e < counts.size(); ++e) stages_[s].counts[e] += counts[e];
  }
}

std::vector<MoeCheck> MoeChecks::results(double tolerance) const {
  return {{"the experts chosen are distinct and those of the largest logits", wrong_choices_, 0},
          {"the counts are those of the choices", wrong_counts_, 0},
          {"weights are the softmax of the chosen logits and sum to 1", weight_, 1e-5},
          {"the balance loss is that of the counts", loss_, 1e-9},
          {"a picture's logits do not depend on the others of its batch", gate_, tolerance},
          {"the output is the weighted sum of the chosen experts, run alone", mixture_, tolerance}};
}

}  // namespace camo::app
