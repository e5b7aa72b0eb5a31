#include "ops/detail/gemm_cuda.h"

#ifdef CAMO_WITH_CUDA

#include <algorithm>
#include <array>
#include <compare>
#include <map>
#include <memory>
#include <mutex>

#include "core/cuda/cublas.h"
#include "core/cuda/initcheck.h"
#include "core/tensor.h"
#include "ops/cuda/gemm_small.h"
#include "ops/math_mode.h"

namespace camo::detail {
namespace {

constexpr size_t kMaxPlans = 65536;                     // expert groups of every size at batch 64 need 22000
constexpr uint64_t kMaxWorkspace = uint64_t{32} << 20;  // what NVIDIA advises for Hopper

/// All that the choice of a kernel depends on.
struct PlanKey {
  int64_t device, dtype, out, epilogue, accumulate, tf32;
  int64_t rows, cols, depth, batch;
  int64_t a_ld, b_ld, c_ld, a_transposed, b_transposed, a_stride, b_stride, c_stride;
  int64_t a_alignment, b_alignment, c_alignment;
  friend auto operator<=>(const PlanKey&, const PlanKey&) = default;
};

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::f64: return CUDA_R_64F;
    case DType::f16: return CUDA_R_16F;
    case DType::bf16: return CUDA_R_16BF;
    default: return CUDA_R_32F;
  }
}

/// Column-major memory as cuBLASLt sees it, also when one matrix follows another.
class Layout {
 public:
  Layout(DType dtype, int64_t rows, int64_t cols, int64_t ld, int64_t batch, int64_t stride) {
    CAMO_CUBLAS(cublasLtMatrixLayoutCreate(&layout_, cuda_type(dtype), static_cast<uint64_t>(rows),
                                           static_cast<uint64_t>(cols), ld));
    const auto count = static_cast<int32_t>(batch);
    if (batch == 1) return;
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count);
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  template <class V>
  void set(cublasLtMatrixLayoutAttribute_t attribute, V value) {
    CAMO_CUBLAS(cublasLtMatrixLayoutSetAttribute(layout_, attribute, &value, sizeof value));
  }
  cublasLtMatrixLayout_t layout_ = nullptr;
};

/// What to compute. Row-major c = a b is column-major c^T = b^T a^T: cuBLASLt's A is our b, its B our a.
class Operation {
 public:
  explicit Operation(const PlanKey& key) {
    const bool wide = static_cast<DType>(key.dtype) == DType::f64;
    cublasComputeType_t compute = key.tf32 != 0 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    if (wide) compute = CUBLAS_COMPUTE_64F;
    CAMO_CUBLAS(cublasLtMatmulDescCreate(&operation_, compute, wide ? CUDA_R_64F : CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, key.b_transposed != 0 ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, key.a_transposed != 0 ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (static_cast<GemmEpilogue>(key.epilogue) == GemmEpilogue::none) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(cuda_type(static_cast<DType>(key.out))));
  }
  ~Operation() { cublasLtMatmulDescDestroy(operation_); }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  cublasLtMatmulDesc_t get() const { return operation_; }
  void set_bias(void* bias) { set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias); }

 private:
  template <class V>
  void set(cublasLtMatmulDescAttributes_t attribute, V value) {
    CAMO_CUBLAS(cublasLtMatmulDescSetAttribute(operation_, attribute, &value, sizeof value));
  }
  cublasLtMatmulDesc_t operation_ = nullptr;
};

class Preference {
 public:
  explicit Preference(const PlanKey& key) {
    CAMO_CUBLAS(cublasLtMatmulPreferenceCreate(&preference_));
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMaxWorkspace);
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key.b_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key.a_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key.c_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key.c_alignment));
    // Parts of a 16-bit product are added in f32.
    if (size_in_bytes(static_cast<DType>(key.out)) == 2) {
      set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
          static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    }
  }
  ~Preference() { cublasLtMatmulPreferenceDestroy(preference_); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  cublasLtMatmulPreference_t get() const { return preference_; }

 private:
  template <class V>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, V value) {
    CAMO_CUBLAS(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value));
  }
  cublasLtMatmulPreference_t preference_ = nullptr;
};

/// Descriptors and the kernel that the heuristics chose for them.
struct Plan {
  Operation operation;
  Layout a, b, c;  // cuBLASLt's A and B
  bool found = false;
  cublasLtMatmulAlgo_t algorithm{};
  size_t workspace = 0;

  Plan(const PlanKey& key, Device device, void* bias)
      : operation(key),
        a(static_cast<DType>(key.dtype), key.b_transposed != 0 ? key.depth : key.cols,
          key.b_transposed != 0 ? key.cols : key.depth, key.b_ld, key.batch, key.b_stride),
        b(static_cast<DType>(key.dtype), key.a_transposed != 0 ? key.rows : key.depth,
          key.a_transposed != 0 ? key.depth : key.rows, key.a_ld, key.batch, key.a_stride),
        c(static_cast<DType>(key.out), key.cols, key.rows, key.c_ld, key.batch, key.c_stride) {
    if (bias != nullptr) operation.set_bias(bias);
    const Preference preference(key);
    std::array<cublasLtMatmulHeuristicResult_t, 4> results{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(cuda::cublas_handle(device), operation.get(), a.get(), b.get(), c.get(), c.get(),
                                       preference.get(), static_cast<int>(results.size()), results.data(), &count);
    if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED) CAMO_CUBLAS(status);
    for (int i = 0; i < count && !found; ++i) {
      const auto& result = results[static_cast<size_t>(i)];
      found = result.state == CUBLAS_STATUS_SUCCESS;
      algorithm = result.algo;
      workspace = result.workspaceSize;
    }
  }
};

/// Plans by key, in no more memory than kMaxPlans need.
struct PlanCache {
  std::mutex mutex;
  std::map<PlanKey, std::unique_ptr<Plan>> plans;

  Plan& at(const PlanKey& key, Device device, void* bias) {
    const auto found = plans.find(key);
    if (found != plans.end()) return *found->second;
    if (plans.size() >= kMaxPlans) plans.clear();  // new shapes keep coming: plans are cheap to make again
    return *plans.emplace(key, std::make_unique<Plan>(key, device, bias)).first->second;
  }
};

PlanCache& plan_cache() {
  static auto* cache = new PlanCache;  // not freed: the driver may be gone before statics are
  return *cache;
}

/// The largest power of two, up to 256, that divides the address of every matrix of an operand.
int64_t alignment(const CudaMatrix& x, DType dtype, int64_t outer) {
  auto bits = reinterpret_cast<uintptr_t>(x.data) | 256u;
  if (outer > 1) bits |= static_cast<uintptr_t>(x.outer_stride * size_in_bytes(dtype));
  return static_cast<int64_t>(bits & (~bits + 1));
}

/// One batched level where both can be stepped through as one; else the shorter level is the outer one.
CudaGemm with_merged_batches(CudaGemm gemm) {
  const std::array<CudaMatrix*, 3> operands{&gemm.a, &gemm.b, &gemm.c};
  if (gemm.inner == 1) {
    std::swap(gemm.outer, gemm.inner);
    for (CudaMatrix* x : operands) std::swap(x->outer_stride, x->inner_stride);
  }
  const bool merge = std::all_of(operands.begin(), operands.end(),
                                 [&](const CudaMatrix* x) { return x->outer_stride == x->inner_stride * gemm.inner; });
  if (merge) {
    gemm.inner *= gemm.outer;
    gemm.outer = 1;
  } else if (gemm.outer > gemm.inner) {
    std::swap(gemm.outer, gemm.inner);
    for (CudaMatrix* x : operands) std::swap(x->outer_stride, x->inner_stride);
  }
  return gemm;
}

void* matrix_at(const CudaMatrix& x, DType dtype, int64_t index) {
  return static_cast<char*>(x.data) + index * x.outer_stride * size_in_bytes(dtype);
}

}  // namespace

bool gemm_cuda(const CudaGemm& request) {
  CAMO_ASSERT(request.rows > 0 && request.cols > 0 && request.depth > 0 && !request.c.transposed);
  CAMO_ASSERT(request.epilogue == GemmEpilogue::none || request.outer * request.inner == 1);
  const CudaGemm gemm = with_merged_batches(request);
  if (cuda::fits_gemm_small(gemm)) {
    cuda::gemm_small(gemm);
    return true;
  }
  const bool batched = gemm.inner > 1;
  const PlanKey key{.device = gemm.device.index,
                    .dtype = static_cast<int64_t>(gemm.dtype),
                    .out = static_cast<int64_t>(gemm.out),
                    .epilogue = static_cast<int64_t>(gemm.epilogue),
                    .accumulate = gemm.accumulate,
                    .tf32 = gemm.dtype == f32 && allow_tf32(),
                    .rows = gemm.rows,
                    .cols = gemm.cols,
                    .depth = gemm.depth,
                    .batch = gemm.inner,
                    .a_ld = gemm.a.ld,
                    .b_ld = gemm.b.ld,
                    .c_ld = gemm.c.ld,
                    .a_transposed = gemm.a.transposed,
                    .b_transposed = gemm.b.transposed,
                    .a_stride = batched ? gemm.a.inner_stride : 0,
                    .b_stride = batched ? gemm.b.inner_stride : 0,
                    .c_stride = batched ? gemm.c.inner_stride : 0,
                    .a_alignment = alignment(gemm.a, gemm.dtype, gemm.outer),
                    .b_alignment = alignment(gemm.b, gemm.dtype, gemm.outer),
                    .c_alignment = alignment(gemm.c, gemm.out, gemm.outer)};
  cudaStream_t stream = cuda::use(gemm.device);
  PlanCache& cache = plan_cache();
  std::lock_guard lock(cache.mutex);  // a plan's bias pointer belongs to one call at a time
  Plan& plan = cache.at(key, gemm.device, gemm.bias);
  if (!plan.found) {
    CAMO_CHECK_CODE(device, gemm.epilogue != GemmEpilogue::none, "cublas: no kernel for the product [", gemm.rows, ", ",
                    gemm.depth, "] times [", gemm.depth, ", ", gemm.cols, "] of ", gemm.dtype);
    return false;
  }
  if (gemm.epilogue != GemmEpilogue::none) plan.operation.set_bias(gemm.bias);
  Tensor workspace;
  if (plan.workspace > 0) workspace = empty({static_cast<int64_t>(plan.workspace)}, u8, gemm.device);
  const bool wide = gemm.dtype == f64;
  const double one = 1, beta = gemm.accumulate ? 1 : 0;
  const auto one_f32 = static_cast<float>(one), beta_f32 = static_cast<float>(beta);
  for (int64_t i = 0; i < gemm.outer; ++i) {
    void* const c = matrix_at(gemm.c, gemm.out, i);
    const auto size = static_cast<size_t>(size_in_bytes(gemm.out));
    for (int64_t k = 0; k < gemm.inner && !gemm.accumulate; ++k) {
      cuda::announce_write(stream, static_cast<char*>(c) + k * gemm.c.inner_stride * size_in_bytes(gemm.out),
                           static_cast<size_t>(gemm.cols) * size, static_cast<size_t>(gemm.rows),
                           static_cast<size_t>(gemm.c.ld) * size);
    }
    const cublasStatus_t status = cublasLtMatmul(
        cuda::cublas_handle(gemm.device), plan.operation.get(), wide ? static_cast<const void*>(&one) : &one_f32,
        matrix_at(gemm.b, gemm.dtype, i), plan.a.get(), matrix_at(gemm.a, gemm.dtype, i), plan.b.get(),
        wide ? static_cast<const void*>(&beta) : &beta_f32, c, plan.c.get(), c, plan.c.get(), &plan.algorithm,
        workspace.defined() ? workspace.raw_data() : nullptr, plan.workspace, stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED && gemm.epilogue != GemmEpilogue::none) {
      plan.found = false;  // the heuristics promised too much
      return false;
    }
    cuda::check(status, "cublasLtMatmul", __FILE__, __LINE__);
  }
  return true;
}

int64_t gemm_cuda_plan_count() {
  PlanCache& cache = plan_cache();
  std::lock_guard lock(cache.mutex);
  return static_cast<int64_t>(cache.plans.size());
}

}  // namespace camo::detail

#else

namespace camo::detail {
int64_t gemm_cuda_plan_count() { return 0; }
}  // namespace camo::detail

#endif  // CAMO_WITH_CUDA
