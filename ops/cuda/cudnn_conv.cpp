#include "ops/cuda/cudnn_conv.h"

#include <array>
#include <cstring>
#include <limits>
#include <list>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "core/cuda/initcheck.h"
#include "ops/cuda/cudnn_graph.h"
#include "ops/math_mode.h"

namespace camo::cuda {

namespace {

constexpr int64_t kAlignment = 16;  // of every tensor, in bytes

using detail::ConvProblem;

enum TensorId : int64_t { kX = 1, kWeight, kY, kBias, kProduct };

/// Everything that a plan depends on. All fields are int64_t: no padding, so that it can be hashed as bytes.
struct PlanKey {
  ConvProblem problem;
  int64_t pass, dtype, device, bias, tf32, tuned;
  friend bool operator==(const PlanKey&, const PlanKey&) = default;
};
static_assert(sizeof(PlanKey) == 22 * sizeof(int64_t));

struct PlanKeyHash {
  size_t operator()(const PlanKey& key) const {
    return std::hash<std::string_view>()({reinterpret_cast<const char*>(&key), sizeof key});
  }
};

struct Plan {
  Descriptor descriptor;
  int64_t workspace = 0;
};

/// What is known of a problem: a plan, or why there is none.
struct Entry {
  std::optional<Plan> plan;
  std::string refusal;
};

/// Drops the entry that was not used for longest.
class PlanCache {
 public:
  Entry* find(const PlanKey& key) {
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.begin(), entries_, found->second);
    return &entries_.front().second;
  }
  Entry& add(const PlanKey& key, Entry entry) {
    if (entries_.size() == kCapacity) {
      index_.erase(entries_.back().first);
      entries_.pop_back();
    }
    entries_.emplace_front(key, std::move(entry));
    index_[key] = entries_.begin();
    return entries_.front().second;
  }

 private:
  // Expert groups of every size at batch 64 need 3200. Recorded graphs run kernels of plans that must not be dropped.
  static constexpr size_t kCapacity = 8192;
  std::list<std::pair<PlanKey, Entry>> entries_;
  std::unordered_map<PlanKey, decltype(entries_)::iterator, PlanKeyHash> index_;
};

/// One cache a thread, as handles are; never destroyed, for the reason that handles are not.
PlanCache& plan_cache() {
  thread_local auto* cache = new PlanCache;
  return *cache;
}

thread_local std::string g_refusal;

cudnnDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f64: return CUDNN_DATA_DOUBLE;
    case DType::f16: return CUDNN_DATA_HALF;
    case DType::bf16: return CUDNN_DATA_BFLOAT16;
    default: return CUDNN_DATA_FLOAT;
  }
}

/// Dimensions in cuDNN's order N, C, H, W, channels last in memory.
Descriptor tensor(TensorId id, cudnnDataType_t type, std::array<int64_t, 4> nchw, bool is_virtual) {
  const auto [n, c, h, w] = nchw;
  const std::array<int64_t, 4> strides{h * w * c, 1, w * c, c};
  Descriptor result(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  result.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, static_cast<int64_t>(id));
  result.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  result.set_all<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS, nchw);
  result.set_all<int64_t>(CUDNN_ATTR_TENSOR_STRIDES, strides);
  result.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignment);
  result.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual);
  result.finalize();
  return result;
}

Descriptor convolution(const ConvProblem& p, cudnnDataType_t compute) {
  const std::array<int64_t, 2> padding{p.padding_h, p.padding_w}, stride{p.stride_h, p.stride_w};
  const std::array<int64_t, 2> dilation{p.dilation_h, p.dilation_w};
  Descriptor result(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  result.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, compute);
  result.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_CROSS_CORRELATION);
  result.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, int64_t{2});
  result.set_all<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, padding);
  result.set_all<int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, padding);
  result.set_all<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, stride);
  result.set_all<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS, dilation);
  result.finalize();
  return result;
}

/// The attribute names of one pass's operation.
struct OperationNames {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t conv, x, weight, y, alpha, beta;
};

constexpr OperationNames operation_names(ConvPass pass) {
  switch (pass) {
    case ConvPass::backward_data:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    case ConvPass::backward_weight:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
    default:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
  }
}

/// The convolution, and with a bias a pointwise sum behind it. Descriptors that the graph refers to are kept with it.
class Graph {
 public:
  Graph(const PlanKey& key, cudnnHandle_t handle) : graph_(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR) {
    const ConvProblem& p = key.problem;
    const auto dtype = static_cast<DType>(key.dtype);
    const cudnnDataType_t type = data_type(dtype);
    const cudnnDataType_t compute = dtype == f64 ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT;
    const bool with_bias = key.bias != 0;
    const std::array<int64_t, 4> y_dims{p.n, p.o, p.oh, p.ow};
    const Descriptor& x = keep(tensor(kX, type, {p.n, p.c, p.h, p.w}, false));
    const Descriptor& weight = keep(tensor(kWeight, type, {p.o, p.inputs_per_group(), p.kh, p.kw}, false));
    const Descriptor& y = keep(tensor(kY, type, y_dims, false));
    const Descriptor& product = with_bias ? keep(tensor(kProduct, compute, y_dims, true)) : y;

    const OperationNames names = operation_names(static_cast<ConvPass>(key.pass));
    Descriptor conv(names.type);
    conv.set(names.conv, keep(convolution(p, compute)));
    conv.set(names.x, x);
    conv.set(names.weight, weight);
    conv.set(names.y, product);
    if (dtype == f64) {
      conv.set(names.alpha, 1.0);
      conv.set(names.beta, 0.0);
    } else {
      conv.set(names.alpha, 1.0F);
      conv.set(names.beta, 0.0F);
    }
    conv.finalize();
    std::vector<const Descriptor*> operations{&keep(std::move(conv))};

    if (with_bias) {
      Descriptor add(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
      add.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_POINTWISE_ADD);
      add.set(CUDNN_ATTR_POINTWISE_MATH_PREC, compute);
      add.finalize();
      Descriptor sum(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
      sum.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, keep(std::move(add)));
      sum.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, product);
      sum.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, keep(tensor(kBias, type, {1, p.o, 1, 1}, false)));
      sum.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
      sum.finalize();
      operations.push_back(&keep(std::move(sum)));
    }
    graph_.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle);
    graph_.set_all(CUDNN_ATTR_OPERATIONGRAPH_OPS, operations);
  }

  bool try_finalize(std::string& why) { return graph_.try_finalize(why); }
  const Descriptor& descriptor() const { return graph_; }

 private:
  const Descriptor& keep(Descriptor part) { return parts_.emplace_back(std::move(part)); }

  std::list<Descriptor> parts_;
  Descriptor graph_;
};

/// The engine for filter gradients of grouped convolutions that adds in f16 and has no note that says so: with
/// cuDNN 9.14 and f16 its error is 2.5e-3 of the norm, where all others have 2e-4, the rounding of the result.
constexpr int64_t kImpreciseEngine = 61;

/// Whether an engine keeps the promises in the header.
bool is_acceptable(const Descriptor& configuration, const PlanKey& key, std::string& why) {
  const std::vector<Descriptor> engine =
      configuration.get_descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
  if (engine.empty()) return true;
  const auto notes =
      engine[0].get_all<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  if (static_cast<ConvPass>(key.pass) == ConvPass::backward_weight && key.problem.groups > 1 &&
      size_in_bytes(static_cast<DType>(key.dtype)) == 2 &&
      engine[0].get_int(CUDNN_ATTR_ENGINE_GLOBAL_INDEX) == kImpreciseEngine) {
    why = "adds in 16 bits";
    return false;
  }
  const bool plain_f32 = static_cast<DType>(key.dtype) == f32 && key.tf32 == 0;
  for (const cudnnBackendNumericalNote_t note : notes) {
    const char* reason = nullptr;
    if (note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) reason = "not deterministic";
    if (note == CUDNN_NUMERICAL_NOTE_FFT) reason = "by FFT";
    if (note >= CUDNN_NUMERICAL_NOTE_WINOGRAD && note <= CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13)
      reason = "by Winograd";
    if (note == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION) reason = "sums in reduced precision";
    if (plain_f32 && note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE) reason = "needs TF32";
    if (plain_f32 && note == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) reason = "rounds its inputs";
    if (reason != nullptr) {
      why = reason;
      return false;
    }
  }
  return true;
}

std::optional<Plan> make_plan(const Descriptor& configuration, cudnnHandle_t handle, std::string& why) {
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
  if (!plan.try_finalize(why)) return std::nullopt;
  const int64_t workspace = plan.get_int(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
  if (workspace > kConvWorkspace) {
    why = concat_text("needs ", workspace, " bytes of workspace");
    return std::nullopt;
  }
  return Plan{std::move(plan), workspace};
}

/// Up to `limit` plans that work, best first by the heuristics; `why` says what was wrong with those passed over.
std::vector<Plan> find_plans(const PlanKey& key, cudnnHandle_t handle, size_t limit, std::string& why) {
  std::vector<Plan> plans;
  Graph graph(key, handle);
  if (!graph.try_finalize(why)) return plans;
  std::string reason;
  const auto note = [&](const char* what) { why += concat_text(why.empty() ? "" : "; ", what, ": ", reason); };
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    const char* name = mode == CUDNN_HEUR_MODE_A ? "heuristics A" : "fallback";
    Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.descriptor());
    heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, mode);
    if (!heuristics.try_finalize(reason)) {
      note(name);
      continue;
    }
    // Handing over all of some 36 configurations takes most of the milliseconds that a plan costs: ask for few first.
    constexpr size_t kFirst = 4;
    for (const bool ask_all : {false, true}) {
      const int64_t count = ask_all ? heuristics.count_of(CUDNN_ATTR_ENGINEHEUR_RESULTS) : kFirst;
      const auto configurations =
          heuristics.get_descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, count);
      for (size_t i = ask_all ? kFirst : 0; i < configurations.size(); ++i) {
        if (is_acceptable(configurations[i], key, reason)) {
          if (auto plan = make_plan(configurations[i], handle, reason)) {
            plans.push_back(std::move(*plan));
            if (plans.size() == limit) return plans;
            continue;
          }
        }
        note(name);
      }
    }
  }
  return plans;
}

struct Pointers {
  void *x, *weight, *y, *bias;
};

void execute(const Plan& plan, const Pointers& at, Device device) {
  Tensor workspace;
  if (plan.workspace > 0) workspace = empty({plan.workspace}, u8, device);
  std::vector<int64_t> ids{kX, kWeight, kY};
  std::vector<void*> pointers{at.x, at.weight, at.y};
  if (at.bias != nullptr) {
    ids.push_back(kBias);
    pointers.push_back(at.bias);
  }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set_all<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids);
  pack.set_all<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, pointers);
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, workspace.defined() ? workspace.raw_data() : static_cast<void*>(nullptr));
  pack.finalize();
  CAMO_CUDNN(cudnnBackendExecute(cudnn_handle(device), plan.descriptor.raw(), pack.raw()));
}

/// Runs every plan a few times and keeps the fastest.
Plan fastest(std::vector<Plan> plans, const Pointers& at, Device device) {
  constexpr int kRuns = 5;
  cudaStream_t stream = use(device);
  size_t best = 0;
  float best_time = std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < plans.size(); ++i) {
    Event begin(true), end(true);
    execute(plans[i], at, device);
    begin.record(stream);
    for (int run = 0; run < kRuns; ++run) execute(plans[i], at, device);
    end.record(stream);
    end.synchronize();
    const float time = end.milliseconds_since(begin);
    if (time < best_time) {
      best = i;
      best_time = time;
    }
  }
  return std::move(plans[best]);
}

std::string describe(ConvPass pass, const ConvProblem& p, DType dtype) {
  const char* names[] = {"forward", "gradient of x", "gradient of weight"};
  return concat_text("in conv2d, ", names[static_cast<int>(pass)], ", ", dtype, ": x ", Shape{p.n, p.h, p.w, p.c},
                     ", weight ", Shape{p.o, p.kh, p.kw, p.inputs_per_group()}, ", stride ", p.stride_h, " ",
                     p.stride_w, ", padding ", p.padding_h, " ", p.padding_w, ", dilation ", p.dilation_h, " ",
                     p.dilation_w, ", groups ", p.groups);
}

/// Inputs at odd addresses (views) are copied: some of cuDNN's engines take 16-byte loads whatever alignment they are
/// told. Results are fresh tensors, which are aligned.
Tensor aligned(const Tensor& x) {
  return !x.defined() || reinterpret_cast<uintptr_t>(x.raw_data()) % kAlignment == 0 ? x : clone(x);
}

}  // namespace

const std::string& cudnn_refusal() { return g_refusal; }

bool cudnn_conv(ConvPass pass, const ConvProblem& problem, const Tensor& x_in, const Tensor& weight_in,
                const Tensor& bias_in, const Tensor& y_in) try {
  const Tensor x = aligned(x_in), weight = aligned(weight_in), bias = aligned(bias_in), y = aligned(y_in);
  const Device device = x.device();
  cudnnHandle_t handle = cudnn_handle(device);
  const Pointers at{x.raw_data(), weight.raw_data(), y.raw_data(), bias.defined() ? bias.raw_data() : nullptr};
  const bool tuned = conv_autotune();
  const PlanKey key{
      problem, static_cast<int64_t>(pass), static_cast<int64_t>(x.dtype()), device.index, bias.defined(), allow_tf32(),
      tuned};
  Entry* entry = plan_cache().find(key);
  if (entry == nullptr) {
    Entry found;
    std::vector<Plan> plans = find_plans(key, handle, tuned ? 8 : 1, found.refusal);
    if (plans.size() > 1) found.plan = fastest(std::move(plans), at, device);
    else if (!plans.empty()) found.plan = std::move(plans[0]);
    entry = &plan_cache().add(key, std::move(found));
  }
  if (!entry->plan) {
    g_refusal = describe(pass, problem, x.dtype()) + ": " + entry->refusal;
    return false;
  }
  const Tensor& result = pass == ConvPass::forward ? y : pass == ConvPass::backward_data ? x : weight;
  announce_write(use(device), result.raw_data(), static_cast<size_t>(result.numel() * size_in_bytes(result.dtype())));
  execute(*entry->plan, at, device);
  return true;
} catch (const Error& error) {
  throw error.with_context(describe(pass, problem, x_in.dtype()));
}

}  // namespace camo::cuda
