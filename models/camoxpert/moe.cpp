#include "models/camoxpert/moe.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "ops/ops.h"

namespace camo {
namespace {

constexpr double kAuxWeight = 0.001;

/// The experts under the names "0", "1", ...
class ExpertList : public Module {
 public:
  Expert* append(const std::shared_ptr<Expert>& expert) {
    add_child(std::to_string(children_list().size()), expert);
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
          experts.push_back(list.append(make_expert(e, spec.channels, spec.attention_heads, spec.dropout)));
        }
        return experts;
      }()),
      gate_(child<ContentAwareGate>("gate", spec.channels, spec.experts, spec.dropout)) {}

RoutingReport MoELayer::report(const Tensor& indices, const Tensor& weights) const {
  RoutingReport routing{.chosen = {}, .weights = weights.detach(), .counts = {}};
  routing.counts.assign(experts_.size(), 0);
  const std::vector<int64_t> flat = indices.to_vector<int64_t>();
  for (auto row = flat.begin(); row != flat.end(); row += chosen_per_image_) {
    routing.chosen.emplace_back(row, row + chosen_per_image_);
    for (const int64_t expert : routing.chosen.back()) ++routing.counts[static_cast<size_t>(expert)];
  }
  routing.aux = load_balance_loss(routing.counts);
  return routing;
}

Tensor MoELayer::run_expert(size_t expert, const Tensor& x) const {
  const Expert& module = *experts_[expert];
  if (!checkpointing_ || !grad_enabled()) return module(x);
  return checkpoint([&module](const Tensors& in) { return module(in[0]); }, {x});
}

MoEOutput MoELayer::operator()(const Tensor& x) const {
  const int64_t batch = x.size(0);
  const Tensor logits = gate_(x);
  const TopK top = top_k(logits, chosen_per_image_);
  const Tensor weights = softmax(top.values, -1);  // [N, k]
  const Tensor flat_weights = reshape(weights, {batch * chosen_per_image_});
  MoEOutput out{.y = {}, .gate_logits = logits.detach(), .routing = report(top.indices, weights)};

  for (size_t e = 0; e < experts_.size(); ++e) {
    std::vector<int64_t> images, slots;  // slots: positions in flat_weights
    for (int64_t b = 0; b < batch; ++b) {
      const std::vector<int64_t>& row = out.routing.chosen[static_cast<size_t>(b)];
      const auto found = std::find(row.begin(), row.end(), static_cast<int64_t>(e));
      if (found == row.end()) continue;
      images.push_back(b);
      slots.push_back(b * chosen_per_image_ + (found - row.begin()));
    }
    if (images.empty()) continue;
    const int64_t count = static_cast<int64_t>(images.size());
    const Tensor slot_index = from_vector(slots, {count}, x.device());
    const Tensor column = reshape(index_select(flat_weights, 0, slot_index), {count, 1, 1, 1});
    if (count == batch) {
      const Tensor y = run_expert(e, x) * column;
      out.y = out.y.defined() ? out.y + y : y;
    } else {
      const Tensor image_index = from_vector(images, {count}, x.device());
      const Tensor y = run_expert(e, index_select(x, 0, image_index)) * column;
      if (!out.y.defined()) out.y = zeros(x.shape(), y.dtype(), x.device());
      out.y = index_add(out.y, 0, image_index, y);
    }
  }
  if (!out.y.defined()) out.y = zeros_like(x);
  return out;
}

}  // namespace camo
