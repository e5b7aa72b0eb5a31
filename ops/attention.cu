// y = softmax(scale * q k^T + mask) v for each batch b and head h.   q [B, Nq, H, D], k, v [B, Nk, H, D], y [B, Nq, H,
// D]
//
// With P the softmax [B, H, Nq, Nk], M the dropout factors (0 or 1 / (1 - p)) and dP = M * (dy v^T):
//   dv = (P * M)^T dy,  dS = P * (dP - rowsum(dP * P)),  dq = scale * dS k,  dk = scale * dS^T q.
// ops/attention/flash.cpp computes the same without P in memory; ops/attention/select.cpp says when. Here:
// Keeps q, k, v and P. A row that sees no key has P = 0. Accumulates in the dtype of q; for 16-bit q in f32, with
// scores in f32 and, on CUDA, P in the dtype of q.
#include <cmath>
#include <limits>

#include "core/autograd.h"
#include "ops/attention.h"
#include "ops/attention/flash.h"
#include "ops/detail/attention_cuda.h"
#include "ops/detail/autocast.h"
#include "ops/detail/gemm.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/rows.h"
#include "ops/detail/same_device.h"
#include "ops/detail/vector_math.h"
#include "ops/elementwise.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/recording.h"
#endif

namespace camo {
namespace {

using detail::Matrix;

constexpr int64_t kQueryBlock =
    64;  // queries handled together: the block of scores stays in cache for Nk to about 4000

/// The sizes of one call.
struct Extents {
  int64_t batch, queries, keys, heads, width;

  explicit Extents(const Tensor& q, const Tensor& k)
      : batch(q.size(0)), queries(q.size(1)), keys(k.size(1)), heads(q.size(2)), width(q.size(3)) {}
};

/// What may be seen: mask and causality. Strides are 0 where the mask is repeated.
struct Visibility {
  Tensor mask;
  Shape strides = Shape::filled(4, 0);
  bool causal = false;

  Visibility(const AttentionOptions& options, const Shape& scores) : mask(options.mask), causal(options.causal) {
    if (!mask.defined()) return;
    for (int axis = 4 - mask.dims(), i = 0; i < mask.dims(); ++i, ++axis) {
      CAMO_ASSERT(mask.shape()[i] == 1 || mask.shape()[i] == scores[axis]);
      strides[axis] = mask.shape()[i] == 1 ? 0 : mask.strides()[i];
    }
  }

  /// row[j] = scale * row[j] + mask, -infinity where key j is hidden.
  template <class T>
  void apply(T* row, int64_t n, int64_t b, int64_t h, int64_t i, int64_t queries, T scale) const {
    constexpr T kHidden = -std::numeric_limits<T>::infinity();
    const int64_t offset = b * strides[0] + h * strides[1] + i * strides[2], step = strides[3];
    if (!mask.defined()) {
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) row[j] *= scale;
    } else if (mask.dtype() == boolean) {
      const bool* seen = mask.data<bool>() + offset;
      for (int64_t j = 0; j < n; ++j) row[j] = seen[j * step] ? row[j] * scale : kHidden;
    } else {
      const T* added = mask.data<T>() + offset;
      for (int64_t j = 0; j < n; ++j) row[j] = row[j] * scale + added[j * step];
    }
    if (causal) std::fill(row + std::clamp<int64_t>(i + n - queries + 1, 0, n), row + n, kHidden);
  }
};

/// Returns log(sum of exp(row)).
template <class T>
T softmax_in_place(T* row, int64_t n) {
  T top = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : top)
  for (int64_t j = 0; j < n; ++j) top = row[j] > top ? row[j] : top;
  const T shift = top == -std::numeric_limits<T>::infinity() ? T(0) : top;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    row[j] = detail::simd_exp(row[j] - shift);
    sum += row[j];
  }
  const T inverse = sum == 0 ? T(0) : 1 / sum;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) row[j] *= inverse;
  return top + std::log(sum);  // -infinity where nothing is visible
}

/// row[j] = 0 or row[j] / (1 - p), for the elements of the scores that start at `first`.
template <class T>
void drop_row(T* row, int64_t n, uint64_t first, double p, RandomKey key) {
  const auto limit = static_cast<float>(p);
  const T scale = p < 1 ? static_cast<T>(1 / (1 - p)) : T(0);
  for (int64_t j = 0; j < n; ++j) {
    row[j] = key.uniform(first + static_cast<uint64_t>(j)) < limit ? T(0) : row[j] * scale;
  }
}

/// Rows [first, first + count) of one head of [B, N, H, D] memory.
template <class T>
Matrix<T> head_rows(const Tensor& x, int64_t b, int64_t h, int64_t first, int64_t count) {
  T* start = x.data<std::remove_const_t<T>>() + b * x.stride(0) + h * x.stride(2) + first * x.stride(1);
  return *detail::strided_matrix<T>(start, count, x.size(3), x.stride(1), x.stride(3));
}

/// x where its heads are matrices a product can use, else a copy.
template <class T>
Tensor usable(const Tensor& x) {
  if (x.numel() > 0 && detail::strided_matrix<T>(x.data<T>(), x.size(1), x.size(3), x.stride(1), x.stride(3))) {
    return x.detach();
  }
  return detail::dense(x);
}

template <class T>
Matrix<T> dense_matrix(T* data, int64_t rows, int64_t cols) {
  return {data, rows, cols, std::max<int64_t>(1, cols), false};
}

/// Fills y, and P and the log-sum-exp where they are defined.
template <class T>
void attention_forward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options, T scale,
                       const Tensor& probabilities, const Tensor& y, const Tensor& log_sum_exp) {
  const Extents n(q, k);
  const Visibility visibility(options, {n.batch, n.heads, n.queries, n.keys});
  const int64_t blocks = (n.queries + kQueryBlock - 1) / kQueryBlock;
  parallel_for(n.batch * n.heads * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(static_cast<size_t>(
        probabilities.defined() && options.dropout == 0 ? 0 : std::min(n.queries, kQueryBlock) * n.keys));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / blocks, b = head / n.heads, h = head % n.heads;
      const int64_t first = task % blocks * kQueryBlock, count = std::min(kQueryBlock, n.queries - first);
      const int64_t element = (head * n.queries + first) * n.keys;  // of the first score, in [B, H, Nq, Nk]
      T* scores = probabilities.defined() ? probabilities.data<T>() + element : scratch.data();
      detail::gemm(head_rows<const T>(q, b, h, first, count), head_rows<const T>(k, b, h, 0, n.keys).t(),
                   dense_matrix(scores, count, n.keys));
      for (int64_t i = 0; i < count; ++i) {
        visibility.apply(scores + i * n.keys, n.keys, b, h, first + i, n.queries, scale);
        const T log_sum = softmax_in_place(scores + i * n.keys, n.keys);
        if (log_sum_exp.defined()) log_sum_exp.data<T>()[head * n.queries + first + i] = log_sum;
      }
      if (options.dropout > 0) {
        if (scores != scratch.data()) std::copy_n(scores, count * n.keys, scratch.data());
        scores = scratch.data();
        drop_row(scores, count * n.keys, static_cast<uint64_t>(element), options.dropout, options.dropout_key);
      }
      detail::gemm(dense_matrix<const T>(scores, count, n.keys), head_rows<const T>(v, b, h, 0, n.keys),
                   head_rows<T>(y, b, h, first, count));
    }
  });
}

/// dq, dk, dv [B, N, H, D], each undefined when not wanted.
struct AttentionGradients {
  Tensor dq, dk, dv;
};

template <class T>
void attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& probabilities,
                        const Tensor& dy, double dropout, RandomKey key, T scale, const AttentionGradients& grads) {
  const Extents n(q, k);
  // One task a head: dk and dv sum over all queries.
  parallel_for(n.batch * n.heads, 1, [&](int64_t begin, int64_t end) {
    const auto size = static_cast<size_t>(std::min(n.queries, kQueryBlock) * n.keys);
    std::vector<T> ds_block(size), dropped_block(dropout > 0 ? size : 0);
    for (int64_t head = begin; head < end; ++head) {
      const int64_t b = head / n.heads, h = head % n.heads;
      for (int64_t first = 0; first < n.queries; first += kQueryBlock) {
        const int64_t count = std::min(kQueryBlock, n.queries - first);
        const int64_t element = (head * n.queries + first) * n.keys;
        const bool more = first > 0;
        const T* p = probabilities.data<T>() + element;
        T* ds = ds_block.data();
        const auto g = head_rows<const T>(dy, b, h, first, count);
        if (grads.dv.defined()) {
          const T* weights = p;
          if (dropout > 0) {
            std::copy_n(p, count * n.keys, dropped_block.data());
            drop_row(dropped_block.data(), count * n.keys, static_cast<uint64_t>(element), dropout, key);
            weights = dropped_block.data();
          }
          detail::gemm(dense_matrix<const T>(weights, count, n.keys).t(), g, head_rows<T>(grads.dv, b, h, 0, n.keys),
                       more);
        }
        if (!grads.dq.defined() && !grads.dk.defined()) continue;
        detail::gemm(g, head_rows<const T>(v, b, h, 0, n.keys).t(), dense_matrix(ds, count, n.keys));
        if (dropout > 0) drop_row(ds, count * n.keys, static_cast<uint64_t>(element), dropout, key);
        for (int64_t i = 0; i < count; ++i) {
          const T* p_row = p + i * n.keys;
          T* row = ds + i * n.keys;
          T dot = 0;
#pragma omp simd reduction(+ : dot)
          for (int64_t j = 0; j < n.keys; ++j) dot += row[j] * p_row[j];
#pragma omp simd
          for (int64_t j = 0; j < n.keys; ++j) row[j] = scale * p_row[j] * (row[j] - dot);
        }
        const auto ds_matrix = dense_matrix<const T>(ds, count, n.keys);
        if (grads.dq.defined()) {
          detail::gemm(ds_matrix, head_rows<const T>(k, b, h, 0, n.keys), head_rows<T>(grads.dq, b, h, first, count));
        }
        if (grads.dk.defined()) {
          detail::gemm(ds_matrix.t(), head_rows<const T>(q, b, h, first, count),
                       head_rows<T>(grads.dk, b, h, 0, n.keys), more);
        }
      }
    }
  });
}

struct AttentionNode final : Node {
  AttentionNode(double scale_, double dropout_, RandomKey dropout_key_)
      : Node("scaled_dot_product_attention"), scale(scale_), dropout(dropout_), dropout_key(dropout_key_) {}
  Saved q{this, "q"}, k{this, "k"}, v{this, "v"}, probabilities{this, "probabilities"};
  double scale, dropout;
  RandomKey dropout_key;

  Tensors backward(const Tensors& dy) override {
    AttentionGradients grads;
    const bool any = q->numel() > 0 && k->numel() > 0;
    const auto allocate = [&](int i, const Tensor& x) {
      if (!needs(i)) return Tensor();
      return any ? empty(x.shape(), x.dtype(), x.device()) : zeros(x.shape(), x.dtype(), x.device());
    };
    grads = {allocate(0, *q), allocate(1, *k), allocate(2, *v)};
    if (any && q->is_cuda()) {
      detail::attention_backward_cuda(*q, *k, *v, *probabilities, dy[0], dropout, dropout_key, scale,
                                      {grads.dq, grads.dk, grads.dv});
    } else if (any) {
      dispatch_floating(q->dtype(), "scaled_dot_product_attention", [&]<class T>() {
        attention_backward<T>(usable<T>(*q), usable<T>(*k), usable<T>(*v), *probabilities, usable<T>(dy[0]), dropout,
                              dropout_key, static_cast<T>(scale), grads);
      });
    }
    return {grads.dq, grads.dk, grads.dv};
  }
};

void check_arguments(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const auto got = [&] { return concat_text("; got q ", q.shape(), ", k ", k.shape(), ", v ", v.shape()); };
  CAMO_CHECK(q.dims() == 4 && k.dims() == 4 && v.dims() == 4,
             "scaled_dot_product_attention: q, k and v must be [B, N, H, D]", got());
  CAMO_CHECK(k.shape() == v.shape(), "scaled_dot_product_attention: k and v must have one shape", got());
  CAMO_CHECK(q.size(0) == k.size(0) && q.size(2) == k.size(2) && q.size(3) == k.size(3),
             "scaled_dot_product_attention: q and k must agree in batch, heads and head dimension", got());
  CAMO_CHECK(q.dtype() == k.dtype() && q.dtype() == v.dtype(),
             "scaled_dot_product_attention: q, k and v must have one dtype; got q ", q.dtype(), ", k ", k.dtype(),
             ", v ", v.dtype());
  CAMO_CHECK(options.dropout >= 0 && options.dropout <= 1,
             "scaled_dot_product_attention: dropout must be in [0, 1]; got ", options.dropout);
#ifdef CAMO_WITH_CUDA
  if (options.dropout > 0 && q.is_cuda()) cuda::refuse_recording("attention with dropout");
#endif
  CAMO_CHECK(options.scale.has_value() || q.size(3) > 0,
             "scaled_dot_product_attention: a head dimension of 0 needs a scale; got q ", q.shape());
  const Tensor& mask = options.mask;
  detail::check_same_device("scaled_dot_product_attention", {q, k, v, mask});
  if (!mask.defined()) return;
  CAMO_CHECK(mask.dtype() == boolean || mask.dtype() == q.dtype(),
             "scaled_dot_product_attention: mask must be bool or have the dtype of q; got mask ", mask.dtype(), ", q ",
             q.dtype());
  const Shape scores{q.size(0), q.size(2), q.size(1), k.size(1)};
  bool fits = mask.dims() <= 4;
  for (int i = 0; fits && i < mask.dims(); ++i) {
    fits = mask.shape()[i] == 1 || mask.shape()[i] == scores[i + 4 - mask.dims()];
  }
  CAMO_CHECK(fits, "scaled_dot_product_attention: mask must broadcast to ", scores, " [B, H, Nq, Nk]; got mask ",
             mask.shape());
  require_no_gradient("scaled_dot_product_attention: mask", {mask});
}

/// What a call works on: under Autocast in 16 bit, and checked.
struct Arguments {
  Tensor q, k, v;
  AttentionOptions options;

  Arguments(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const AttentionOptions& given)
      : q(detail::autocast_operand(q_in)),
        k(detail::autocast_operand(k_in)),
        v(detail::autocast_operand(v_in)),
        options(given) {
    options.mask = detail::autocast_operand(options.mask);
    check_arguments(q, k, v, options);
  }
};

DType sum_dtype(DType dtype) { return dtype == f64 ? f64 : f32; }

/// For checked arguments; the log-sum-exp only where `wants_sums`.
AttentionResult compute(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options,
                        bool wants_sums) {
  if (detail::needs_f32(q)) {
    AttentionOptions wide = options;
    if (wide.mask.defined()) wide.mask = detail::in_f32(wide.mask);
    AttentionResult result;
    result.y = detail::in_f32({q, k, v}, q.dtype(), [&](const Tensors& in) {
      const AttentionResult computed = compute(in[0], in[1], in[2], wide, wants_sums);
      result.log_sum_exp = computed.log_sum_exp;
      return computed.y;
    });
    return result;
  }
  const double scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
  const bool any = q.numel() > 0 && k.numel() > 0;
  if (any && flash::is_chosen(q, k, options)) return flash::attention(q, k, v, options, scale);
  const Shape sums{q.size(0), q.size(2), q.size(1)};
  AttentionResult result;
  Tensor probabilities;
  if (!any) {
    result.y = zeros(q.shape(), q.dtype(), q.device());
    result.log_sum_exp = full(sums, -std::numeric_limits<double>::infinity(), sum_dtype(q.dtype()), q.device());
  } else {
    const bool keep = grad_wanted({q, k, v});
    result.y = empty(q.shape(), q.dtype(), q.device());
    if (wants_sums) result.log_sum_exp = empty(sums, sum_dtype(q.dtype()), q.device());
    if (q.is_cuda()) {
      probabilities = detail::attention_forward_cuda(q, k, v, options, scale, keep, result.y, result.log_sum_exp);
    } else {
      if (keep) probabilities = empty({q.size(0), q.size(2), q.size(1), k.size(1)}, q.dtype(), cpu);
      dispatch_floating(q.dtype(), "scaled_dot_product_attention", [&]<class T>() {
        attention_forward<T>(usable<T>(q), usable<T>(k), usable<T>(v), options, static_cast<T>(scale), probabilities,
                             result.y, result.log_sum_exp);
      });
    }
  }
  if (auto* node = record<AttentionNode>(result.y, {q, k, v}, scale, options.dropout, options.dropout_key)) {
    node->q = q;
    node->k = k;
    node->v = v;
    node->probabilities = probabilities;
  }
  return result;
}

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                    const AttentionOptions& options) {
  const Arguments in(q, k, v, options);
  return compute(in.q, in.k, in.v, in.options, false).y;
}

AttentionResult attention_with_log_sum_exp(const Tensor& q, const Tensor& k, const Tensor& v,
                                           const AttentionOptions& options) {
  const Arguments in(q, k, v, options);
  return compute(in.q, in.k, in.v, in.options, true);
}

}  // namespace camo
