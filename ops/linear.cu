// y = x W^T + b on the last axis.   x [M, in], W [out, in], b [out], y [M, out], M being all leading axes
//
// dx = dy W,  dW = dy^T x,  db = sum over rows of dy. Keeps x and W. Accumulates in the dtype of x (products) and in
// double across blocks of rows (db).
#include "core/autograd.h"
#include "ops/detail/gemm.h"
#include "ops/detail/rows.h"
#include "ops/matmul.h"

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

template <class T>
void linear_forward(const Rows& x, const Rows& weight, const Tensor& bias, const Tensor& y) {
  const auto target = output_matrix<T>(y, x.count, weight.count);
  if (!bias.defined()) return detail::gemm(matrix<T>(x), matrix<T>(weight).t(), target);
  const Tensor row = detail::dense(bias);
  detail::gemm_plus_row(matrix<T>(x), matrix<T>(weight).t(), row.data<T>(), target);
}

struct LinearNode final : Node {
  LinearNode() : Node("linear") {}
  Saved x{this, "x"}, weight{this, "weight"};

  Tensors backward(const Tensors& dy) override {
    Tensors grads(3);
    const Rows g = detail::as_rows(dy[0]);
    dispatch_floating(dy[0].dtype(), "linear", [&]<class T>() {
      if (needs(0)) {
        grads[0] = empty(x->shape(), x->dtype());
        detail::gemm(matrix<T>(g), matrix<T>(detail::as_rows(*weight)),
                     output_matrix<T>(grads[0], g.count, x->size(-1)));
      }
      if (needs(1)) {
        grads[1] = empty(weight->shape(), x->dtype());
        detail::gemm(matrix<T>(g).t(), matrix<T>(detail::as_rows(*x)),
                     output_matrix<T>(grads[1], g.width, x->size(-1)));
      }
      if (needs(2)) grads[2] = detail::column_sums<T>(g);
    });
    return grads;
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  CAMO_CHECK(weight.dims() == 2, "linear: weight must be [out, in]; got weight ", weight.shape());
  CAMO_CHECK(x.dims() >= 1 && x.size(-1) == weight.size(1), "linear: the last dimension of x must be ", weight.size(1),
             ", the second of weight; got x ", x.shape(), ", weight ", weight.shape());
  CAMO_CHECK(!bias.defined() || bias.shape() == Shape{weight.size(0)}, "linear: bias must be [", weight.size(0),
             "], the first dimension of weight; got bias ", bias.shape(), ", weight ", weight.shape());
  CAMO_CHECK(x.dtype() == weight.dtype() && (!bias.defined() || bias.dtype() == x.dtype()),
             "linear: x, weight and bias must have one dtype; got x ", x.dtype(), ", weight ", weight.dtype(),
             bias.defined() ? concat_text(", bias ", bias.dtype()) : std::string());
  Shape shape = x.shape();
  shape[shape.size() - 1] = weight.size(0);
  Tensor y = dispatch_floating(x.dtype(), "linear", [&]<class T>() {
    Tensor out = empty(shape, x.dtype());
    linear_forward<T>(detail::as_rows(x), detail::as_rows(weight), bias, out);
    return out;
  });
  if (auto* node = record<LinearNode>(y, {x, weight, bias})) {
    node->x = x;
    node->weight = weight;
  }
  return y;
}

}  // namespace camo
