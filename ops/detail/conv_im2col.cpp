#include "ops/detail/conv_im2col.h"

#include <algorithm>

#include "core/autograd.h"
#include "core/parallel.h"
#include "ops/matmul.h"
#include "ops/shape_ops.h"

namespace camo::detail {

namespace {

// Rows of output pixels whose windows are laid out at a time: about 2 MiB of f64, which caches hold, or as much as the
// weight, which is read (its gradient written) once for each of these parts.
int64_t rows_per_chunk(const ConvProblem& p) {
  const int64_t elements = std::max(int64_t{1} << 18, p.weight_size());
  return std::max<int64_t>(1, elements / std::max<int64_t>(p.ow * p.kh * p.kw * p.c, 1));
}

// columns[row, ox, ky, kx, c] = x[image, iy, ix, c] for the output rows [first, first + rows) of all images in a row.
template <class T>
void gather_windows(const ConvProblem& p, const T* x, int64_t first, int64_t rows, T* columns) {
  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = (first + row) / p.oh, oy = (first + row) % p.oh;
      T* target = columns + row * p.ow * p.kh * p.kw * p.c;
      for (int64_t ox = 0; ox < p.ow; ++ox) {
        for (int64_t ky = 0; ky < p.kh; ++ky) {
          const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
          for (int64_t kx = 0; kx < p.kw; ++kx, target += p.c) {
            const int64_t ix = ox * p.stride_w - p.padding_w + kx * p.dilation_w;
            const bool inside = iy >= 0 && iy < p.h && ix >= 0 && ix < p.w;
            if (inside) std::copy_n(x + ((image * p.h + iy) * p.w + ix) * p.c, p.c, target);
            else std::fill_n(target, p.c, T(0));
          }
        }
      }
    }
  });
}

// The transpose: adds the windows of output rows [first, first + rows), all of one image, into that image of dx. One
// thread a range of channels, so that each element has one writer and one order.
template <class T>
void scatter_windows(const ConvProblem& p, const T* columns, int64_t first, int64_t rows, T* dx) {
  const int64_t image = first / p.oh;
  parallel_for(p.c, std::max<int64_t>(8, 16384 / std::max<int64_t>(1, rows * p.ow)), [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t oy = first % p.oh + row;
      const T* source = columns + row * p.ow * p.kh * p.kw * p.c;
      for (int64_t ox = 0; ox < p.ow; ++ox) {
        for (int64_t ky = 0; ky < p.kh; ++ky) {
          const int64_t iy = oy * p.stride_h - p.padding_h + ky * p.dilation_h;
          for (int64_t kx = 0; kx < p.kw; ++kx, source += p.c) {
            const int64_t ix = ox * p.stride_w - p.padding_w + kx * p.dilation_w;
            if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
            T* target = dx + ((image * p.h + iy) * p.w + ix) * p.c;
            for (int64_t c = begin; c < end; ++c) target[c] += source[c];
          }
        }
      }
    }
  });
}

// Elements [first, first + count) of a contiguous tensor's leading elements, seen with this shape.
Tensor view_at(const Tensor& x, int64_t first, const Shape& shape) {
  return make_view(x, shape, shape.contiguous_strides(), x.offset() + first);
}

}  // namespace

Tensor im2col_forward(const ConvProblem& p, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const NoGrad no_grad;
  const int64_t window = p.kh * p.kw * p.c, step = rows_per_chunk(p);
  const Tensor matrix = view_at(weight, 0, {p.o, window});
  Tensor y = empty({p.n, p.oh, p.ow, p.o}, x.dtype(), cpu);
  for (int64_t first = 0; first < p.n * p.oh; first += step) {
    const int64_t rows = std::min(step, p.n * p.oh - first);
    const Tensor columns = empty({rows * p.ow, window}, x.dtype(), cpu);
    dispatch_floating(x.dtype(), "conv2d",
                      [&]<class T>() { gather_windows(p, x.data<T>(), first, rows, columns.data<T>()); });
    copy_into(view_at(y, first * p.ow * p.o, {rows * p.ow, p.o}), linear(columns, matrix, bias));
  }
  return y;
}

Tensor im2col_backward_data(const ConvProblem& p, const Tensor& dy, const Tensor& weight) {
  const NoGrad no_grad;
  const int64_t window = p.kh * p.kw * p.c, step = rows_per_chunk(p);
  const Tensor matrix = view_at(weight, 0, {p.o, window});
  Tensor dx = zeros({p.n, p.h, p.w, p.c}, dy.dtype(), cpu);
  for (int64_t image = 0; image < p.n; ++image) {
    for (int64_t oy = 0; oy < p.oh; oy += step) {
      const int64_t rows = std::min(step, p.oh - oy), first = image * p.oh + oy;
      const Tensor columns = matmul(view_at(dy, first * p.ow * p.o, {rows * p.ow, p.o}), matrix);
      dispatch_floating(dy.dtype(), "conv2d",
                        [&]<class T>() { scatter_windows(p, columns.data<T>(), first, rows, dx.data<T>()); });
    }
  }
  return dx;
}

Tensor im2col_backward_weight(const ConvProblem& p, const Tensor& x, const Tensor& dy) {
  const NoGrad no_grad;
  const int64_t window = p.kh * p.kw * p.c, step = rows_per_chunk(p);
  Tensor dweight;
  for (int64_t first = 0; first < p.n * p.oh; first += step) {
    const int64_t rows = std::min(step, p.n * p.oh - first);
    const Tensor columns = empty({rows * p.ow, window}, x.dtype(), cpu);
    dispatch_floating(x.dtype(), "conv2d",
                      [&]<class T>() { gather_windows(p, x.data<T>(), first, rows, columns.data<T>()); });
    const Tensor part = matmul(transpose(view_at(dy, first * p.ow * p.o, {rows * p.ow, p.o}), 0, 1), columns);
    if (dweight.defined()) add_into(dweight, part);
    else dweight = part;
  }
  return view_at(dweight, 0, {p.o, p.kh, p.kw, p.c});
}

}  // namespace camo::detail
