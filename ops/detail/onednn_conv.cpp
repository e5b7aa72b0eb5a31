#include "ops/detail/onednn_conv.h"

#ifdef CAMO_WITH_ONEDNN

#include <cstdlib>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/error.h"
#include "core/half.h"
#include "core/parallel.h"
#include "ops/detail/onednn_api.h"

namespace camo::onednn {

namespace {

using dnnl::memory;

enum class Kind { forward, backward_data, backward_weight };

struct Key {
  ConvProblem problem;
  Kind kind;
  bool bias;
  bool bf16;
  friend bool operator==(const Key&, const Key&) = default;
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    const ConvProblem& p = key.problem;
    size_t hash = static_cast<size_t>(key.kind) * 4 + static_cast<size_t>(key.bias) * 2 + static_cast<size_t>(key.bf16);
    for (int64_t value : {p.n, p.h, p.w, p.c, p.o, p.kh, p.kw, p.oh, p.ow, p.stride_h, p.stride_w, p.padding_h,
                          p.padding_w, p.dilation_h, p.dilation_w, p.groups}) {
      hash = (hash ^ static_cast<size_t>(value)) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 29;
    }
    return hash;
  }
};

// A primitive with what is needed to call it. The library chooses the layout of the weight; `reorder` brings ours into
// it (forward, backward_data) or its result into ours (backward_weight).
struct Plan {
  dnnl::primitive conv;
  memory::desc map, result_map, weight, plain_weight, bias,
      scratchpad;  // map: [n, h, w, c], result_map: [n, oh, ow, o]
  dnnl::reorder reorder;
  bool needs_reorder = false;
};

const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

dnnl::stream& stream() {
  thread_local dnnl::stream instance(engine());
  return instance;
}

// Memory that grows and is kept, one block a thread and use.
class Workspace {
 public:
  void* at_least(size_t bytes) {
    if (bytes > bytes_) {
      constexpr size_t kAlignment = 64;
      bytes_ = 0;
      memory_.reset(std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment));
      CAMO_CHECK_CODE(device, memory_ != nullptr, "conv2d: out of memory; asked for ", bytes, " bytes of workspace");
      bytes_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(void* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t bytes_ = 0;
};

Plan make_plan(const Key& key) {
  const ConvProblem& p = key.problem;
  const auto f32 = memory::data_type::f32, maps = key.bf16 ? memory::data_type::bf16 : f32;
  const auto weights = key.kind == Kind::backward_weight ? f32 : maps;
  const auto any = memory::format_tag::any;
  const int64_t inputs = p.inputs_per_group();
  const int64_t step = p.kh * p.kw * inputs;  // elements of one output channel's weight
  const memory::dims shape = p.groups == 1 ? memory::dims{p.o, p.c, p.kh, p.kw}
                                           : memory::dims{p.groups, p.outputs_per_group(), inputs, p.kh, p.kw};
  const memory::dims steps = p.groups == 1 ? memory::dims{step, 1, p.kw * inputs, inputs}
                                           : memory::dims{p.outputs_per_group() * step, step, 1, p.kw * inputs, inputs};

  Plan plan;
  plan.map = memory::desc({p.n, p.c, p.h, p.w}, maps, memory::format_tag::nhwc);
  plan.result_map = memory::desc({p.n, p.o, p.oh, p.ow}, maps, memory::format_tag::nhwc);
  plan.plain_weight = memory::desc(shape, weights, steps);
  plan.bias = key.bias ? memory::desc({p.o}, weights, memory::format_tag::a) : memory::desc();
  const memory::desc any_weight(shape, maps, any), any_weight_gradient(shape, weights, any);
  const memory::dims strides{p.stride_h, p.stride_w}, dilations{p.dilation_h - 1, p.dilation_w - 1};
  const memory::dims padding{p.padding_h, p.padding_w};
  const auto direct = dnnl::algorithm::convolution_direct;

  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto training = dnnl::prop_kind::forward_training;
  const auto forward =
      key.bias ? describe<dnnl::convolution_forward>(engine(), attributes, training, direct, plan.map, any_weight,
                                                     plan.bias, plan.result_map, strides, dilations, padding, padding)
               : describe<dnnl::convolution_forward>(engine(), attributes, training, direct, plan.map, any_weight,
                                                     plan.result_map, strides, dilations, padding, padding);

  const auto finish = [&plan](const auto& description, const auto& primitive, const memory::desc& weight) {
    plan.conv = primitive;
    plan.weight = weight;
    plan.scratchpad = description.scratchpad_desc();
  };
  if (key.kind == Kind::forward) {
    finish(forward, dnnl::convolution_forward(forward), forward.weights_desc());
  } else if (key.kind == Kind::backward_data) {
    const auto description =
        describe_backward<dnnl::convolution_backward_data>(engine(), attributes, forward, direct, plan.map, any_weight,
                                                           plan.result_map, strides, dilations, padding, padding);
    finish(description, dnnl::convolution_backward_data(description), description.weights_desc());
  } else {
    using BackwardWeight = dnnl::convolution_backward_weights;
    const auto description =
        describe_backward<BackwardWeight>(engine(), attributes, forward, direct, plan.map, any_weight_gradient,
                                          plan.result_map, strides, dilations, padding, padding);
    finish(description, BackwardWeight(description), description.diff_weights_desc());
  }

  plan.needs_reorder = plan.weight != plan.plain_weight;
  if (plan.needs_reorder) {
    const bool to_plain = key.kind == Kind::backward_weight;
    plan.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(engine(), to_plain ? plan.weight : plan.plain_weight,
                                                               engine(), to_plain ? plan.plain_weight : plan.weight));
  }
  return plan;
}

// The least recently used plan goes when there are too many.
class PlanCache {
 public:
  std::shared_ptr<const Plan> find_or_make(const Key& key) {
    const std::lock_guard lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) {
      plans_.splice(plans_.begin(), plans_, found->second);
      return plans_.front().second;
    }
    plans_.emplace_front(key, std::make_shared<Plan>(make_plan(key)));
    index_[key] = plans_.begin();
    if (plans_.size() > kCapacity) {
      index_.erase(plans_.back().first);
      plans_.pop_back();
    }
    return plans_.front().second;
  }

 private:
  static constexpr size_t kCapacity = 512;  // a network has some 150 convolutions, each with three plans
  using Entry = std::pair<Key, std::shared_ptr<const Plan>>;
  std::mutex mutex_;
  std::list<Entry> plans_;  // most recently used first
  std::unordered_map<Key, std::list<Entry>::iterator, KeyHash> index_;
};

template <class T>
std::shared_ptr<const Plan> plan_for(const ConvProblem& problem, Kind kind, bool bias) {
  static PlanCache cache;
  return cache.find_or_make({problem, kind, bias, std::is_same_v<T, BFloat16>});
}

memory wrap(const memory::desc& description, const void* data) {
  return memory(description, engine(), const_cast<void*>(data));
}

void* weight_buffer(const Plan& plan) {
  thread_local Workspace workspace;
  return workspace.at_least(plan.weight.get_size());
}

memory scratchpad(const Plan& plan) {
  thread_local Workspace workspace;
  return wrap(plan.scratchpad, workspace.at_least(std::max<size_t>(plan.scratchpad.get_size(), 64)));
}

// Our weight in the layout of the plan.
memory prepared_weight(const Plan& plan, const void* weight) {
  if (!plan.needs_reorder) return wrap(plan.weight, weight);
  memory prepared = wrap(plan.weight, weight_buffer(plan));
  memory source = wrap(plan.plain_weight, weight);
  plan.reorder.execute(stream(), source, prepared);
  return prepared;
}

// dx is the convolution of dy with the turned kernel, and the forward primitive takes 60 to 95 % of the time of the one
// for backward where maps are large enough that turning the weight costs nothing.
bool is_faster_as_forward(const ConvProblem& p) {
  constexpr int64_t kPixels = 8192;
  return p.groups == 1 && p.stride_h == 1 && p.stride_w == 1 && p.n * p.h * p.w >= kPixels &&
         p.dilation_h * (p.kh - 1) >= p.padding_h && p.dilation_w * (p.kw - 1) >= p.padding_w;
}

ConvProblem turned(const ConvProblem& p) {
  ConvProblem q = p;
  std::swap(q.h, q.oh);
  std::swap(q.w, q.ow);
  std::swap(q.c, q.o);
  q.padding_h = p.dilation_h * (p.kh - 1) - p.padding_h;
  q.padding_w = p.dilation_w * (p.kw - 1) - p.padding_w;
  return q;
}

// [o, kh, kw, c] -> [c, kh, kw, o], turned by 180 degrees.
template <class T>
const T* turned_weight(const ConvProblem& p, const T* weight) {
  thread_local Workspace workspace;
  auto* result = static_cast<T*>(workspace.at_least(sizeof(T) * static_cast<size_t>(p.weight_size())));
  const int64_t taps = p.kh * p.kw;
  parallel_for(p.c, 1 + 16384 / (taps * p.o), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        T* to = result + (c * taps + taps - 1 - tap) * p.o;
        for (int64_t o = 0; o < p.o; ++o) to[o] = weight[(o * taps + tap) * p.c + c];
      }
    }
  });
  return result;
}

}  // namespace

template <class T>
void conv_forward(const ConvProblem& problem, const T* x, const T* weight, const T* bias, T* y) {
  const auto plan = plan_for<T>(problem, Kind::forward, bias != nullptr);
  std::unordered_map<int, memory> arguments{{DNNL_ARG_SRC, wrap(plan->map, x)},
                                            {DNNL_ARG_WEIGHTS, prepared_weight(*plan, weight)},
                                            {DNNL_ARG_DST, wrap(plan->result_map, y)},
                                            {DNNL_ARG_SCRATCHPAD, scratchpad(*plan)}};
  if (bias) arguments.emplace(DNNL_ARG_BIAS, wrap(plan->bias, bias));
  plan->conv.execute(stream(), arguments);
  stream().wait();
}

template <class T>
void conv_backward_data(const ConvProblem& problem, const T* dy, const T* weight, T* dx) {
  if (is_faster_as_forward(problem)) {
    return conv_forward<T>(turned(problem), dy, turned_weight(problem, weight), nullptr, dx);
  }
  const auto plan = plan_for<T>(problem, Kind::backward_data, false);
  plan->conv.execute(stream(), {{DNNL_ARG_DIFF_DST, wrap(plan->result_map, dy)},
                                {DNNL_ARG_WEIGHTS, prepared_weight(*plan, weight)},
                                {DNNL_ARG_DIFF_SRC, wrap(plan->map, dx)},
                                {DNNL_ARG_SCRATCHPAD, scratchpad(*plan)}});
  stream().wait();
}

template <class T>
void conv_backward_weight(const ConvProblem& problem, const T* x, const T* dy, float* dweight) {
  const auto plan = plan_for<T>(problem, Kind::backward_weight, false);
  memory result = wrap(plan->weight, plan->needs_reorder ? weight_buffer(*plan) : dweight);
  plan->conv.execute(stream(), {{DNNL_ARG_SRC, wrap(plan->map, x)},
                                {DNNL_ARG_DIFF_DST, wrap(plan->result_map, dy)},
                                {DNNL_ARG_DIFF_WEIGHTS, result},
                                {DNNL_ARG_SCRATCHPAD, scratchpad(*plan)}});
  if (plan->needs_reorder) {
    memory target = wrap(plan->plain_weight, dweight);
    plan->reorder.execute(stream(), result, target);
  }
  stream().wait();
}

template void conv_forward(const ConvProblem&, const float*, const float*, const float*, float*);
template void conv_forward(const ConvProblem&, const BFloat16*, const BFloat16*, const BFloat16*, BFloat16*);
template void conv_backward_data(const ConvProblem&, const float*, const float*, float*);
template void conv_backward_data(const ConvProblem&, const BFloat16*, const BFloat16*, BFloat16*);
template void conv_backward_weight(const ConvProblem&, const float*, const float*, float*);
template void conv_backward_weight(const ConvProblem&, const BFloat16*, const BFloat16*, float*);

}  // namespace camo::onednn

#endif
