// Index operations. The index is saved; each operation is the transpose of another one:
//
//   gather        dx = dy added at the gathered places        scatter_add   dvalues = gather(dy)
//   index_select  dx = dy added to the selected slices        index_add     dx = dy, dvalues = index_select(dy)
//
// Additions at one place happen in the order of the index, on one thread: results are reproducible. On CUDA that thread
// reads the whole index along the axis to find what belongs to its place, which suits short indices (the pictures of a
// batch, the chosen experts).
#include <cstring>

#include "core/autograd.h"
#include "core/strided_loop.h"
#include "ops/detail/elementwise.h"
#include "ops/detail/in_f32.h"
#include "ops/detail/indexing_device.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

Tensor row_major(const Tensor& x) { return x.is_contiguous() ? x : clone(x); }

/// A tensor seen as [outer, extent, inner] around an axis.
struct AroundAxis {
  int64_t outer = 1, extent = 1, inner = 1;
  AroundAxis(const Shape& shape, int axis) : extent(shape[axis]) {
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    for (int i = axis + 1; i < shape.size(); ++i) inner *= shape[i];
  }
};

/// On CUDA the values are checked by the kernels, which take index 0 instead of one that is not there: reading the
/// values here would wait for the device.
void check_index(const Tensor& index, Device device, int64_t extent, const char* op) {
  CAMO_CHECK(index.dtype() == i64, op, ": the index must be i64; got ", index.dtype(), "; convert with to(index, i64)");
  CAMO_CHECK(index.device() == device, op, ": operands must be on one device; got an index on ", index.device(),
             " and ", device, "; copy one with to()");
  CAMO_CHECK(extent > 0 || index.numel() == 0, op, ": indices must lie within the extent 0; got an index ",
             index.shape());
  if (device.is_cuda()) return;
  const Tensor flat = row_major(index);
  const int64_t* const positions = flat.data<int64_t>();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    CAMO_CHECK(0 <= positions[i] && positions[i] < extent, op, ": indices must lie within the extent ", extent,
               "; got ", positions[i], " as element ", i, " of the index ", index.shape());
  }
}

/// The index must fit into x, but for the axis.
void check_gather_shapes(const Tensor& index, const Shape& x, int axis, const char* op) {
  bool fits = index.dims() == x.size();
  for (int i = 0; fits && i < x.size(); ++i) fits = i == axis || index.shape()[i] <= x[i];
  CAMO_CHECK(fits, op, ": the index must have as many axes and at most the extents off axis ", axis, "; got index ",
             index.shape(), ", x ", x);
}

/// Calls fn(position in the index, offset in x) for every element of the index, in row-major order along `axis`.
template <class Fn>
void for_each_place(const Tensor& index, const Tensor& x, int axis, Fn fn) {
  const int64_t* const positions = index.data<int64_t>();
  Shape strides = x.strides();
  const int64_t step = strides[axis];
  strides[axis] = 0;
  const AroundAxis around(index.shape(), axis);
  if (index.numel() == 0) return;
  // Threads share the places before and after the axis, so that no two of them meet at one place of x.
  parallel_for(around.outer * around.inner, std::max<int64_t>(1, 4096 / around.extent),
               [&](int64_t begin, int64_t end) {
                 for (int64_t lane = begin; lane < end; ++lane) {
                   const int64_t first = lane / around.inner * around.extent * around.inner + lane % around.inner;
                   int64_t base = 0, rest = first;
                   for (int i = index.dims() - 1; i >= 0; --i) {
                     base += rest % index.shape()[i] * strides[i];
                     rest /= index.shape()[i];
                   }
                   for (int64_t k = 0; k < around.extent; ++k) {
                     const int64_t at = first + k * around.inner;
                     fn(at, base + positions[at] * step);
                   }
                 }
               });
}

Tensor gather_values(const Tensor& x, int axis, const Tensor& index) {
  const Tensor y = empty(index.shape(), x.dtype(), x.device());
  if (x.is_cuda()) {
    detail::gather_cuda(y, x, axis, index);
    return y;
  }
  dispatch_all(x.dtype(), [&]<class T>() {
    const T* const in = x.data<T>();
    T* const out = y.data<T>();
    for_each_place(index, x, axis, [=](int64_t at, int64_t offset) { out[at] = in[offset]; });
  });
  return y;
}

/// target[..., index[i...], ...] += values[i...]
void scatter_into(const Tensor& target, int axis, const Tensor& index, const Tensor& values, const char* op) {
  if (detail::needs_f32(target)) {
    const Tensor sums = detail::in_f32(target);
    scatter_into(sums, axis, index, detail::in_f32(values), op);
    return copy_into(target, sums);
  }
  const Tensor source = row_major(values);
  if (target.is_cuda()) return detail::scatter_add_cuda(target, axis, index, source, op);
  detail::dispatch_arithmetic(target.dtype(), op, [&]<class T>() {
    const T* const in = source.data<T>();
    T* const out = target.data<T>();
    for_each_place(index, target, axis, [=](int64_t at, int64_t offset) { out[offset] += in[at]; });
  });
}

struct GatherNode final : Node {
  GatherNode(Shape shape, int along) : Node("gather"), x_shape(shape), axis(along) {}
  Shape x_shape;
  int axis;
  Saved index{this, "index"};

  Tensors backward(const Tensors& dy) override {
    const Tensor dx = zeros(x_shape, dy[0].dtype(), dy[0].device());
    scatter_into(dx, axis, *index, dy[0], "gather");
    return {dx};
  }
};

struct ScatterAddNode final : Node {
  explicit ScatterAddNode(int along) : Node("scatter_add"), axis(along) {}
  int axis;
  Saved index{this, "index"};
  Tensors backward(const Tensors& dy) override { return {gather_values(dy[0], axis, *index)}; }
};

/// target[..., index[i], ...] += values[..., i, ...]; target is contiguous.
void add_slices_cpu(const Tensor& target, int axis, const Tensor& index, const Tensor& values, const char* op) {
  if (detail::needs_f32(target)) {
    const Tensor sums = detail::in_f32(target);
    add_slices_cpu(sums, axis, index, detail::in_f32(values), op);
    return copy_into(target, sums);
  }
  const Tensor source = row_major(values);
  const AroundAxis to(target.shape(), axis);
  const int64_t count = index.numel();
  const int64_t* const positions = index.data<int64_t>();
  if (source.numel() == 0) return;
  detail::dispatch_arithmetic(target.dtype(), op, [&]<class T>() {
    const T* const in = source.data<T>();
    T* const out = target.data<T>();
    // Threads share strips of the axes after `axis`, so that each adds the repeats of a slice in order.
    constexpr int64_t kStrip = 32;
    const int64_t strips = (to.inner + kStrip - 1) / kStrip;
    parallel_for(to.outer * strips, std::max<int64_t>(1, 16384 / (count * kStrip)), [&](int64_t begin, int64_t end) {
      while (begin < end) {
        const int64_t o = begin / strips, strip_end = std::min(end, (o + 1) * strips);
        const int64_t column = begin % strips * kStrip;
        const int64_t columns = std::min(to.inner, (strip_end - o * strips) * kStrip) - column;
        for (int64_t i = 0; i < count; ++i) {
          T* __restrict row = out + (o * to.extent + positions[i]) * to.inner + column;
          const T* from = in + (o * count + i) * to.inner + column;
#pragma omp simd
          for (int64_t c = 0; c < columns; ++c) row[c] += from[c];
        }
        begin = strip_end;
      }
    });
  });
}

/// base, or zeros of this shape without one, with values[..., i, ...] added to slice index[i].
Tensor with_added_slices(const Tensor& base, const Shape& shape, int axis, const Tensor& index, const Tensor& values,
                         const char* op) {
  if (values.is_cuda()) {
    const Tensor y = empty(shape, values.dtype(), values.device());
    const Tensor dense_base = base.defined() ? row_major(base) : Tensor();
    detail::add_slices_cuda(y, dense_base, axis, index, row_major(values), op);
    return y;
  }
  const Tensor y = base.defined() ? clone(base) : zeros(shape, values.dtype(), values.device());
  add_slices_cpu(y, axis, index, values, op);
  return y;
}

/// The slices of x at these positions.
Tensor copy_slices(const Tensor& x, int axis, const Tensor& index) {
  const Tensor source = row_major(x);
  Shape shape = x.shape();
  shape[axis] = index.numel();
  const Tensor y = empty(shape, x.dtype(), x.device());
  if (y.numel() == 0) return y;
  if (x.is_cuda()) {
    detail::copy_slices_cuda(y, source, axis, index);
    return y;
  }
  const AroundAxis around(x.shape(), axis);
  const int64_t row = around.inner * size_in_bytes(x.dtype()), count = index.numel();
  const int64_t* const positions = index.data<int64_t>();
  const auto* const from = static_cast<const char*>(source.raw_data());
  auto* const to = static_cast<char*>(y.raw_data());
  parallel_for(around.outer * count, std::max<int64_t>(1, 65536 / row), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slice = i / count * around.extent + positions[i % count];
      std::memcpy(to + i * row, from + slice * row, static_cast<size_t>(row));
    }
  });
  return y;
}

struct IndexSelectNode final : Node {
  IndexSelectNode(Shape shape, int along) : Node("index_select"), x_shape(shape), axis(along) {}
  Shape x_shape;
  int axis;
  Saved index{this, "index"};

  Tensors backward(const Tensors& dy) override {
    return {with_added_slices(Tensor(), x_shape, axis, *index, dy[0], "index_select")};
  }
};

struct IndexAddNode final : Node {
  explicit IndexAddNode(int along) : Node("index_add"), axis(along) {}
  int axis;
  Saved index{this, "index"};

  Tensors backward(const Tensors& dy) override {
    return {dy[0], needs(1) ? copy_slices(dy[0], axis, *index) : Tensor()};
  }
};

}  // namespace

Tensor gather(const Tensor& x, int axis, const Tensor& index) {
  const int at = normalize_axis(axis, x.dims(), "gather");
  check_gather_shapes(index, x.shape(), at, "gather");
  check_index(index, x.device(), x.shape()[at], "gather");
  const Tensor places = row_major(index);
  const Tensor y = gather_values(x, at, places);
  if (auto* node = record<GatherNode>(y, {x}, x.shape(), at)) node->index = places;
  return y;
}

Tensor scatter_add(const Tensor& values, int axis, const Tensor& index, int64_t extent) {
  const int at = normalize_axis(axis, values.dims(), "scatter_add");
  CAMO_CHECK(index.shape() == values.shape(), "scatter_add: the index must have the shape of the values; got index ",
             index.shape(), ", values ", values.shape());
  CAMO_CHECK(extent >= 0, "scatter_add: the extent must not be negative; got ", extent);
  check_index(index, values.device(), extent, "scatter_add");
  const Tensor places = row_major(index);
  Shape shape = values.shape();
  shape[at] = extent;
  const Tensor y = zeros(shape, values.dtype(), values.device());
  scatter_into(y, at, places, values, "scatter_add");
  if (auto* node = record<ScatterAddNode>(y, {values}, at)) node->index = places;
  return y;
}

Tensor index_select(const Tensor& x, int axis, const Tensor& index) {
  const int at = normalize_axis(axis, x.dims(), "index_select");
  CAMO_CHECK(index.dims() == 1, "index_select: the index must be a vector; got ", index.shape());
  check_index(index, x.device(), x.shape()[at], "index_select");
  const Tensor places = row_major(index);
  const Tensor y = copy_slices(x, at, places);
  if (auto* node = record<IndexSelectNode>(y, {x}, x.shape(), at)) node->index = places;
  return y;
}

Tensor index_add(const Tensor& x, int axis, const Tensor& index, const Tensor& values) {
  const int at = normalize_axis(axis, x.dims(), "index_add");
  detail::check_same_kind(x, values, "index_add");
  CAMO_CHECK(index.dims() == 1, "index_add: the index must be a vector; got ", index.shape());
  Shape wanted = x.shape();
  wanted[at] = index.numel();
  CAMO_CHECK(values.shape() == wanted, "index_add: values must be ", wanted, ", one slice of x for each index; got ",
             values.shape(), ", x ", x.shape(), ", index ", index.shape());
  check_index(index, x.device(), x.shape()[at], "index_add");
  const Tensor places = row_major(index);
  const Tensor y = with_added_slices(x, x.shape(), at, places, values, "index_add");
  if (auto* node = record<IndexAddNode>(y, {x, values}, at)) node->index = places;
  return y;
}

}  // namespace camo
