#include "models/camoxpert/cuda/forward_graphs.h"

#include <map>
#include <tuple>
#include <vector>

#include "core/cuda/graph.h"
#include "core/op_observer.h"
#include "ops/expert_rows.h"
#include "ops/ops.h"

namespace camo {

namespace {

using cuda::Graph;
using cuda::GraphBuilder;
using cuda::MemoryPool;

constexpr size_t kStages = 4;

/// What both ways of recording share: the pictures, the choices, and the sums with the decoder.
class Recording : public ForwardGraphs {
 protected:
  Recording(const CamoXpert& network, const Tensor& x) : network_(network), pool_(x.device()) {
    const MemoryPool::Scope scope(pool_);
    x_ = clone(x);
  }

  size_t experts() const { return network_.moe_layer(0).experts().size(); }
  const Expert& expert(size_t stage, size_t e) const { return *network_.moe_layer(stage).experts()[e]; }
  /// From parts_ and the rows of every slot in them.
  void decode(const std::array<Tensor, kStages>& rows) {
    std::array<Tensor, kStages> maps;
    for (size_t s = 0; s < kStages; ++s) {
      const Routing& routing = encoding_.routing[s];
      const Tensor weights = contiguous(to(routing.weights, parts_[s].front().dtype()));
      maps[s] = combine_chosen(parts_[s], routing.indices, rows[s], weights);
    }
    logits_ = network_.decode(maps, x_.size(1), x_.size(2)).logits;
  }
  std::array<RoutingReport, kStages> reports() const {
    std::array<RoutingReport, kStages> reports;
    for (size_t s = 0; s < kStages; ++s) reports[s] = network_.moe_layer(s).report(encoding_.routing[s]);
    return reports;
  }

  const CamoXpert& network_;
  MemoryPool pool_;  // before all tensors and graphs that use it
  Tensor x_, logits_;
  CamoXpertEncoding encoding_;
  std::array<Tensors, kStages> parts_;  // [stage][expert]
};

class OnePicture final : public Recording {
 public:
  OnePicture(const CamoXpert& network, const Tensor& x) : Recording(network, x) {
    for (size_t i = 0; i < kStages * (experts() + 1); ++i) pools_.push_back(std::make_unique<MemoryPool>(x.device()));
    {
      const MemoryPool::Scope scope(pool_);
      const int64_t slots = network.moe_layer(0).chosen_per_image();
      for (Tensor& rows : rows_) rows = zeros({1, slots}, i64, x.device());
      encoding_.features = network.features(x_);
    }
    for (size_t s = 0; s < kStages; ++s) {
      parts_[s].resize(experts());
      const MemoryPool::Scope stage_scope(pool_of_stage(s));
      route(s);
      for (size_t e = 0; e < experts(); ++e) {
        const MemoryPool::Scope scope(pool_of_expert(s, e));
        run_expert(s, e);
      }
    }
    {
      const MemoryPool::Scope scope(pool_);
      decode(rows_);
    }
    // The recording makes all of these again, in the memory that they leave.
    encoding_ = {};
    for (Tensors& parts : parts_) parts.assign(experts(), Tensor());
    logits_ = {};
    record(x);
  }

  Tensor run(const Tensor& x) override {
    copy_into(x_, x);
    graph_->launch();
    return logits_;
  }
  std::array<RoutingReport, kStages> routing() override { return reports(); }

 private:
  MemoryPool& pool_of_stage(size_t s) { return *pools_[s]; }
  MemoryPool& pool_of_expert(size_t s, size_t e) { return *pools_[kStages + s * experts() + e]; }

  void route(size_t s) {
    encoding_.enhanced[s] = network_.enhance(s, encoding_.features[s]);
    encoding_.routing[s] = network_.moe_layer(s).route(encoding_.enhanced[s]);
  }
  void run_expert(size_t s, size_t e) {
    const OpScope scope("experts");
    parts_[s][e] = contiguous(expert(s, e)(encoding_.enhanced[s]));
  }

  void record(const Tensor& x) {
    GraphBuilder builder(x_.device());
    std::array<std::vector<GraphBuilder::Condition>, kStages> chosen;
    for (auto& conditions : chosen)
      for (size_t e = 0; e < experts(); ++e) conditions.push_back(builder.condition());
    const GraphBuilder::Step begin = builder.add(pool_, {}, [&] { encoding_.features = network_.features(x_); });
    std::vector<GraphBuilder::Step> experts_done;
    for (size_t s = 0; s < kStages; ++s) {
      const GraphBuilder::Step routed = builder.add(pool_of_stage(s), {&begin, 1}, [&] {
        route(s);
        builder.set_conditions(chosen[s], encoding_.routing[s].indices);
      });
      for (size_t e = 0; e < experts(); ++e) {
        experts_done.push_back(
            builder.add_if(chosen[s][e], pool_of_expert(s, e), {&routed, 1}, [&] { run_expert(s, e); }));
      }
    }
    builder.add(pool_, experts_done, [&] { decode(rows_); });
    graph_ = std::make_unique<Graph>(builder.finish(x.raw_data()));
  }

  std::vector<std::unique_ptr<MemoryPool>> pools_;  // stages, then experts, run side by side: one each
  std::array<Tensor, kStages> rows_;                // zeros: the one picture
  std::unique_ptr<Graph> graph_;
};

class SeveralPictures final : public Recording {
 public:
  SeveralPictures(const CamoXpert& network, const Tensor& x) : Recording(network, x) {
    const MemoryPool::Scope scope(pool_);
    const int64_t images = x.size(0), slots = network.moe_layer(0).chosen_per_image();
    const auto count = static_cast<int64_t>(experts());
    uploaded_ = zeros({static_cast<int64_t>(kStages) * images * (count + slots)}, i64, x.device());
    int64_t at = 0;
    const auto take = [&](const Shape& shape) {
      const Tensor part = reshape(slice(uploaded_, 0, at, at + shape.numel()), shape);
      at += shape.numel();
      return part;
    };
    for (size_t s = 0; s < kStages; ++s) {
      for (int64_t e = 0; e < count; ++e) lists_[s].push_back(take({images}));
      rows_[s] = take({images, slots});
    }

    encoding_ = network.encode(x_);
    for (size_t s = 0; s < kStages; ++s) {
      const Shape shape = encoding_.enhanced[s].shape();
      for (int64_t e = 0; e < count; ++e) {
        const Tensor one = expert(s, static_cast<size_t>(e))(slice(encoding_.enhanced[s], 0, 0, 1));
        parts_[s].push_back(zeros(shape, one.dtype(), x.device()));  // not garbage: the first decode sums it
      }
    }
    decode(rows_);
    encoding_ = {};
    logits_ = {};
    encode_ = std::make_unique<Graph>(
        x_.device(),
        [&] {
          encoding_ = network_.encode(x_);
          encoding_.features = {};
        },
        x.raw_data());
    decode_ = std::make_unique<Graph>(
        x_.device(), [&] { decode(rows_); }, x.raw_data());
  }

  Tensor run(const Tensor& x) override {
    copy_into(x_, x);
    encode_->launch();
    reports_ = reports();  // the one wait for the device
    upload_routing();
    for (size_t s = 0; s < kStages; ++s)
      for (size_t e = 0; e < experts(); ++e)
        if (reports_[s].counts[e] > 0) run_expert(s, e, reports_[s].counts[e], x);
    decode_->launch();
    return logits_;
  }
  std::array<RoutingReport, kStages> routing() override { return reports_; }

 private:
  /// The pictures of each expert in order, and where each slot's result will lie.
  void upload_routing() {
    const int64_t images = x_.size(0), slots = network_.moe_layer(0).chosen_per_image();
    std::vector<int64_t> values;
    for (const RoutingReport& report : reports_) {
      std::vector<std::vector<int64_t>> lists(experts());
      std::vector<int64_t> rows;
      for (int64_t b = 0; b < images; ++b) {
        for (const int64_t e : report.chosen[static_cast<size_t>(b)]) {
          auto& list = lists[static_cast<size_t>(e)];
          rows.push_back(static_cast<int64_t>(list.size()));
          list.push_back(b);
        }
      }
      for (auto& list : lists) {
        list.resize(static_cast<size_t>(images));
        values.insert(values.end(), list.begin(), list.end());
      }
      CAMO_ASSERT(static_cast<int64_t>(rows.size()) == images * slots);
      values.insert(values.end(), rows.begin(), rows.end());
    }
    copy_into(uploaded_, from_vector(values, {static_cast<int64_t>(values.size())}, cpu));
  }

  void run_expert(size_t s, size_t e, int64_t count, const Tensor& x) {
    const auto work = [&] {
      const OpScope scope("experts");
      const Tensor own = index_select(encoding_.enhanced[s], 0, slice(lists_[s][e], 0, 0, count));
      copy_into(slice(parts_[s][e], 0, 0, count), expert(s, e)(own));
    };
    std::unique_ptr<Graph>& graph = experts_[{s, e, count}];
    if (graph != nullptr) return graph->launch();
    // Does this batch's share, and makes the plans, tables and 16-bit weights that a recording needs; not in the pool,
    // whose free memory the graphs recorded so far write to.
    work();
    const auto record = [&] {
      const MemoryPool::Scope scope(pool_);
      graph = std::make_unique<Graph>(x_.device(), work, x.raw_data());
    };
    try {
      record();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::out_of_memory) throw;
      release_cached_memory(x_.device());  // which a recording may not do when it needs the memory
      record();
    }
  }

  Tensor uploaded_;
  std::array<Tensors, kStages> lists_;  // [stage][expert], [N]: the expert's pictures, then anything
  std::array<Tensor, kStages> rows_;    // [N, k]: of each slot in its expert's part
  std::array<RoutingReport, kStages> reports_;
  std::unique_ptr<Graph> encode_, decode_;
  std::map<std::tuple<size_t, size_t, int64_t>, std::unique_ptr<Graph>> experts_;
};

}  // namespace

std::unique_ptr<ForwardGraphs> record_forward(const CamoXpert& network, const Tensor& x) {
  if (x.size(0) == 1 && cuda::why_no_graph_conditions().empty()) return std::make_unique<OnePicture>(network, x);
  return std::make_unique<SeveralPictures>(network, x);
}

}  // namespace camo
