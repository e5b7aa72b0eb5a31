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

namespace {

void append_modes(const Module& module, std::vector<bool>& modes) {
  modes.push_back(module.training());
  for (const auto& [name, child] : module.named_children()) append_modes(*child, modes);
}

}  // namespace

TrainingRunner::TrainingRunner(const CamoXpert& network, CudaGraphs graphs) : network_(network), mode_(graphs) {
  for (const auto& state : {network.named_parameters(), network.named_buffers()})
    for (const NamedTensor& named : state) tensors_.push_back(named.tensor);
  const Device device = network.parameters().front().device();
  CAMO_CHECK_CODE(usage, mode_ != CudaGraphs::on || device.is_cuda(), "--cuda-graphs on: needs a GPU; got --device ",
                  device, "; use auto");
}

TrainingRunner::~TrainingRunner() = default;

bool TrainingRunner::may_record(const Tensor& x) const {
  return mode_ != CudaGraphs::off && x.is_cuda() && !x.requires_grad() && grad_enabled() && network_.training() &&
         !network_.spec().gradient_checkpointing && op_observer() == nullptr;
}

void TrainingRunner::forget_if_state_changed() {
  State now{.tensors = {}, .training = {}, .dropout = network_.spec().dropout};
  now.tensors.reserve(tensors_.size());
  for (const Tensor& x : tensors_) now.tensors.push_back({x.raw_data(), x.requires_grad()});
  append_modes(network_, now.training);
  if (now == recorded_) return;
  recorded_ = std::move(now);
  end_recording();
  calls_ = 0;
}

/// Its memory goes back to the driver before anything else is laid into it, which would keep it from being one piece.
void TrainingRunner::end_recording() {
  if (graphs_ == nullptr) return;
  graphs_.reset();
  release_cached_memory(tensors_.front().device());
}

void TrainingRunner::turn_graphs_off() {
  mode_ = CudaGraphs::off;
  end_recording();
}

CamoXpertOutput TrainingRunner::operator()(const Tensor& x) {
  used_graphs_ = false;
#ifdef CAMO_WITH_CUDA
  constexpr int kEagerCalls = 2;  // they make the plans, tables and 16-bit copies that a recording needs
  if (may_record(x)) {
    forget_if_state_changed();
    const bool same = x.shape() == shape_ && x.dtype() == dtype_ && autocast_dtype() == autocast_;
    if (graphs_ == nullptr && !same) {
      shape_ = x.shape();
      dtype_ = x.dtype();
      autocast_ = autocast_dtype();
      calls_ = 0;
    }
    // Memory of the parts that were recorded is not laid out for another order than theirs.
    if (graphs_ != nullptr && same && !graphs_->is_whole()) end_recording();
    if (graphs_ == nullptr && ++calls_ > kEagerCalls) graphs_ = std::make_unique<TrainingGraphs>(network_, x.device());
    if (graphs_ != nullptr && same) {
      used_graphs_ = true;
      return graphs_->run(x);
    }
  }
#endif
  return network_(x);
}

}  // namespace camo
