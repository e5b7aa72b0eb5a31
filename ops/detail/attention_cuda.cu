#include "ops/detail/attention_cuda.h"
#include "ops/detail/gemm.h"
#include "ops/detail/gemm_cuda.h"
#include "ops/detail/rows.h"
#ifdef __CUDACC__
#include "ops/detail/max_sum.cuh"
#endif

namespace camo::detail {

#ifdef __CUDACC__
namespace {

constexpr int64_t kWarpRow = 512;  // keys up to which a warp takes a row of scores, not a block

/// The dropout factor of each score, by its position in [B, H, Nq, Nk].
template <class A>
struct Dropout {
  float limit;
  A scale;
  RandomKey key;

  Dropout(double p, RandomKey key_)
      : limit(static_cast<float>(p)), scale(p < 1 ? static_cast<A>(1 / (1 - p)) : A(0)), key(key_) {}
  __device__ A apply(A value, int64_t position) const {
    return key.uniform(static_cast<uint64_t>(position)) < limit ? A(0) : value * scale;
  }
};

/// What may be seen: mask and causality. Strides are 0 where the mask is repeated.
template <class T>
struct Visibility {
  using A = cuda::Accumulator<T>;
  const bool* seen = nullptr;
  const T* added = nullptr;
  int64_t strides[4] = {};
  bool causal = false;
  int64_t heads, queries, keys;

  Visibility(const AttentionOptions& options, const Shape& scores)
      : causal(options.causal), heads(scores[1]), queries(scores[2]), keys(scores[3]) {
    const Tensor& mask = options.mask;
    if (!mask.defined()) return;
    if (mask.dtype() == boolean) seen = mask.data<bool>();
    else added = mask.data<T>();
    for (int axis = 4 - mask.dims(), i = 0; i < mask.dims(); ++i, ++axis) {
      strides[axis] = mask.shape()[i] == 1 ? 0 : mask.strides()[i];
    }
  }
  /// Of the mask, in a row of the scores.
  __device__ int64_t row_offset(int64_t row) const {
    const int64_t query = row % queries, head = row / queries % heads, batch = row / queries / heads;
    return batch * strides[0] + head * strides[1] + query * strides[2];
  }
  __device__ A apply(A score, int64_t row, int64_t offset, int64_t key) const {
    if (causal && key > row % queries + keys - queries) return kHidden<A>;
    if (seen != nullptr) return seen[offset + key * strides[3]] ? score : kHidden<A>;
    return added != nullptr ? score + convert<A>(added[offset + key * strides[3]]) : score;
  }
};

/// Rows of scores, a block or a warp each (kLanes), read twice.   scores, probabilities, dropped [rows, keys]
template <class T, int kLanes>
struct ScoreRows {
  static constexpr int kRowsPerBlock = cuda::kBlock / kLanes;
  static __device__ int64_t row() { return int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kLanes; }
  static __device__ int lane() { return threadIdx.x % kLanes; }
};

/// scores may be the same memory as probabilities or dropped; of these and log_sums each may be null.
template <class T, int kLanes>
__global__ void __launch_bounds__(cuda::kBlock)
    attention_softmax_kernel(cuda::Accumulator<T>* scores, int64_t rows, cuda::Accumulator<T> scale,
                             Visibility<T> visibility, Dropout<cuda::Accumulator<T>> dropout, T* probabilities,
                             T* dropped, cuda::Accumulator<T>* log_sums) {
  using A = cuda::Accumulator<T>;
  const int64_t row = ScoreRows<T, kLanes>::row(), keys = visibility.keys, first = row * keys;
  if (row >= rows) return;  // whole warps, or blocks
  const int lane = ScoreRows<T, kLanes>::lane();
  const int64_t mask_offset = visibility.row_offset(row);
  auto total = MaxSum<A>::none();
  for (int64_t j = lane; j < keys; j += kLanes) {
    const A score = visibility.apply(scores[first + j] * scale, row, mask_offset, j);
    scores[first + j] = score;
    total.add(score);
  }
  total = kLanes == cuda::kWarp ? total.over_warp() : total.over_block();
  const A shift = total.shift(), normalizer = total.normalizer(false);
  if (log_sums != nullptr && lane == 0) log_sums[row] = total.top + logarithm(total.sum);
  for (int64_t j = lane; j < keys; j += kLanes) {
    const A p = exponential(scores[first + j] - shift) * normalizer;
    if (probabilities != nullptr) probabilities[first + j] = convert<T>(p);
    if (dropped != nullptr) dropped[first + j] = convert<T>(dropout.apply(p, first + j));
  }
}

/// ds = scale * P * (M dP - rowsum(M dP P)). dp may be the same memory as ds. No dropout: M = 1.
template <class T, int kLanes>
__global__ void __launch_bounds__(cuda::kBlock)
    attention_softmax_backward_kernel(const T* probabilities, const cuda::Accumulator<T>* dp, int64_t rows,
                                      int64_t keys, cuda::Accumulator<T> scale, Dropout<cuda::Accumulator<T>> dropout,
                                      bool drops, T* ds) {
  using A = cuda::Accumulator<T>;
  const int64_t row = ScoreRows<T, kLanes>::row(), first = row * keys;
  if (row >= rows) return;
  const int lane = ScoreRows<T, kLanes>::lane();
  A dot = 0;
  for (int64_t at = first + lane; at < first + keys; at += kLanes) {
    dot += (drops ? dropout.apply(dp[at], at) : dp[at]) * convert<A>(probabilities[at]);
  }
  dot = kLanes == cuda::kWarp ? cuda::warp_sum(dot) : cuda::block_sum(dot);
  for (int64_t at = first + lane; at < first + keys; at += kLanes) {
    const A g = drops ? dropout.apply(dp[at], at) : dp[at];
    ds[at] = convert<T>(scale * convert<A>(probabilities[at]) * (g - dot));
  }
}

template <class T>
struct DropElement {
  using A = cuda::Accumulator<T>;
  const T* probabilities;
  Dropout<A> dropout;
  T* dropped;
  __device__ void operator()(int64_t i) const {
    dropped[i] = convert<T>(dropout.apply(convert<A>(probabilities[i]), i));
  }
};

/// Launches a kernel over rows of scores by fn.template operator()<kLanes>(blocks).
template <class Fn>
void for_rows(int64_t rows, int64_t keys, Fn&& fn) {
  constexpr int kWarpRows = cuda::kBlock / cuda::kWarp;
  if (keys <= kWarpRow) fn.template operator()<cuda::kWarp>(static_cast<unsigned>((rows + kWarpRows - 1) / kWarpRows));
  else fn.template operator()<cuda::kBlock>(static_cast<unsigned>(rows));
}

// --- products ---

/// Tokens by head dimension of each batch and head, from [B, N, H, D] memory; a copy where no product can use it.
struct Heads {
  Tensor x;
  CudaMatrix matrix;

  explicit Heads(const Tensor& x_) : x(x_.detach()) {
    auto view = strided();
    if (!view) {
      x = clone(x);
      view = strided();
    }
    matrix = {x.raw_data(), view->ld, view->transposed, x.stride(0), x.stride(2)};
  }
  std::optional<Matrix<const float>> strided() const {
    return strided_matrix<const float>(nullptr, x.size(1), x.size(3), x.stride(1), x.stride(3));
  }
};

/// Score matrices [B, H, Nq, Nk].
CudaMatrix score_matrix(const Tensor& x) {
  return {x.raw_data(), x.size(3), false, x.size(1) * x.size(2) * x.size(3), x.size(2) * x.size(3)};
}

CudaMatrix turned(CudaMatrix x) {
  x.transposed = !x.transposed;
  return x;
}

/// c [rows, cols] = a b for each batch and head of the scores.
void multiply(const Tensor& scores, DType dtype, DType out, int64_t rows, int64_t depth, int64_t cols,
              const CudaMatrix& a, const CudaMatrix& b, const CudaMatrix& c) {
  CudaGemm gemm;
  gemm.device = scores.device();
  gemm.dtype = dtype;
  gemm.out = out;
  gemm.rows = rows;
  gemm.depth = depth;
  gemm.cols = cols;
  gemm.a = a;
  gemm.b = b;
  gemm.c = c;
  gemm.outer = scores.size(0);
  gemm.inner = scores.size(1);
  gemm_cuda(gemm);
}

template <class T>
Tensor forward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options, double scale,
               bool keep, const Tensor& y, const Tensor& log_sum_exp) {
  using A = cuda::Accumulator<T>;
  const Device device = q.device();
  const int64_t queries = q.size(1), keys = k.size(1), width = q.size(3);
  const Shape shape{q.size(0), q.size(2), queries, keys};
  const Heads hq(q), hk(k), hv(v), hy(y);
  const Tensor scores = empty(shape, dtype_of<A>, device);
  multiply(scores, q.dtype(), scores.dtype(), queries, width, keys, hq.matrix, turned(hk.matrix), score_matrix(scores));
  // The scores' memory is used again where the dtype allows; probabilities and dropped weights are two things.
  const bool drops = options.dropout > 0;
  const auto result = [&] { return std::is_same_v<T, A> ? scores : empty(shape, q.dtype(), device); };
  Tensor probabilities, dropped;
  if (keep || !drops) probabilities = result();
  if (drops) dropped = keep ? empty(shape, q.dtype(), device) : result();
  const int64_t rows = shape.numel() / keys;
  cudaStream_t stream = cuda::use(device);
  for_rows(rows, keys, [&]<int kLanes>(unsigned blocks) {
    attention_softmax_kernel<T, kLanes><<<blocks, cuda::kBlock, 0, stream>>>(
        scores.data<A>(), rows, static_cast<A>(scale), Visibility<T>(options, shape),
        Dropout<A>(options.dropout, options.dropout_key), probabilities.defined() ? probabilities.data<T>() : nullptr,
        dropped.defined() ? dropped.data<T>() : nullptr, log_sum_exp.defined() ? log_sum_exp.data<A>() : nullptr);
  });
  CAMO_LAUNCHED("attention_softmax");
  multiply(scores, q.dtype(), q.dtype(), queries, keys, width, score_matrix(drops ? dropped : probabilities), hv.matrix,
           hy.matrix);
  return keep ? probabilities : Tensor();
}

template <class T>
void backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& probabilities, const Tensor& dy,
              double p, RandomKey key, double scale, const AttentionGradientsCuda& grads) {
  using A = cuda::Accumulator<T>;
  const Device device = q.device();
  const int64_t queries = q.size(1), keys = k.size(1), width = q.size(3);
  const Shape& shape = probabilities.shape();
  const Heads hg(dy);
  const Dropout<A> dropout(p, key);
  if (grads.dv.defined()) {
    Tensor weights = probabilities;
    if (p > 0) {
      weights = empty(shape, q.dtype(), device);
      cuda::for_each(device, shape.numel(), "attention_dropout",
                     DropElement<T>{probabilities.data<T>(), dropout, weights.data<T>()});
    }
    multiply(probabilities, q.dtype(), q.dtype(), keys, queries, width, turned(score_matrix(weights)), hg.matrix,
             Heads(grads.dv).matrix);
  }
  if (!grads.dq.defined() && !grads.dk.defined()) return;
  const Tensor dp = empty(shape, dtype_of<A>, device);
  const Heads hq(q), hk(k), hv(v);
  multiply(probabilities, q.dtype(), dp.dtype(), queries, width, keys, hg.matrix, turned(hv.matrix), score_matrix(dp));
  const Tensor ds = std::is_same_v<T, A> ? dp : empty(shape, q.dtype(), device);
  const int64_t rows = shape.numel() / keys;
  cudaStream_t stream = cuda::use(device);
  for_rows(rows, keys, [&]<int kLanes>(unsigned blocks) {
    attention_softmax_backward_kernel<T, kLanes><<<blocks, cuda::kBlock, 0, stream>>>(
        probabilities.data<T>(), dp.data<A>(), rows, keys, static_cast<A>(scale), dropout, p > 0, ds.data<T>());
  });
  CAMO_LAUNCHED("attention_softmax_backward");
  if (grads.dq.defined()) {
    multiply(probabilities, q.dtype(), q.dtype(), queries, keys, width, score_matrix(ds), hk.matrix,
             Heads(grads.dq).matrix);
  }
  if (grads.dk.defined()) {
    multiply(probabilities, q.dtype(), q.dtype(), keys, queries, width, turned(score_matrix(ds)), hq.matrix,
             Heads(grads.dk).matrix);
  }
}

}  // namespace
#endif

Tensor attention_forward_cuda([[maybe_unused]] const Tensor& q, [[maybe_unused]] const Tensor& k,
                              [[maybe_unused]] const Tensor& v, [[maybe_unused]] const AttentionOptions& options,
                              [[maybe_unused]] double scale, [[maybe_unused]] bool keep,
                              [[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& log_sum_exp) {
  Tensor probabilities;
#ifdef __CUDACC__
  cuda::dispatch_floating(q.dtype(), "scaled_dot_product_attention", [&]<class T>() {
    probabilities = forward<T>(q, k, v, options, scale, keep, y, log_sum_exp);
  });
#endif
  return probabilities;
}

void attention_backward_cuda([[maybe_unused]] const Tensor& q, [[maybe_unused]] const Tensor& k,
                             [[maybe_unused]] const Tensor& v, [[maybe_unused]] const Tensor& probabilities,
                             [[maybe_unused]] const Tensor& dy, [[maybe_unused]] double dropout,
                             [[maybe_unused]] RandomKey key, [[maybe_unused]] double scale,
                             [[maybe_unused]] const AttentionGradientsCuda& grads) {
#ifdef __CUDACC__
  cuda::dispatch_floating(q.dtype(), "scaled_dot_product_attention",
                          [&]<class T>() { backward<T>(q, k, v, probabilities, dy, dropout, key, scale, grads); });
#endif
}

}  // namespace camo::detail
