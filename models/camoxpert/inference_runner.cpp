#include "models/camoxpert/inference_runner.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "core/autocast.h"
#include "core/autograd.h"
#ifdef CAMO_WITH_CUDA
#include "models/camoxpert/cuda/forward_graphs.h"
#endif

namespace camo {

#ifndef CAMO_WITH_CUDA
class ForwardGraphs {};  // there are none
#endif

namespace {

constexpr int kEagerCalls = 2;        // of a shape before it is worth recording
constexpr int64_t kMostExperts = 64;  // whose conditions and results one kernel sets and adds up
constexpr size_t kMaxEntries = 4;     // each keeps memory for its results: sizes of test-time augmentation are three

}  // namespace

CudaGraphs parse_cuda_graphs(std::string_view text) {
  if (text == "auto") return CudaGraphs::automatic;
  if (text == "on") return CudaGraphs::on;
  CAMO_CHECK_CODE(usage, text == "off", "--cuda-graphs: must be auto, on or off; got '", text, "'");
  return CudaGraphs::off;
}

InferenceRunner::InferenceRunner(const CamoXpert& network, CudaGraphs graphs) : network_(network), mode_(graphs) {
  for (const auto& state : {network.named_parameters(), network.named_buffers()})
    for (const NamedTensor& named : state) weights_.push_back(named.tensor);
  if (const int64_t experts = network.spec().num_experts; experts > kMostExperts) {
    CAMO_CHECK_CODE(usage, mode_ != CudaGraphs::on, "--cuda-graphs on: records networks of at most ", kMostExperts,
                    " experts; got ", experts, "; use auto or off");
    mode_ = CudaGraphs::off;
  }
  const Device device = network.parameters().front().device();
  CAMO_CHECK_CODE(usage, mode_ != CudaGraphs::on || device.is_cuda(), "--cuda-graphs on: needs a GPU; got --device ",
                  device, "; use auto");
}

InferenceRunner::~InferenceRunner() = default;

InferenceRunner::Entry& InferenceRunner::entry_of(const Tensor& x) {
  const auto matches = [&](const Entry& entry) {
    return entry.shape == x.shape() && entry.dtype == x.dtype() && entry.autocast == autocast_dtype();
  };
  const auto found = std::find_if(entries_.begin(), entries_.end(), matches);
  if (found == entries_.end()) {
    if (entries_.size() == kMaxEntries) entries_.pop_back();
    entries_.insert(entries_.begin(), Entry{x.shape(), x.dtype(), autocast_dtype(), 0, nullptr});
  } else {
    std::rotate(entries_.begin(), found, found + 1);
  }
  return entries_.front();
}

void InferenceRunner::forget_if_weights_changed() {
  const auto holds = [](const Tensor& x) { return std::pair<const void*, uint64_t>(x.raw_data(), x.version()); };
  const bool same = recorded_weights_.size() == weights_.size() &&
                    std::equal(weights_.begin(), weights_.end(), recorded_weights_.begin(),
                               [&](const Tensor& x, const auto& recorded) { return holds(x) == recorded; });
  if (same) return;
  entries_.clear();
  recorded_weights_.clear();
  for (const Tensor& x : weights_) recorded_weights_.push_back(holds(x));
}

#ifdef CAMO_WITH_CUDA
Tensor InferenceRunner::run_graphs(const Tensor& x) {
  forget_if_weights_changed();
  Entry& entry = entry_of(x);
  if (entry.graphs == nullptr && (mode_ == CudaGraphs::on || entry.calls >= kEagerCalls))
    entry.graphs = record_forward(network_, x);
  ++entry.calls;
  if (entry.graphs == nullptr) return {};
  last_ = entry.graphs.get();
  return last_->run(x);
}
#endif

Tensor InferenceRunner::operator()(const Tensor& x) {
  CAMO_CHECK(!network_.training(), "inference: the network must be in evaluation mode; call eval()");
  const NoGrad no_grad;
  last_ = nullptr;
  routing_known_ = false;
#ifdef CAMO_WITH_CUDA
  if (x.is_cuda() && mode_ != CudaGraphs::off) {
    try {
      const Tensor logits = run_graphs(x);
      if (last_ != nullptr) return logits;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::out_of_memory || mode_ != CudaGraphs::automatic) throw;
      std::fprintf(stderr, "warning: inference goes on without CUDA graphs: %s\n", error.what());
      mode_ = CudaGraphs::off;
      last_ = nullptr;
      entries_.clear();
      release_cached_memory(x.device());
    }
  }
#endif
  CamoXpertOutput output = network_(x);
  routing_ = std::move(output.routing);
  routing_known_ = true;
  return output.logits;
}

const std::array<RoutingReport, 4>& InferenceRunner::routing() {
#ifdef CAMO_WITH_CUDA
  if (!routing_known_ && last_ != nullptr) routing_ = last_->routing();
#endif
  routing_known_ = true;
  return routing_;
}

}  // namespace camo
