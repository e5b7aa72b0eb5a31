// y = x W^T + b on the last axis.   x [M, in], W [out, in], b [out], y [M, out], M being all leading axes
//
// dx = dy W,  dW = dy^T x,  db = sum over rows of dy. Keeps x and W. Accumulates in the dtype of x (products) and in
// double across blocks of rows (db); products of 16-bit operands in f32. There the bias is added inside the
// product where cuBLASLt can. One output alone has kernels of its own (linear_one.cu).
#include "core/autograd.h"
#include "core/gradient_sum.h"
#include "ops/detail/autocast.h"
#include "ops/detail/gemm.h"
#include "ops/detail/gemm_cuda.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/linear.h"
#include "ops/detail/linear_one.h"
#include "ops/detail/rows.h"
#include "ops/detail/same_device.h"
#include "ops/matmul.h"
#ifdef __CUDACC__
#include "core/cuda/kernels.cuh"
#include "ops/detail/column_sum.h"
#endif

namespace camo {
namespace {

using detail::Matrix;
using detail::Rows;

template <class T>
Matrix<const T> matrix(const Rows& x) {
  return {x.row<T>(0), x.count, x.width, std::max<int64_t>(1, x.stride), false};
}

template <class T>
Matrix<T> output_matrix(const Tensor& y, int64_t rows, int64_t cols) {
  return {y.data<T>(), rows, cols, std::max<int64_t>(1, cols), false};
}

/// For bf16 operands, bias and y are f32.
template <class T>
void linear_forward(const Rows& x, const Rows& weight, const Tensor& bias, const Tensor& y) {
  using R = detail::ProductOf<T>;
  const auto target = output_matrix<R>(y, x.count, weight.count);
  if (!bias.defined()) return detail::gemm(matrix<T>(x), matrix<T>(weight).t(), target);
  const Tensor row = detail::dense(bias);
  detail::gemm_plus_row(matrix<T>(x), matrix<T>(weight).t(), row.data<R>(), target);
}

/// Whether products of this dtype take bf16 operands as they are; other 16-bit ones are converted to f32 before.
bool takes_bf16(DType dtype) { return dtype == bf16 && detail::has_bf16_products(); }

void linear_forward_cpu(const Rows& x, const Rows& weight, const Tensor& bias, const Tensor& y) {
  if (detail::needs_f32(y)) {
    const Tensor sums = empty(y.shape(), f32, cpu), row = bias.defined() ? detail::in_f32(bias) : bias;
    if (takes_bf16(y.dtype())) {
      linear_forward<BFloat16>(x, weight, row, sums);
    } else {
      const Tensor in = detail::in_f32(x.x), w = detail::in_f32(weight.x);
      linear_forward<float>(detail::as_rows(in), detail::as_rows(w), row, sums);
    }
    return copy_into(y, sums);
  }
  dispatch_floating(y.dtype(), "linear", [&]<class T>() { linear_forward<T>(x, weight, bias, y); });
}

/// The gradients of x and of the weight, each where it is wanted, in f32 for bf16. Added to the sums of `node`, if any.
template <class T>
void linear_backward(const Rows& dy, const Tensor& x, const Tensor& weight, bool needs_x, bool needs_weight,
                     const Node* node, Tensors& grads) {
  using R = detail::ProductOf<T>;
  const auto product = [&](int i, const Matrix<const T>& a, const Matrix<const T>& b, const Shape& shape) {
    Tensor sum = node != nullptr ? take_gradient_sum(*node, i) : Tensor();
    const bool adds = sum.defined();
    if (!adds) sum = empty(shape, dtype_of<R>, cpu);
    detail::gemm(a, b, output_matrix<R>(sum, a.rows, b.cols), adds);
    grads[static_cast<size_t>(i)] = sum;
  };
  if (needs_x) product(0, matrix<T>(dy), matrix<T>(detail::as_rows(weight)), x.shape());
  if (needs_weight) product(1, matrix<T>(dy).t(), matrix<T>(detail::as_rows(x)), weight.shape());
}

// --- CUDA ---

#ifdef __CUDACC__
detail::CudaMatrix cuda_matrix(const Rows& x, bool transposed = false) {
  return {x.x.raw_data(), std::max<int64_t>(1, x.stride), transposed};
}

/// c [rows, cols] = a b, row-major without gaps; zeros when depth is 0.
detail::CudaGemm cuda_product(const Tensor& c, int64_t rows, int64_t depth, int64_t cols) {
  detail::CudaGemm gemm;
  gemm.device = c.device();
  gemm.dtype = gemm.out = c.dtype();
  gemm.rows = rows;
  gemm.cols = cols;
  gemm.depth = depth;
  gemm.c = {c.raw_data(), std::max<int64_t>(1, cols)};
  return gemm;
}

void run(const detail::CudaGemm& gemm, const Tensor& c) {
  if (c.numel() == 0) return;
  if (gemm.depth > 0) detail::gemm_cuda(gemm);
  else if (!gemm.accumulate) fill(c, 0);
}
#endif

void linear_forward_cuda([[maybe_unused]] const Rows& x, [[maybe_unused]] const Rows& weight,
                         [[maybe_unused]] const Tensor& bias, [[maybe_unused]] const Tensor& y) {
#ifdef __CUDACC__
  CAMO_CHECK(is_floating(y.dtype()), "linear: computes in floating dtypes; got ", y.dtype());
  if (weight.count == 1 && detail::has_linear_one(x, weight.x, detail::kLinearOneForward)) {
    return detail::linear_one_cuda(x, weight.x, bias, y);
  }
  detail::CudaGemm gemm = cuda_product(y, x.count, x.width, weight.count);
  gemm.a = cuda_matrix(x);
  gemm.b = cuda_matrix(weight, true);
  if (!bias.defined() || y.numel() == 0) return run(gemm, y);
  Tensor row = detail::dense(bias);
  if (!cuda::is_aligned(row.raw_data(), 16)) row = clone(row);
  gemm.epilogue = detail::GemmEpilogue::bias;
  gemm.bias = row.raw_data();
  if (gemm.depth > 0 && detail::gemm_cuda(gemm)) return;
  copy_into(y, make_view(row, y.shape(), detail::broadcast_strides(row, y.shape()), row.offset()));
  gemm.epilogue = detail::GemmEpilogue::none;
  gemm.accumulate = true;
  if (gemm.depth > 0) detail::gemm_cuda(gemm);
#endif
}

void product_dx_cuda([[maybe_unused]] const GradientSum& dx, [[maybe_unused]] const Rows& dy,
                     [[maybe_unused]] const Rows& weight) {
#ifdef __CUDACC__
  detail::CudaGemm gemm = cuda_product(dx.tensor, dy.count, dy.width, weight.width);
  gemm.a = cuda_matrix(dy);
  gemm.b = cuda_matrix(weight);
  gemm.accumulate = dx.adds;
  run(gemm, dx.tensor);
#endif
}

/// Also f32 for 16-bit x.
void product_dweight_cuda([[maybe_unused]] const GradientSum& dweight, [[maybe_unused]] const Rows& dy,
                          [[maybe_unused]] const Rows& x) {
#ifdef __CUDACC__
  detail::CudaGemm gemm = cuda_product(dweight.tensor, dy.width, dy.count, x.width);
  gemm.dtype = x.x.dtype();
  gemm.a = cuda_matrix(dy, true);
  gemm.b = cuda_matrix(x);
  gemm.accumulate = dweight.adds;
  run(gemm, dweight.tensor);
#endif
}

void sum_dbias_cuda([[maybe_unused]] const Tensor& dbias, [[maybe_unused]] const Rows& dy) {
#ifdef __CUDACC__
  // Not by cuBLASLt beside the product: its kernels for that took three times as long as reading dy once more, and
  // 16-bit rows whose length is no multiple of 16 bytes went without tensor cores.
  detail::column_sum_cuda(dbias, detail::dense(dy.x));
#endif
}

struct LinearNode final : Node {
  explicit LinearNode(DType of_parameters) : Node("linear"), parameters(of_parameters) {}
  DType parameters;  // that their gradients have; x and weight may be 16-bit copies
  Saved x{this, "x"}, weight{this, "weight"};

  Tensors backward(const Tensors& dy) override {
    Tensors grads(3);
    const Rows g = detail::as_rows(dy[0]);
    if (dy[0].is_cuda()) {
      const Rows in = detail::as_rows(*x);
      if (g.width == 1 && needs(1) && detail::has_linear_one(in, *weight, detail::kLinearOneBackward)) {
        if (needs(0)) grads[0] = empty(x->shape(), x->dtype(), x->device());
        grads[1] = empty(weight->shape(), parameters, x->device());
        if (needs(2)) grads[2] = empty({1}, parameters, x->device());
        detail::linear_one_backward_cuda(g, in, *weight, grads[0], grads[1], grads[2]);
        return grads;
      }
      if (needs(0)) {
        const GradientSum dx(*this, 0, x->shape(), x->dtype(), x->device());
        product_dx_cuda(dx, g, detail::as_rows(*weight));
        grads[0] = dx.tensor;
      }
      if (needs(1)) {
        const GradientSum dweight(*this, 1, weight->shape(), parameters, x->device());
        product_dweight_cuda(dweight, g, in);
        grads[1] = dweight.tensor;
      }
      if (needs(2)) {
        grads[2] = empty({weight->size(0)}, parameters, x->device());
        sum_dbias_cuda(grads[2], g);
      }
      return grads;
    }
    const Tensor wide_dy = needs(2) || !takes_bf16(x->dtype()) ? detail::in_f32(dy[0]) : Tensor();
    if (takes_bf16(x->dtype())) {
      linear_backward<BFloat16>(g, *x, *weight, needs(0), needs(1), nullptr, grads);
    } else {
      const Tensor in = detail::in_f32(*x), w = detail::in_f32(*weight);
      dispatch_floating(wide_dy.dtype(), "linear", [&]<class T>() {
        const Node* own_sums = x->dtype() == wide_dy.dtype() && parameters == x->dtype() ? this : nullptr;
        linear_backward<T>(detail::as_rows(wide_dy), in, w, needs(0), needs(1), own_sums, grads);
      });
    }
    if (needs(2)) {
      dispatch_floating(wide_dy.dtype(), "linear",
                        [&]<class T>() { grads[2] = detail::column_sums<T>(detail::as_rows(wide_dy)); });
    }
    for (size_t i = 0; i < grads.size(); ++i) {
      if (grads[i].defined()) grads[i] = detail::rounded_to(grads[i], i == 0 ? x->dtype() : parameters);
    }
    return grads;
  }
};

}  // namespace

Tensor detail::linear(const Tensor& x, const Operand& w, const Operand& b) {
  const Tensor &weight = w.value, &bias = b.value;
  CAMO_CHECK(weight.dims() == 2, "linear: weight must be [out, in]; got weight ", weight.shape());
  CAMO_CHECK(x.dims() >= 1 && x.size(-1) == weight.size(1), "linear: the last dimension of x must be ", weight.size(1),
             ", the second of weight; got x ", x.shape(), ", weight ", weight.shape());
  CAMO_CHECK(!bias.defined() || bias.shape() == Shape{weight.size(0)}, "linear: bias must be [", weight.size(0),
             "], the first dimension of weight; got bias ", bias.shape(), ", weight ", weight.shape());
  CAMO_CHECK(x.dtype() == weight.dtype() && (!bias.defined() || bias.dtype() == x.dtype()),
             "linear: x, weight and bias must have one dtype; got x ", x.dtype(), ", weight ", weight.dtype(),
             bias.defined() ? concat_text(", bias ", bias.dtype()) : std::string());
  detail::check_same_device("linear", {x, weight, bias});
  Shape shape = x.shape();
  shape[shape.size() - 1] = weight.size(0);
  Tensor y = empty(shape, x.dtype(), x.device());
  const Rows rows = detail::as_rows(x), weight_rows = detail::as_rows(weight);
  if (x.is_cuda()) linear_forward_cuda(rows, weight_rows, bias, y);
  else linear_forward_cpu(rows, weight_rows, bias, y);
  if (auto* node = record<LinearNode>(y, {x, w.parameter, b.parameter}, w.parameter.dtype())) {
    node->x = x;
    node->weight = weight;
  }
  return y;
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  return detail::linear(detail::autocast_operand(x), {weight, detail::autocast_parameter(weight)},
                        {bias, detail::autocast_parameter(bias)});
}

}  // namespace camo
