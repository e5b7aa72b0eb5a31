// y[b] = sum over s of w[b, s] * parts[indices[b, s]][rows[b, s]], added in the order of the slots in T's accumulation
// type: the numbers of combine_rows, whose routing is the host's.
#include <algorithm>

#include "core/autograd.h"
#include "ops/detail/row_places.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/index_fault.h"
#endif

namespace camo {

namespace {

constexpr int64_t kMostParts = 64;

template <class T>
void combine_cpu(const Tensor& y, const Tensors& parts, const Tensor& indices, const Tensor& rows,
                 const Tensor& weights) {
  const int64_t slots = indices.size(1), length = detail::row_length(y.shape());
  const int64_t *const index = indices.data<int64_t>(), *const row = rows.data<int64_t>();
  for (int64_t i = 0; i < indices.numel(); ++i) {
    const auto count = static_cast<int64_t>(parts.size());
    CAMO_CHECK(index[i] >= 0 && index[i] < count, "combine_chosen: indices must lie within the ", count, " parts; got ",
               index[i]);
    CAMO_CHECK(row[i] >= 0 && row[i] < parts.front().size(0), "combine_chosen: rows must lie within the ",
               parts.front().size(0), " rows of a part; got ", row[i]);
  }
  parallel_for(y.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      T* const out = y.data<T>() + b * length;
      std::fill_n(out, length, T(0));
      for (int64_t s = b * slots; s < (b + 1) * slots; ++s) {
        const T* const from = parts[static_cast<size_t>(index[s])].template data<T>() + row[s] * length;
        const T factor = weights.data<T>()[s];
#pragma omp simd
        for (int64_t i = 0; i < length; ++i) out[i] += factor * from[i];
      }
    }
  });
}

#ifdef __CUDACC__
template <class T>
struct PartTable {
  const T* parts[kMostParts];
  int64_t count, rows;  // parts, and rows of each
  const char* op;       // of the host, which reads the note of a fault: a kernel's own literals lie on the device
};

/// grid.y: the images of this launch.
template <class T, int N>
__global__ void __launch_bounds__(cuda::kBlock)
    combine_chosen_kernel(const __grid_constant__ PartTable<T> table, const int64_t* indices, const int64_t* rows,
                          const T* weights, T* y, int slots, int64_t length, cuda::IndexFault* fault) {
  cuda::wait_for_previous_kernel();
  const int64_t first = int64_t{blockIdx.y} * slots;
  detail::sum_slots<T, N>(slots, weights + first, y + blockIdx.y * length, length, [&](int s) {
    const int64_t part = cuda::checked_index(indices[first + s], table.count, table.op, fault);
    const int64_t at = cuda::checked_index(rows[first + s], table.rows, table.op, fault);
    return table.parts[part] + at * length;
  });
}

template <class T>
void combine_cuda(const Tensor& y, const Tensors& parts, const Tensor& indices, const Tensor& rows,
                  const Tensor& weights) {
  constexpr int N = cuda::kPackSize<T>;
  const int64_t length = detail::row_length(y.shape());
  constexpr int64_t kMostImages = 65535;  // of a launch
  PartTable<T> table{};
  table.op = "combine_chosen";
  table.count = static_cast<int64_t>(parts.size());
  table.rows = parts.front().size(0);
  bool packed = length % N == 0 && cuda::is_aligned(y.raw_data(), 16);
  for (size_t p = 0; p < parts.size(); ++p) {
    table.parts[p] = parts[p].template data<T>();
    packed = packed && cuda::is_aligned(table.parts[p], 16);
  }
  const auto kernel = packed ? combine_chosen_kernel<T, N> : combine_chosen_kernel<T, 1>;
  const int64_t slots = indices.size(1);
  cudaStream_t stream = cuda::use(y.device());
  for (int64_t b = 0; b < y.size(0); b += kMostImages) {
    const int64_t count = std::min(kMostImages, y.size(0) - b);
    const dim3 grid(detail::row_blocks(length, packed ? N : 1), static_cast<unsigned>(count));
    cuda::launch(kernel, grid, cuda::kBlock, 0, stream, table, indices.data<int64_t>() + b * slots,
                 rows.data<int64_t>() + b * slots, weights.data<T>() + b * slots, y.data<T>() + b * length,
                 static_cast<int>(slots), length, cuda::index_fault(y.device()));
    CAMO_LAUNCHED("combine_chosen");
  }
}
#endif

}  // namespace

Tensor combine_chosen(const Tensors& parts, const Tensor& indices, const Tensor& rows, const Tensor& weights) {
  CAMO_CHECK(!parts.empty() && static_cast<int64_t>(parts.size()) <= kMostParts, "combine_chosen: needs 1 to ",
             kMostParts, " parts; got ", parts.size());
  const Tensor& first = parts.front();
  for (const Tensor& part : parts) {
    CAMO_CHECK(part.dims() >= 1 && part.shape() == first.shape() && part.dtype() == first.dtype() &&
                   part.device() == first.device(),
               "combine_chosen: parts must be of one shape, dtype and device; got ", first.shape(), " ", first.dtype(),
               " on ", first.device(), " and ", part.shape(), " ", part.dtype(), " on ", part.device());
    CAMO_CHECK(part.is_contiguous(), "combine_chosen: parts must be contiguous; got shape ", part.shape(), ", strides ",
               part.strides(), "; convert with contiguous()");
  }
  CAMO_CHECK(indices.dims() == 2 && indices.shape() == rows.shape() && indices.shape() == weights.shape(),
             "combine_chosen: indices, rows and weights must be [images, slots]; got ", indices.shape(), ", ",
             rows.shape(), " and ", weights.shape());
  CAMO_CHECK(indices.dtype() == i64 && rows.dtype() == i64 && weights.dtype() == first.dtype(),
             "combine_chosen: indices and rows must be i64, weights of the parts' dtype; got ", indices.dtype(), ", ",
             rows.dtype(), " and ", weights.dtype(), " for parts of ", first.dtype());
  for (const Tensor& x : {indices, rows, weights}) {
    CAMO_CHECK(x.device() == first.device(),
               "combine_chosen: indices, rows and weights must be on the parts' device; got ", x.device(), " and ",
               first.device());
    CAMO_CHECK(x.is_contiguous(), "combine_chosen: indices, rows and weights must be contiguous; got shape ", x.shape(),
               ", strides ", x.strides(), "; convert with contiguous()");
  }
  Tensors inputs = parts;
  inputs.push_back(weights);
  CAMO_CHECK(!grad_wanted(inputs), "combine_chosen: has no gradient, but an input requires one; use combine_rows");
  CAMO_CHECK(first.size(0) > 0 || indices.numel() == 0,
             "combine_chosen: rows must lie within the 0 rows of a part; got ", indices.numel(), " of them");
  Shape shape = first.shape();
  shape[0] = indices.size(0);
  const Tensor y = empty(shape, first.dtype(), first.device());
  if (y.numel() == 0) return y;
  if (y.is_cuda()) {
#ifdef __CUDACC__
    cuda::dispatch_floating(y.dtype(), "combine_chosen",
                            [&]<class T>() { combine_cuda<T>(y, parts, indices, rows, weights); });
#endif
  } else {
    dispatch_floating(y.dtype(), "combine_chosen",
                      [&]<class T>() { combine_cpu<T>(y, parts, indices, rows, weights); });
  }
  return y;
}

}  // namespace camo
