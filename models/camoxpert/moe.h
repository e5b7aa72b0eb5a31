// A sparse mixture of experts: each image runs through the experts that its gate chose.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/host_copy.h"
#include "models/camoxpert/experts.h"
#include "models/camoxpert/gate.h"

namespace camo {

struct MoESpec {
  int64_t channels = 0;
  int64_t experts = 7;
  int64_t attention_heads = 8;
  double dropout = 0.1;
  bool use_flash_attention = true;  // off: the attention experts make the matrix of scores
};

/// What the gate of one layer decided for a batch, where the batch is.
struct Routing {
  Tensor gate_logits;                               // [N, experts], outside of the graph
  Tensor indices;                                   // [N, k] i64: the chosen experts, largest logit first
  Tensor weights;                                   // [N, k]
  std::shared_ptr<const HostCopy> indices_on_host;  // on their way; null: not yet asked for
};

/// The same for the host.
struct RoutingReport {
  std::vector<std::vector<int64_t>> chosen;  // [image][k], largest logit first
  Tensor weights;                            // [N, k], outside of the graph
  std::vector<int64_t> counts;               // images per expert
  double aux = 0;                            // load-balance loss of this layer
};

struct MoEOutput {
  Tensor y;            // [N, H, W, C]
  Tensor gate_logits;  // [N, experts], outside of the graph
  RoutingReport routing;
};

/// y[b] = sum over the k chosen experts of softmax weight * expert(x[b]), k = max(2, experts / 2). The only copy to the
/// host is that of the choice. Experts run in order, so results do not depend on scheduling.
class MoELayer : public Module {
 public:
  explicit MoELayer(const MoESpec& spec);
  /// All three steps.
  MoEOutput operator()(const Tensor& x) const;

  // The steps alone: a network with several layers routes in all of them before it waits for the first choice.
  Routing route(const Tensor& x) const;
  /// The choice on the host: waits for it.
  RoutingReport report(const Routing& routing) const;
  Tensor mix(const Tensor& x, const Routing& routing, const RoutingReport& report) const;

  int64_t chosen_per_image() const { return chosen_per_image_; }
  const std::vector<Expert*>& experts() const { return experts_; }
  void set_gradient_checkpointing(bool on) { checkpointing_ = on; }

 private:
  Tensor run_expert(const Expert& expert, const Tensor& x) const;

  int64_t chosen_per_image_;
  bool checkpointing_ = false;
  std::vector<Expert*> experts_;
  ContentAwareGate& gate_;
};

/// 0.001 * mean over experts of (count / (choices + 1e-8) - 1 / experts)^2, choices being the sum of the counts.
double load_balance_loss(const std::vector<int64_t>& counts);

}  // namespace camo
