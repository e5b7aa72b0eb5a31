#include "models/camoxpert/moe.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "core/op_observer.h"
#include "ops/ops.h"

namespace camo {
namespace {

constexpr double kAuxWeight = 0.001;

/// The experts under the names "0", "1", ...
class ExpertList : public Module {
 public:
  Expert* append(const std::shared_ptr<Expert>& expert) {
    add_child(std::to_string(named_children().size()), expert);
    return expert.get();
  }
};

}  // namespace

double load_balance_loss(const std::vector<int64_t>& counts) {
  const double experts = static_cast<double>(counts.size());
  const double choices = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  double total = 0;
  for (const int64_t count : counts) {
    const double excess = static_cast<double>(count) / (choices + 1e-8) - 1 / experts;
    total += excess * excess;
  }
  return kAuxWeight * total / experts;
}

MoELayer::MoELayer(const MoESpec& spec)
    : chosen_per_image_(std::min(spec.experts, std::max<int64_t>(2, spec.experts / 2))),
      experts_([&] {
        CAMO_CHECK(spec.experts >= 1, "mixture of experts: needs at least one expert; got ", spec.experts);
        ExpertList& list = child<ExpertList>("experts");
        std::vector<Expert*> experts;
        for (int64_t e = 0; e < spec.experts; ++e) {
          experts.push_back(
              list.append(make_expert(e, spec.channels, spec.attention_heads, spec.dropout, spec.use_flash_attention)));
        }
        return experts;
      }()),
      gate_(child<ContentAwareGate>("gate", spec.channels, spec.experts, spec.dropout)) {}

Routing MoELayer::route(const Tensor& x) const {
  const OpScope scope("experts");
  const Tensor logits = gate_(x);
  const TopK top = top_k(logits, chosen_per_image_);
  return {.gate_logits = logits.detach(),
          .indices = top.indices,
          .weights = softmax(top.values, -1),
          .indices_on_host = nullptr};
}

RoutingReport MoELayer::report(const Routing& routing) const {
  RoutingReport report{.chosen = {}, .weights = routing.weights.detach(), .counts = {}};
  report.counts.assign(experts_.size(), 0);
  const std::vector<int64_t> flat =
      routing.indices_on_host ? routing.indices_on_host->wait() : routing.indices.to_vector<int64_t>();
  for (auto row = flat.begin(); row != flat.end(); row += chosen_per_image_) {
    report.chosen.emplace_back(row, row + chosen_per_image_);
    for (const int64_t expert : report.chosen.back()) ++report.counts[static_cast<size_t>(expert)];
  }
  report.aux = load_balance_loss(report.counts);
  return report;
}

Tensor MoELayer::run_expert(const Expert& expert, const Tensor& x) const {
  if (!checkpointing_ || !grad_enabled()) return expert(x);
  return checkpoint(
      [&expert](const Tensors& in) {
        const OpScope scope("experts");  // also when it runs again, during backward
        return expert(in[0]);
      },
      {x});
}

Tensor MoELayer::mix(const Tensor& x, const Routing& routing, const RoutingReport& report) const {
  const OpScope scope("experts");
  // The images of each expert in order; an expert that no image chose is no part.
  std::vector<int64_t> sizes(experts_.size()), part_of(experts_.size(), -1), part_sizes;
  std::vector<const Expert*> part_experts;
  std::vector<RowPlace> places;  // `part` is the expert until the parts are numbered
  for (const std::vector<int64_t>& chosen : report.chosen) {
    for (const int64_t expert : chosen) places.push_back({expert, sizes[static_cast<size_t>(expert)]++});
  }
  for (size_t e = 0; e < experts_.size(); ++e) {
    if (sizes[e] == 0) continue;
    part_of[e] = static_cast<int64_t>(part_sizes.size());
    part_sizes.push_back(sizes[e]);
    part_experts.push_back(experts_[e]);
  }
  for (RowPlace& place : places) place.part = part_of[static_cast<size_t>(place.part)];
  if (places.empty()) return zeros_like(x);

  Tensors parts = dispatch_rows(x, places, part_sizes);
  for (size_t p = 0; p < parts.size(); ++p) parts[p] = run_expert(*part_experts[p], parts[p]);
  return combine_rows(parts, places, camo::to(routing.weights, parts.front().dtype()));
}

MoEOutput MoELayer::operator()(const Tensor& x) const {
  const Routing routing = route(x);
  MoEOutput out{.y = {}, .gate_logits = routing.gate_logits, .routing = report(routing)};
  out.y = mix(x, routing, out.routing);
  return out;
}

}  // namespace camo
