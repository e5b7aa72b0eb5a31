#include "ops/detail/indexing_device.h"

#ifdef __CUDACC__
#include "core/cuda/elementwise.cuh"
#include "core/cuda/index_fault.h"
#endif

namespace camo::detail {

namespace {

#ifdef __CUDACC__
/// Where kernels of `op` note indices out of range.
struct IndexCheck {
  const char* op;
  cuda::IndexFault* fault;

  IndexCheck(const char* op_, Device device) : op(op_), fault(cuda::index_fault(device)) {}
  __device__ int64_t operator()(int64_t position, int64_t extent) const {
    return cuda::checked_index(position, extent, op, fault);
  }
};

/// Operands: y, index, and x without the axis.
template <class T>
struct GatherElement {
  T* y;
  const T* x;
  const int64_t* index;
  int64_t extent, step;  // of the axis in x
  IndexCheck checked;

  __device__ void operator()(const int64_t (&offset)[3]) const {
    y[offset[0]] = x[offset[2] + checked(index[offset[1]], extent) * step];
  }
};

/// A thread for each place of the target. Operands: the target, the index without the axis (its lane), and the place
/// along the axis.
template <class T>
struct AddLane {
  T* target;
  const int64_t* index;
  const T* values;
  int64_t extent, count, step;  // the target's extent; length and stride of a lane of the index
  IndexCheck checked;

  __device__ void operator()(const int64_t (&offset)[3]) const {
    using V = cuda::Value<T>;
    V sum = convert<V>(target[offset[0]]);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t at = offset[1] + k * step, position = index[at];
      if (position == offset[2]) sum += convert<V>(values[at]);
      if (offset[2] == 0) checked(position, extent);
    }
    target[offset[0]] = convert<T>(sum);
  }
};

/// A thread for each pack P of y [outer, count, row]; x is [outer, extent, row].
template <class P>
struct CopySlice {
  P* y;
  const P* x;
  const int64_t* index;
  int64_t extent;
  cuda::FastDivide row, count;
  IndexCheck checked;

  __device__ void operator()(int64_t p) const {
    const uint32_t slice = row.divide(static_cast<uint32_t>(p));
    const uint32_t outer = count.divide(slice);
    const int64_t from = outer * extent + checked(index[slice - outer * count.divisor], extent);
    y[p] = x[from * row.divisor + (p - int64_t{slice} * row.divisor)];
  }
};

/// A thread for each pack of y and base [outer, extent, row packs]; values are [outer, count, row packs].
template <class T, int N>
struct AddSlices {
  T* y;
  const T* base;  // may be null
  const T* values;
  const int64_t* index;
  int64_t count;
  cuda::FastDivide row, extent;
  IndexCheck checked;

  __device__ void operator()(int64_t p) const {
    using V = cuda::Value<T>;
    const uint32_t slice = row.divide(static_cast<uint32_t>(p));
    const uint32_t outer = extent.divide(slice), place = slice - outer * extent.divisor;
    const int64_t column = p - int64_t{slice} * row.divisor;
    V sums[N];
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] = V(0);
    if (base != nullptr) {
      const auto pack = cuda::load_pack<N>(base + p * N);
#pragma unroll
      for (int n = 0; n < N; ++n) sums[n] = convert<V>(pack.values[n]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t position = index[i];
      if (place == 0) checked(position, extent.divisor);
      if (position != place) continue;
      const auto pack = cuda::load_pack<N>(values + ((outer * count + i) * row.divisor + column) * N);
#pragma unroll
      for (int n = 0; n < N; ++n) sums[n] += convert<V>(pack.values[n]);
    }
    cuda::Pack<T, N> result;
#pragma unroll
    for (int n = 0; n < N; ++n) result.values[n] = convert<T>(sums[n]);
    cuda::store_pack<N>(y + p * N, result);
  }
};

void check_count(int64_t count, const char* op) {
  CAMO_CHECK(count < (int64_t{1} << 31), op, ": at most 2^31 elements on CUDA; got ", count);
}

int64_t extent_before(const Shape& shape, int axis) {
  int64_t extent = 1;
  for (int i = 0; i < axis; ++i) extent *= shape[i];
  return extent;
}
int64_t extent_behind(const Shape& shape, int axis) {
  int64_t extent = 1;
  for (int i = axis + 1; i < shape.size(); ++i) extent *= shape[i];
  return extent;
}

Shape without_axis(Shape strides, int axis) {
  strides[axis] = 0;
  return strides;
}
#endif

}  // namespace

void gather_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& x, [[maybe_unused]] int axis,
                 [[maybe_unused]] const Tensor& index) {
#ifdef __CUDACC__
  const Shape& shape = index.shape();
  cuda::dispatch_bytes(size_in_bytes(x.dtype()), [&]<class T>() {
    cuda::for_each_strided<3>(
        x.device(), shape, {y.strides(), index.strides(), without_axis(x.strides(), axis)}, "gather",
        GatherElement<T>{static_cast<T*>(y.raw_data()), static_cast<const T*>(x.raw_data()), index.data<int64_t>(),
                         x.shape()[axis], x.strides()[axis], IndexCheck("gather", x.device())});
  });
#endif
}

void scatter_add_cuda([[maybe_unused]] const Tensor& target, [[maybe_unused]] int axis,
                      [[maybe_unused]] const Tensor& index, [[maybe_unused]] const Tensor& values,
                      [[maybe_unused]] const char* op) {
#ifdef __CUDACC__
  Shape shape = index.shape(), along = Shape::filled(shape.size(), 0);
  const Shape lanes = shape.contiguous_strides();
  const int64_t count = shape[axis];
  shape[axis] = target.shape()[axis];
  along[axis] = 1;
  cuda::dispatch_arithmetic(target.dtype(), op, [&]<class T>() {
    cuda::for_each_strided<3>(target.device(), shape, {target.strides(), without_axis(lanes, axis), along}, op,
                              AddLane<T>{target.data<T>(), index.data<int64_t>(), values.data<T>(), shape[axis], count,
                                         lanes[axis], IndexCheck(op, target.device())});
  });
#endif
}

void copy_slices_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& x, [[maybe_unused]] int axis,
                      [[maybe_unused]] const Tensor& index) {
#ifdef __CUDACC__
  const int64_t row_bytes = extent_behind(x.shape(), axis) * size_in_bytes(x.dtype());
  const int64_t slices = extent_before(x.shape(), axis) * index.numel();
  const auto fits = [&](int64_t bytes) {
    const auto size = static_cast<size_t>(bytes);
    return row_bytes % bytes == 0 && cuda::is_aligned(x.raw_data(), size) && cuda::is_aligned(y.raw_data(), size);
  };
  const auto run = [&]<class P>() {
    const int64_t row = row_bytes / static_cast<int64_t>(sizeof(P));
    check_count(slices * row, "index_select");
    cuda::for_each(
        x.device(), slices * row, "index_select",
        CopySlice<P>{static_cast<P*>(y.raw_data()), static_cast<const P*>(x.raw_data()), index.data<int64_t>(),
                     x.shape()[axis], cuda::FastDivide(static_cast<uint32_t>(row)),
                     cuda::FastDivide(static_cast<uint32_t>(index.numel())), IndexCheck("index_select", x.device())});
  };
  if (fits(16)) run.template operator()<uint4>();
  else if (fits(8)) run.template operator()<uint64_t>();
  else if (fits(4)) run.template operator()<uint32_t>();
  else if (fits(2)) run.template operator()<uint16_t>();
  else run.template operator()<uint8_t>();
#endif
}

void add_slices_cuda([[maybe_unused]] const Tensor& y, [[maybe_unused]] const Tensor& base, [[maybe_unused]] int axis,
                     [[maybe_unused]] const Tensor& index, [[maybe_unused]] const Tensor& values,
                     [[maybe_unused]] const char* op) {
#ifdef __CUDACC__
  if (y.numel() == 0) return;
  cuda::dispatch_arithmetic(y.dtype(), op, [&]<class T>() {
    T* const out = y.data<T>();
    const T* const from = base.defined() ? base.data<T>() : nullptr;
    const T* const in = values.data<T>();
    const int64_t inner = extent_behind(y.shape(), axis);
    const auto run = [&]<int N>() {
      check_count(y.numel() / N, op);
      cuda::for_each(
          y.device(), y.numel() / N, op,
          AddSlices<T, N>{out, from, in, index.data<int64_t>(), index.numel(),
                          cuda::FastDivide(static_cast<uint32_t>(inner / N)),
                          cuda::FastDivide(static_cast<uint32_t>(y.shape()[axis])), IndexCheck(op, y.device())});
    };
    constexpr int kWidest = cuda::kPackSize<T>;
    if (inner % kWidest == 0 && cuda::is_aligned(out, 16) && cuda::is_aligned(from, 16) && cuda::is_aligned(in, 16))
      run.template operator()<kWidest>();
    else run.template operator()<1>();
  });
#endif
}

}  // namespace camo::detail
