// gcc 12 takes the undefined lanes of its own AVX-512 intrinsics, inlined from Eigen, for uninitialised variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <Eigen/Core>

#include "ops/detail/gemm.h"

namespace camo::detail {
namespace {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using Map = Eigen::Map<RowMajor<T>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class T>
using ConstMap = Eigen::Map<const RowMajor<T>, Eigen::Unaligned, Eigen::OuterStride<>>;

template <class T>
ConstMap<T> stored(const Matrix<const T>& x) {
  return {x.data, x.transposed ? x.cols : x.rows, x.transposed ? x.rows : x.cols, Eigen::OuterStride<>(x.ld)};
}

template <class T, class A, class B>
void product(const A& a, const B& b, const Matrix<T>& c, bool accumulate) {
  Map<T> out(c.data, c.rows, c.cols, Eigen::OuterStride<>(c.ld));
  if (accumulate) out.noalias() += a * b;
  else out.noalias() = a * b;
}

}  // namespace

template <class T>
void gemm_eigen(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<T>& c, bool accumulate) {
  const ConstMap<T> left = stored(a), right = stored(b);
  if (a.transposed && b.transposed) product(left.transpose(), right.transpose(), c, accumulate);
  else if (a.transposed) product(left.transpose(), right, c, accumulate);
  else if (b.transposed) product(left, right.transpose(), c, accumulate);
  else product(left, right, c, accumulate);
}

template void gemm_eigen(const Matrix<const float>&, const Matrix<const float>&, const Matrix<float>&, bool);
template void gemm_eigen(const Matrix<const double>&, const Matrix<const double>&, const Matrix<double>&, bool);

}  // namespace camo::detail
