#include "nn/cuda/recorded_function.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "core/additions.h"
#include "core/autocast.h"
#include "core/autograd.h"
#include "core/cuda/graph.h"
#include "core/cuda/recording.h"
#include "core/random.h"
#include "ops/detail/autocast.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

/// A parameter and where the recording leaves its gradient.
struct ParameterGradient {
  Tensor parameter, gradient;
  Tensor sum;  // part of sums_
};

/// A whole number on the host that each run of the function raises.
struct Counter {
  Tensor value;
  int64_t step = 0;

  int64_t& at() const { return *value.data<int64_t>(); }
};

}  // namespace

class RecordedFunction::Recording {
 public:
  Recording(const char* name, const Module& module, const Function& fn, const Tensors& inputs,
            cuda::MemoryPool& forward_memory, cuda::MemoryPool& backward_memory);

  /// Launches the forward; new handles of the results.
  Tensors run(const Tensors& inputs);
  /// Launches the backward of run number `run`: the gradients of the inputs.
  Tensors run_backward(const Tensors& dy, uint64_t run);

  const char* name() const { return name_; }
  const Tensors& outputs() const { return outputs_; }
  const std::vector<bool>& has_graph() const { return has_graph_; }
  uint64_t runs() const { return runs_; }
  /// A parameter that gets a gradient, so that results have a graph when no input requires one. Undefined: none.
  Tensor anchor() const { return gradients_.empty() ? Tensor() : gradients_.front().parameter; }

 private:
  void record(const Module& module, const Function& fn, cuda::MemoryPool& backward_memory);
  void upload_key();
  /// Moves gradients that are to be added to out of the memory that launches overwrite.
  void give_own_sums();

  const char* name_;
  Device device_;
  DType autocast_;
  Tensors inputs_, outputs_, input_gradients_;
  std::vector<bool> has_graph_;  // of the outputs
  Tensors cotangents_;           // of those that have one
  std::vector<ParameterGradient> gradients_;
  Tensor sums_;  // of gradients over several calls; made when first needed
  std::vector<Counter> counters_;
  Tensor key_;  // a RandomKey on the device: the first that a launch draws
  uint64_t draws_ = 0, uploaded_seed_ = 0;
  std::optional<cuda::MemoryHold> hold_;
  std::optional<cuda::Graph> forward_, backward_;
  uint64_t runs_ = 0, differentiated_ = 0;
};

namespace {

/// Sets the gradients of parameters aside.
class WithoutGradients {
 public:
  explicit WithoutGradients(const Tensors& parameters) : parameters_(parameters) {
    for (const Tensor& parameter : parameters) {
      before_.push_back(parameter.grad());
      parameter.set_grad({});
    }
  }
  ~WithoutGradients() {
    for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad(before_[i]);
  }
  WithoutGradients(const WithoutGradients&) = delete;
  WithoutGradients& operator=(const WithoutGradients&) = delete;

 private:
  const Tensors& parameters_;
  Tensors before_;
};

}  // namespace

RecordedFunction::Recording::Recording(const char* name, const Module& module, const Function& fn,
                                       const Tensors& inputs, cuda::MemoryPool& forward_memory,
                                       cuda::MemoryPool& backward_memory)
    : name_(name), device_(forward_memory.device()), autocast_(autocast_dtype()) {
  const cuda::MemoryPool::Scope scope(forward_memory);
  for (const Tensor& input : inputs) {
    const Tensor own = empty(input.shape(), input.dtype(), device_);
    fill(own, 0);
    inputs_.push_back(own.set_requires_grad(input.requires_grad()));
  }
  key_ = zeros({2}, i64, device_);
  detail::refresh_autocast_parameters(device_, autocast_);
  hold_.emplace(device_);
  record(module, fn, backward_memory);
}

void RecordedFunction::Recording::record(const Module& module, const Function& fn, cuda::MemoryPool& backward_memory) {
  Tensors parameters;
  for (const Tensor& parameter : module.parameters()) {
    if (parameter.requires_grad()) parameters.push_back(parameter);
  }
  std::vector<Counter> counters;
  for (const NamedTensor& buffer : module.named_buffers()) {
    if (buffer.tensor.dtype() == i64 && buffer.tensor.device().is_cpu() && buffer.tensor.numel() == 1) {
      counters.push_back({buffer.tensor, buffer.tensor.data<int64_t>()[0]});
    }
  }
  const RandomKey first = default_generator().state();
  const WithoutGradients aside(parameters);
  {
    const EnableGrad enable;
    const cuda::RecordedKeys keys(static_cast<const RandomKey*>(key_.raw_data()), first);
    Tensors results, differentiable;
    forward_.emplace(cuda::Graph::without_hold(device_, [&] { results = fn(inputs_); }));
    for (const Tensor& result : results) {
      outputs_.push_back(result.detach());
      has_graph_.push_back(result.requires_grad());
      if (!result.requires_grad()) continue;
      differentiable.push_back(result);
      cotangents_.push_back(zeros(result.shape(), result.dtype(), device_));
    }
    if (!differentiable.empty()) {
      const cuda::MemoryPool::Scope scope(backward_memory);
      backward_.emplace(cuda::Graph::without_hold(device_, [&] { camo::backward(differentiable, cotangents_); }));
    }
  }
  for (const Tensor& input : inputs_) {
    input_gradients_.push_back(input.grad());
    input.set_grad({});
  }
  for (const Tensor& parameter : parameters) {
    if (parameter.grad().defined()) gradients_.push_back({parameter, parameter.grad(), {}});
  }
  draws_ = default_generator().state().stream - first.stream;
  default_generator().set_state(first);
  for (Counter& counter : counters) {
    const int64_t before = counter.step;
    counter.step = counter.at() - before;
    counter.at() = before;
    if (counter.step != 0) counters_.push_back(counter);
  }
}

void RecordedFunction::Recording::upload_key() {
  if (draws_ == 0) return;
  const RandomKey state = default_generator().state();
  if (runs_ == 0 || state.seed != uploaded_seed_) {  // waits for the device, which filling does not
    copy_into(key_, from_vector(std::vector<int64_t>{static_cast<int64_t>(state.seed), 0}, {2}, cpu));
    uploaded_seed_ = state.seed;
  }
  fill(slice(key_, 0, 1, 2), static_cast<double>(state.stream));
  default_generator().set_state({state.seed, state.stream + draws_});
}

Tensors RecordedFunction::Recording::run(const Tensors& inputs) {
  CAMO_CHECK(inputs.size() == inputs_.size(), name_, ": recorded for ", inputs_.size(), " inputs; got ", inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    CAMO_CHECK(inputs[i].shape() == inputs_[i].shape() && inputs[i].dtype() == inputs_[i].dtype(), name_,
               ": recorded for ", inputs_[i].dtype(), " ", inputs_[i].shape(), "; got ", inputs[i].dtype(), " ",
               inputs[i].shape());
  }
  const NoGrad no_grad;
  give_own_sums();
  detail::refresh_autocast_parameters(device_, autocast_);
  for (size_t i = 0; i < inputs.size(); ++i) copy_into(inputs_[i].detach(), inputs[i].detach());
  upload_key();
  forward_->launch();
  for (const Counter& counter : counters_) {
    counter.at() += counter.step;
    counter.value.storage()->bump_version();
  }
  ++runs_;
  Tensors results;
  for (const Tensor& output : outputs_) results.push_back(output.detach());
  return results;
}

void RecordedFunction::Recording::give_own_sums() {
  const auto is_overwritten = [](const ParameterGradient& entry) {
    return entry.parameter.grad().same_as(entry.gradient);
  };
  if (std::none_of(gradients_.begin(), gradients_.end(), is_overwritten)) return;
  if (!sums_.defined()) {
    constexpr int64_t kAligned = 64;
    std::vector<int64_t> begins;
    int64_t end = 0;
    for (const ParameterGradient& entry : gradients_) {
      begins.push_back(end);
      end += (entry.gradient.numel() + kAligned - 1) / kAligned * kAligned;
    }
    sums_ = empty({end}, f32, device_);
    for (size_t i = 0; i < gradients_.size(); ++i) {
      const Tensor& gradient = gradients_[i].gradient;
      CAMO_CHECK(gradient.dtype() == f32, name_, ": sums of recorded gradients must be f32; got ", gradient.dtype());
      gradients_[i].sum = reshape(slice(sums_, 0, begins[i], begins[i] + gradient.numel()), gradient.shape());
    }
  }
  fill(sums_, 0);
  Additions copies;  // onto zeros: few launches
  for (ParameterGradient& entry : gradients_) {
    if (!is_overwritten(entry)) continue;
    copies.add(entry.sum, entry.gradient);
    entry.parameter.set_grad(entry.sum);
  }
  copies.finish();
}

Tensors RecordedFunction::Recording::run_backward(const Tensors& dy, uint64_t run) {
  CAMO_CHECK(run == runs_ && run != differentiated_, name_,
             ": the backward of a recorded function must come once, before its next forward; got that of run ", run,
             " after ", runs_, " runs, of which ", differentiated_, " was the last to be differentiated");
  differentiated_ = run;
  for (size_t i = 0; i < dy.size(); ++i) {
    if (dy[i].defined()) copy_into(cotangents_[i], dy[i]);
    else fill(cotangents_[i], 0);
  }
  backward_->launch();
  Additions additions;
  for (const ParameterGradient& entry : gradients_) {
    if (entry.parameter.grad().defined()) additions.add(entry.parameter.grad(), entry.gradient);
    else entry.parameter.set_grad(entry.gradient);
  }
  additions.finish();
  return input_gradients_;
}

namespace {

/// Backward through a recording, which lives as long as this.
template <class Recording>
struct RecordedNode final : Node {
  explicit RecordedNode(std::shared_ptr<Recording> of)
      : Node(of->name()), recording(std::move(of)), run(recording->runs()) {}
  std::shared_ptr<Recording> recording;
  uint64_t run;

  Tensors backward(const Tensors& dy) override {
    Tensors gradients = recording->run_backward(dy, run);
    gradients.resize(edges().size());  // the anchor's is set already
    return gradients;
  }
};

}  // namespace

RecordedFunction::RecordedFunction(const char* name, const Module& module, const Function& fn, const Tensors& inputs,
                                   cuda::MemoryPool& forward_memory, cuda::MemoryPool& backward_memory)
    : recording_(std::make_shared<Recording>(name, module, fn, inputs, forward_memory, backward_memory)) {}

RecordedFunction::~RecordedFunction() = default;

const Tensors& RecordedFunction::results() const { return recording_->outputs(); }

Tensors RecordedFunction::operator()(const Tensors& inputs) {
  const Tensors outputs = recording_->run(inputs);
  Tensors differentiable, from = inputs;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (recording_->has_graph()[i]) differentiable.push_back(outputs[i]);
  }
  from.push_back(recording_->anchor());
  if (!differentiable.empty()) record<RecordedNode<Recording>>(differentiable, from, recording_);
  return outputs;
}

}  // namespace camo
