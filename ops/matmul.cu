// y[..., i, j] = sum_k a[..., i, k] b[..., k, j], leading axes broadcast.
//
// da = dy b^T,  db = a^T dy, summed over broadcast axes. Keeps a and b (views: no copies). Accumulates in the dtype of
// a (in f32 for 16-bit operands).
#include "core/autograd.h"
#include "core/strided_loop.h"
#include "ops/detail/autocast.h"
#include "ops/detail/gemm.h"
#include "ops/detail/gemm_cuda.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/rows.h"
#include "ops/detail/same_device.h"
#include "ops/matmul.h"
#include "ops/reduce.h"

namespace camo {
namespace {

using detail::Matrix;

Shape batch_shape(const Tensor& x) { return Shape(std::span<const int64_t>(x.shape().begin(), x.shape().end() - 2)); }

/// The matrices of an operand. Strides stay where a product can use them.
template <class T>
class Batch {
 public:
  Batch(const Tensor& x, const Shape& batch) : x_(x.detach()), batch_(batch) {
    if (!view(0)) x_ = clone(x);
    const int missing = batch.size() - (x.dims() - 2);
    for (int axis = 0; axis < batch.size(); ++axis) {
      const bool repeated = axis < missing || x_.shape()[axis - missing] == 1;
      strides_.push_back(repeated ? 0 : x_.strides()[axis - missing]);
    }
  }
  Matrix<const T> operator[](int64_t index) const {
    int64_t offset = 0;
    for (int axis = batch_.size() - 1; axis >= 0; --axis) {
      offset += index % batch_[axis] * strides_[axis];
      index /= batch_[axis];
    }
    return *view(offset);
  }

 private:
  std::optional<Matrix<const T>> view(int64_t offset) const {
    return detail::strided_matrix<const T>(x_.data<T>() + offset, x_.size(-2), x_.size(-1), x_.stride(-2),
                                           x_.stride(-1));
  }
  Tensor x_;
  Shape batch_, strides_;
};

/// a [..., M, K] times b [K, N] with row-major a: one product of all rows. y is f32 for bf16 operands.
template <class T>
void multiply_rows(const Tensor& a, const Tensor& b, const Tensor& y) {
  using R = detail::ProductOf<T>;
  const int64_t depth = a.size(-1), rows = a.numel() / std::max<int64_t>(1, depth), cols = y.size(-1);
  detail::gemm(Matrix<const T>{a.data<T>(), rows, depth, std::max<int64_t>(1, depth), false}, Batch<T>(b, {})[0],
               Matrix<R>{y.data<R>(), rows, cols, std::max<int64_t>(1, cols), false});
}

template <class T>
void multiply_batches(const Tensor& a, const Tensor& b, const Tensor& y) {
  using R = detail::ProductOf<T>;
  const Shape batch = batch_shape(y);
  const Batch<T> left(a, batch), right(b, batch);
  const int64_t rows = y.size(-2), cols = y.size(-1), count = batch.numel();
  const auto product = [&](int64_t i) {
    detail::gemm(left[i], right[i], {y.data<R>() + i * rows * cols, rows, cols, std::max<int64_t>(1, cols), false});
  };
  // Few matrices leave the threads to the products.
  if (count < num_threads()) {
    for (int64_t i = 0; i < count; ++i) product(i);
    return;
  }
  const int64_t work = std::max<int64_t>(1, rows * cols * a.size(-1));
  parallel_for(count, std::max<int64_t>(1, 65536 / work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) product(i);
  });
}

#ifdef CAMO_WITH_CUDA
/// The matrices of an operand in device memory, a copy where no product can step through x.
struct CudaOperand {
  Tensor x;
  detail::CudaMatrix matrix;

  explicit CudaOperand(const Tensor& x_) : x(x_.detach()) {
    auto view = strided();
    if (!view) {
      x = clone(x);
      view = strided();
    }
    matrix = {x.raw_data(), view->ld, view->transposed};
  }
  std::optional<Matrix<const float>> strided() const {
    return detail::strided_matrix<const float>(nullptr, x.size(-2), x.size(-1), x.stride(-2), x.stride(-1));
  }
  /// In elements, along the batch axes to which x broadcasts.
  Shape batch_strides(const Shape& batch) const {
    Shape full = batch;
    full.push_back(x.size(-2));
    full.push_back(x.size(-1));
    Shape strides = detail::broadcast_strides(x, full);
    strides.erase(strides.size() - 1);
    strides.erase(strides.size() - 1);
    return strides;
  }
  detail::CudaMatrix at(int64_t offset, int64_t outer_stride, int64_t inner_stride) const {
    detail::CudaMatrix result = matrix;
    result.data = static_cast<char*>(matrix.data) + offset * size_in_bytes(x.dtype());
    result.outer_stride = outer_stride;
    result.inner_stride = inner_stride;
    return result;
  }
};

Tensor multiply_cuda(const Tensor& a, const Tensor& b, const Shape& shape) {
  CAMO_CHECK(is_floating(a.dtype()), "matmul: computes in floating dtypes; got ", a.dtype());
  if (a.size(-1) == 0) return zeros(shape, a.dtype(), a.device());
  Tensor y = empty(shape, a.dtype(), a.device());
  if (y.numel() == 0) return y;
  detail::CudaGemm gemm;
  gemm.device = a.device();
  gemm.dtype = gemm.out = a.dtype();
  gemm.rows = a.size(-2);
  gemm.cols = b.size(-1);
  gemm.depth = a.size(-1);
  if (b.dims() == 2 && a.dims() > 2 && a.is_contiguous()) {  // one product of all rows
    gemm.rows = a.numel() / gemm.depth;
    gemm.a = {a.raw_data(), gemm.depth};
    const CudaOperand right(b);
    gemm.b = right.matrix;
    gemm.c = {y.raw_data(), gemm.cols};
    detail::gemm_cuda(gemm);
    return y;
  }
  const CudaOperand left(a), right(b), out(y);
  const Shape batch = batch_shape(y);
  const detail::LoopAxes<3> axes(batch,
                                 {left.batch_strides(batch), right.batch_strides(batch), out.batch_strides(batch)});
  // Two levels in one call, the others here.
  const int levels = axes.shape.size();
  gemm.outer = axes.shape[levels - 2];
  gemm.inner = axes.shape[levels - 1];
  const std::array<const CudaOperand*, 3> operands{&left, &right, &out};
  const std::array<detail::CudaMatrix*, 3> targets{&gemm.a, &gemm.b, &gemm.c};
  for (int64_t i = 0, count = batch.numel() / (gemm.outer * gemm.inner); i < count; ++i) {
    for (size_t k = 0; k < 3; ++k) {
      int64_t rest = i, offset = 0;
      for (int axis = levels - 3; axis >= 0; --axis) {
        offset += rest % axes.shape[axis] * axes.strides[k][axis];
        rest /= axes.shape[axis];
      }
      *targets[k] = operands[k]->at(offset, axes.strides[k][levels - 2], axes.strides[k][levels - 1]);
    }
    detail::gemm_cuda(gemm);
  }
  return y;
}
#endif

Tensor multiply(const Tensor& a, const Tensor& b) {
  Shape shape = broadcast_shapes(batch_shape(a), batch_shape(b), "matmul");
  shape.push_back(a.size(-2));
  shape.push_back(b.size(-1));
#ifdef CAMO_WITH_CUDA
  if (a.is_cuda()) return multiply_cuda(a, b, shape);
#endif
  const auto run = [&]<class T>() {
    constexpr DType result = dtype_of<detail::ProductOf<T>>;
    if (a.size(-1) == 0) return zeros(shape, result, cpu);
    Tensor y = empty(shape, result, cpu);
    if (y.numel() == 0) return y;
    if (b.dims() == 2 && a.dims() > 2 && a.is_contiguous() && a.numel() > 0) multiply_rows<T>(a, b, y);
    else multiply_batches<T>(a, b, y);
    return y;
  };
  if (detail::needs_f32(a)) {
    const bool takes_bf16 = a.dtype() == bf16 && detail::has_bf16_products();
    const Tensor y = takes_bf16 ? run.template operator()<BFloat16>() : multiply(detail::in_f32(a), detail::in_f32(b));
    return detail::rounded_to(y, a.dtype());
  }
  return dispatch_floating(a.dtype(), "matmul", run);
}

Tensor transposed(const Tensor& x) {
  Shape shape = x.shape(), strides = x.strides();
  const int last = x.dims() - 1;
  std::swap(shape[last - 1], shape[last]);
  std::swap(strides[last - 1], strides[last]);
  return make_view(x, shape, strides, x.offset());
}

/// All leading axes merged with the rows.
Tensor flat_rows(const Tensor& x) {
  const Shape shape{x.numel() / std::max<int64_t>(1, x.size(-1)), x.size(-1)};
  return make_view(x, shape, shape.contiguous_strides(), x.offset());
}

struct MatmulNode final : Node {
  MatmulNode() : Node("matmul") {}
  Saved a{this, "a"}, b{this, "b"};

  Tensors backward(const Tensors& dy) override {
    Tensors grads(2);
    if (needs(0)) grads[0] = sum_to(multiply(dy[0], transposed(*b)), a->shape());
    if (needs(1)) {
      if (b->dims() == 2 && a->is_contiguous() && a->numel() > 0) {
        grads[1] = multiply(transposed(flat_rows(*a)), flat_rows(detail::dense(dy[0])));
      } else {
        grads[1] = sum_to(multiply(transposed(*a), dy[0]), b->shape());
      }
    }
    return grads;
  }
};

}  // namespace

Tensor matmul(const Tensor& a_in, const Tensor& b_in) {
  const Tensor a = detail::autocast_operand(a_in), b = detail::autocast_operand(b_in);
  CAMO_CHECK(a.dims() >= 2 && b.dims() >= 2, "matmul: operands need two dimensions or more; got ", a.shape(), " times ",
             b.shape(), "; add one with unsqueeze");
  CAMO_CHECK(a.size(-1) == b.size(-2), "matmul: the last dimension of a must be the last but one of b; got ", a.shape(),
             " times ", b.shape());
  CAMO_CHECK(a.dtype() == b.dtype(), "matmul: operands must have one dtype; got ", a.dtype(), " times ", b.dtype());
  detail::check_same_device("matmul", {a, b});
  Tensor y = multiply(a, b);
  if (auto* node = record<MatmulNode>(y, {a, b})) {
    node->a = a;
    node->b = b;
  }
  return y;
}

}  // namespace camo
