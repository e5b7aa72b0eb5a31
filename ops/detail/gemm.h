// Products of matrices in CPU memory, for f32 and f64, and of bf16 matrices where the processor has instructions for
// them, with sums and results in f32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "core/half.h"

namespace camo::detail {

/// A matrix in memory: element (i, j) is data[i * ld + j], or data[j * ld + i] when transposed. ld is at least the
/// length of what is contiguous.
template <class T>
struct Matrix {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ld = 1;
  bool transposed = false;

  Matrix() = default;
  Matrix(T* data_, int64_t rows_, int64_t cols_, int64_t ld_, bool transposed_)
      : data(data_), rows(rows_), cols(cols_), ld(ld_), transposed(transposed_) {}
  /// A matrix that may be written is also one to read.
  template <class U>
  requires std::is_same_v<T, const U> Matrix(const Matrix<U>& x) : Matrix(x.data, x.rows, x.cols, x.ld, x.transposed) {}

  Matrix t() const { return {data, cols, rows, ld, !transposed}; }
  Matrix block(int64_t row, int64_t col, int64_t block_rows, int64_t block_cols) const {
    return {data + (transposed ? col * ld + row : row * ld + col), block_rows, block_cols, ld, transposed};
  }
};

/// The matrix with these strides; empty when it has no contiguous axis or overlaps itself.
template <class T>
std::optional<Matrix<T>> strided_matrix(T* data, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
  const int64_t width = std::max<int64_t>(1, cols), height = std::max<int64_t>(1, rows);
  if (cols <= 1 || col_stride == 1) {
    const int64_t ld = rows <= 1 ? width : row_stride;
    if (ld >= width) return Matrix<T>{data, rows, cols, ld, false};
  }
  if (rows <= 1 || row_stride == 1) {
    const int64_t ld = cols <= 1 ? height : col_stride;
    if (ld >= height) return Matrix<T>{data, rows, cols, ld, true};
  }
  return {};
}

/// c = a b, or c += a b. c is not transposed and shares no memory with a and b. Runs in parallel; how the work is cut
/// depends on the shapes alone, so that the result is the same for any number of threads.
void gemm(const Matrix<const float>& a, const Matrix<const float>& b, const Matrix<float>& c, bool accumulate = false);
void gemm(const Matrix<const double>& a, const Matrix<const double>& b, const Matrix<double>& c,
          bool accumulate = false);
void gemm(const Matrix<const BFloat16>& a, const Matrix<const BFloat16>& b, const Matrix<float>& c,
          bool accumulate = false);
/// c = a b + row, the row (c.cols elements) being added to every row of the product.
void gemm_plus_row(const Matrix<const float>& a, const Matrix<const float>& b, const float* row,
                   const Matrix<float>& c);
void gemm_plus_row(const Matrix<const double>& a, const Matrix<const double>& b, const double* row,
                   const Matrix<double>& c);
void gemm_plus_row(const Matrix<const BFloat16>& a, const Matrix<const BFloat16>& b, const float* row,
                   const Matrix<float>& c);

/// Whether products of bf16 are computed as such here: fast kernels (ops/cpu_kernels.h), oneDNN, and a processor with
/// AVX512-BF16.
bool has_bf16_products();

/// What products of T are summed in and give.
template <class T>
using ProductOf = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;

/// One-thread products of the libraries behind gemm().
template <class T>
void gemm_eigen(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<T>& c, bool accumulate);
void gemm_onednn(const Matrix<const float>& a, const Matrix<const float>& b, const Matrix<float>& c, bool accumulate);
void gemm_onednn(const Matrix<const BFloat16>& a, const Matrix<const BFloat16>& b, const Matrix<float>& c,
                 bool accumulate);

}  // namespace camo::detail
