#include "models/camoxpert/training_runner.h"

#include "core/autocast.h"
#include "core/autograd.h"
#include "core/op_observer.h"
#ifdef CAMO_WITH_CUDA
#include "models/camoxpert/cuda/training_graphs.h"
#endif

namespace camo {

#ifndef CAMO_WITH_CUDA
class TrainingGraphs {};  // there are none
#endif

TrainingRunner::TrainingRunner(const CamoXpert& network, CudaGraphs graphs) : network_(network), mode_(graphs) {
  for (const auto& state : {network.named_parameters(), network.named_buffers()})
    for (const NamedTensor& named : state) state_.push_back(named.tensor);
  const Device device = network.parameters().front().device();
  CAMO_CHECK_CODE(usage, mode_ != CudaGraphs::on || device.is_cuda(), "--cuda-graphs on: needs a GPU; got --device ",
                  device, "; use auto");
}

TrainingRunner::~TrainingRunner() = default;

bool TrainingRunner::may_record(const Tensor& x) const {
  return mode_ != CudaGraphs::off && x.is_cuda() && grad_enabled() && network_.training() &&
         !network_.spec().gradient_checkpointing && op_observer() == nullptr;
}

void TrainingRunner::forget_if_parameters_changed() {
  std::vector<Handle> now;
  now.reserve(state_.size());
  for (const Tensor& x : state_) now.push_back({x.raw_data(), x.requires_grad()});
  if (now == recorded_) return;
  recorded_ = std::move(now);
  graphs_.reset();
  calls_ = 0;
}

CamoXpertOutput TrainingRunner::operator()(const Tensor& x) {
  used_graphs_ = false;
#ifdef CAMO_WITH_CUDA
  constexpr int kEagerCalls = 2;  // they make the plans, tables and 16-bit copies that a recording needs
  if (may_record(x)) {
    forget_if_parameters_changed();
    const bool same = x.shape() == shape_ && autocast_dtype() == autocast_;
    if (graphs_ == nullptr && !same) {
      shape_ = x.shape();
      autocast_ = autocast_dtype();
      calls_ = 0;
    }
    if (graphs_ == nullptr && ++calls_ > kEagerCalls) graphs_ = std::make_unique<TrainingGraphs>(network_, x.device());
    if (graphs_ != nullptr && x.shape() == shape_ && autocast_dtype() == autocast_) {
      used_graphs_ = true;
      return graphs_->run(x);
    }
  }
#endif
  return network_(x);
}

}  // namespace camo
