#include "nn/cuda/recorded_function.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/additions.h"
#include "core/autocast.h"
#include "core/autograd.h"
#include "core/cuda/graph.h"
#include "core/cuda/recording.h"
#include "core/random_scope.h"
#include "core/storage.h"
#include "ops/detail/autocast.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

/// A parameter and where the recording leaves its gradient.
struct ParameterGradient {
  Tensor parameter, gradient;
  Tensor sum;  // where it is added up over several calls: part of sums_

  bool is_overwritten() const { return lies_in(gradient); }
  bool lies_in(const Tensor& memory) const {
    return memory.defined() && parameter.grad().defined() && parameter.grad().storage() == memory.storage();
  }
};

/// A whole number on the host that each run of the function raises.
struct Counter {
  Tensor value;
  int64_t before = 0;  // the recording
  int64_t step = 0;

  int64_t& at() const { return *value.data<int64_t>(); }
};

}  // namespace

class RecordedFunction::Recording {
 public:
  Recording(const char* name, const Module& module, Function fn, std::shared_ptr<cuda::MemoryPool> memory)
      : name_(name),
        module_(module),
        fn_(std::move(fn)),
        memory_(std::move(memory)),
        device_(memory_->device()),
        hold_(device_) {}

  /// Launches the forward; new handles of the results.
  Tensors run(const Tensors& inputs);
  /// Launches the backward of run number `run`: the gradients of the inputs.
  Tensors run_backward(const Tensors& dy, uint64_t run);
  void keep_gradients();

  const char* name() const { return name_; }
  bool is_whole() const { return forward_ && (backward_ || cotangents_.empty()); }
  const std::vector<bool>& has_graph() const { return has_graph_; }
  uint64_t runs() const { return runs_; }

 private:
  void check(const Tensors& inputs) const;
  void record_forward(const Tensors& inputs);
  /// Of the results with a gradient in `dy`.
  void record_backward(const Tensors& dy);
  cuda::Graph record(FunctionRef<void()> work) const;
  void upload_key();
  void make_sums();

  const char* name_;
  const Module& module_;
  Function fn_;
  std::shared_ptr<cuda::MemoryPool> memory_;
  Device device_;
  cuda::MemoryHold hold_;

  std::optional<cuda::Graph> forward_, backward_;
  std::thread::id thread_;  // that recorded: 16-bit copies of parameters are each thread's own
  DType autocast_ = f32;    // of the forward
  Tensors inputs_, outputs_, input_gradients_;
  std::vector<bool> has_graph_;   // of the outputs
  Tensors differentiable_;        // the outputs that have one: with it, until the backward is recorded
  Tensors cotangents_;            // of these
  std::vector<bool> is_reached_;  // of these: whether the recorded backward takes a gradient
  std::vector<ParameterGradient> gradients_;
  Tensor sums_;  // of gradients over several calls; made when first needed
  std::vector<Counter> counters_;
  Tensor key_;           // a RandomKey on the device: the first that a launch draws
  RandomKey first_key_;  // the first that the recording drew
  uint64_t draws_ = 0;   // of the forward
  uint64_t uploaded_seed_ = 0;
  uint64_t runs_ = 0, differentiated_ = 0;
};

namespace {

Tensors trained_parameters(const Module& module) {
  Tensors parameters = module.parameters();
  std::erase_if(parameters, [](const Tensor& parameter) { return !parameter.requires_grad(); });
  return parameters;
}

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

/// The counters of a module; recorded work does not raise them.
class KeepCounters {
 public:
  explicit KeepCounters(const Module& module) {
    for (const NamedTensor& buffer : module.named_buffers()) {
      const Tensor& value = buffer.tensor;
      if (value.dtype() != i64 || !value.device().is_cpu() || value.numel() != 1) continue;
      counters_.push_back({value});
      counters_.back().before = counters_.back().at();
    }
  }
  ~KeepCounters() {
    for (const Counter& counter : counters_) counter.at() = counter.before;
  }
  KeepCounters(const KeepCounters&) = delete;
  KeepCounters& operator=(const KeepCounters&) = delete;

  /// Those that the work since has raised.
  std::vector<Counter> raised() const {
    std::vector<Counter> found;
    for (Counter counter : counters_) {
      counter.step = counter.at() - counter.before;
      if (counter.step != 0) found.push_back(counter);
    }
    return found;
  }

 private:
  std::vector<Counter> counters_;
};

}  // namespace

cuda::Graph RecordedFunction::Recording::record(FunctionRef<void()> work) const {
  try {
    return cuda::Graph::without_hold(device_, work);
  } catch (const Error& error) {
    throw error.with_context(concat_text("while recording ", name_));
  }
}

// What the forward saves for the backward remembers its version, so inputs are filled before either is recorded.
void RecordedFunction::Recording::record_forward(const Tensors& inputs) {
  // Of a recording whose backward never came.
  forward_.reset();
  for (Tensors* made : {&inputs_, &outputs_, &differentiable_, &cotangents_}) made->clear();
  release_cached_memory(device_);  // which a recording may not do when it needs the memory
  thread_ = std::this_thread::get_id();
  autocast_ = autocast_dtype();
  detail::refresh_autocast_parameters(device_, autocast_);
  const cuda::MemoryPool::Scope scope(*memory_);
  for (const Tensor& input : inputs) inputs_.push_back(clone(input.detach()).set_requires_grad(input.requires_grad()));
  if (!key_.defined()) key_ = zeros({2}, i64, device_);

  const EnableGrad enable;
  const RandomScope random_numbers;
  const KeepCounters counters(module_);
  first_key_ = default_generator().state();
  const cuda::RecordedKeys keys(static_cast<const RandomKey*>(key_.raw_data()), first_key_);
  Tensors results;
  forward_.emplace(record([&] { results = fn_(inputs_); }));
  draws_ = default_generator().state().stream - first_key_.stream;
  counters_ = counters.raised();
  has_graph_.clear();
  for (const Tensor& result : results) {
    outputs_.push_back(result.detach());
    has_graph_.push_back(result.requires_grad());
    if (!result.requires_grad()) continue;
    differentiable_.push_back(result);
    cotangents_.push_back(zeros(result.shape(), result.dtype(), device_));
  }
}

void RecordedFunction::Recording::record_backward(const Tensors& dy) {
  release_cached_memory(device_);
  const cuda::MemoryPool::Scope scope(*memory_);
  const RandomScope random_numbers;
  const cuda::RecordedKeys keys(static_cast<const RandomKey*>(key_.raw_data()), first_key_);
  const Tensors parameters = trained_parameters(module_);
  const WithoutGradients aside(parameters);
  Tensors reached, cotangents;
  is_reached_.clear();
  for (size_t i = 0; i < dy.size(); ++i) {
    is_reached_.push_back(dy[i].defined());
    if (!dy[i].defined()) continue;
    reached.push_back(differentiable_[i]);
    cotangents.push_back(cotangents_[i]);
  }
  differentiable_.clear();
  backward_.emplace(record([&] { camo::backward(std::exchange(reached, {}), cotangents); }));
  for (const Tensor& input : inputs_) {
    input_gradients_.push_back(input.grad());
    input.set_grad({});
  }
  for (const Tensor& parameter : parameters) {
    if (parameter.grad().defined()) gradients_.push_back({parameter, parameter.grad(), {}});
  }
}

void RecordedFunction::Recording::check(const Tensors& inputs) const {
  CAMO_CHECK(std::this_thread::get_id() == thread_, name_,
             ": must be called by the thread that recorded it; got another one");
  CAMO_CHECK(inputs.size() == inputs_.size(), name_, ": recorded for ", inputs_.size(), " inputs; got ", inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    CAMO_CHECK(inputs[i].shape() == inputs_[i].shape() && inputs[i].dtype() == inputs_[i].dtype(), name_,
               ": recorded for ", inputs_[i].dtype(), " ", inputs_[i].shape(), "; got ", inputs[i].dtype(), " ",
               inputs[i].shape());
    CAMO_CHECK(!inputs[i].requires_grad() || inputs_[i].requires_grad(), name_,
               ": recorded without the gradient of input ", i, "; got one that wants it; detach() it");
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
  for (const Tensor& input : inputs) {
    CAMO_CHECK(input.device() == device_, name_, ": inputs must lie on ", device_, "; got one on ", input.device());
  }
  if (is_whole()) check(inputs);
  const NoGrad no_grad;
  keep_gradients();
  if (!is_whole()) {  // a forward that was never differentiated saved inputs that would change
    record_forward(inputs);
  } else {
    for (const Tensor& output : outputs_) output.storage()->bump_version();  // for who saved them
    detail::refresh_autocast_parameters(device_, autocast_);
    for (size_t i = 0; i < inputs.size(); ++i) copy_into(inputs_[i].detach(), inputs[i].detach());
  }
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

void RecordedFunction::Recording::make_sums() {
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

void RecordedFunction::Recording::keep_gradients() {
  const auto is_overwritten = [](const ParameterGradient& entry) { return entry.is_overwritten(); };
  if (std::none_of(gradients_.begin(), gradients_.end(), is_overwritten)) return;
  const auto is_sum = [&](const ParameterGradient& entry) { return entry.lies_in(sums_); };
  if (!sums_.defined() || std::any_of(gradients_.begin(), gradients_.end(), is_sum)) make_sums();
  fill(sums_, 0);
  Additions copies;  // onto zeros: few launches
  for (ParameterGradient& entry : gradients_) {
    if (!entry.is_overwritten()) continue;
    copies.add(entry.sum, entry.parameter.grad());
    entry.parameter.set_grad(entry.sum);
  }
  copies.finish();
}

Tensors RecordedFunction::Recording::run_backward(const Tensors& dy, uint64_t run) {
  CAMO_CHECK(run == runs_ && run != differentiated_, name_,
             ": the backward of a recorded function must come once, before its next forward; got that of run ", run,
             " after ", runs_, " runs, of which ", differentiated_, " was the last to be differentiated");
  for (size_t i = 0; backward_ && i < dy.size(); ++i) {
    CAMO_CHECK(!dy[i].defined() || is_reached_[i], name_, ": recorded with no gradient of a result, ",
               cotangents_[i].dtype(), " ", cotangents_[i].shape(),
               "; got one; record another function for another loss");
  }
  differentiated_ = run;
  for (size_t i = 0; i < dy.size(); ++i) {
    if (dy[i].defined()) copy_into(cotangents_[i], dy[i]);
    else if (backward_ && is_reached_[i]) fill(cotangents_[i], 0);
  }
  if (!backward_) record_backward(dy);
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
    gradients.resize(edges().size());  // none for the leaf that stands for the parameters
    return gradients;
  }
};

}  // namespace

RecordedFunction::RecordedFunction(const char* name, const Module& module, Function fn,
                                   std::shared_ptr<cuda::MemoryPool> memory)
    : recording_(std::make_shared<Recording>(name, module, std::move(fn), std::move(memory))) {}

RecordedFunction::~RecordedFunction() = default;

void RecordedFunction::keep_gradients() { recording_->keep_gradients(); }
bool RecordedFunction::is_whole() const { return recording_->is_whole(); }

Tensors RecordedFunction::operator()(const Tensors& inputs) {
  const Tensors outputs = recording_->run(inputs);
  Tensors differentiable, from = inputs;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (recording_->has_graph()[i]) differentiable.push_back(outputs[i]);
  }
  from.push_back(zeros({}, f32, cpu).set_requires_grad(true));  // results have a graph also when no input requires one
  if (!differentiable.empty()) record<RecordedNode<Recording>>(differentiable, from, recording_);
  return outputs;
}

}  // namespace camo
