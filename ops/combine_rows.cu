// y[b] = sum over s of w[b, s] * parts[p][r], added in the order of the slots in T's accumulation type.
//
//   dparts[p][r] = w[b, s] * dy[b]        dw[b, s] = <dy[b], parts[p][r]>  (on the CPU in double)
//
// Saved: parts and weights. Both gradients come from one pass over memory.
#include <deque>

#include "core/autograd.h"
#include "ops/detail/row_places.h"

namespace camo {

namespace {

/// dparts are undefined where nobody needs them, dweights is undefined when not needed.
template <class T>
void combine_backward_cpu(const Tensors& dparts, const Tensor& dweights, const Tensors& parts, const Tensor& weights,
                          const std::vector<RowPlace>& places, const Tensor& dy) {
  const int64_t slots = weights.size(1), length = detail::row_length(dy.shape());
  const int64_t blocks = (length + detail::kRowBlock - 1) / detail::kRowBlock;
  const T *const gradient = dy.data<T>(), *const factors = weights.data<T>();
  std::vector<double> partial(places.size() * static_cast<size_t>(blocks));
  parallel_for(static_cast<int64_t>(partial.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t entry = at / blocks, first = at % blocks * detail::kRowBlock;
      const int64_t count = std::min(detail::kRowBlock, length - first);
      const RowPlace& place = places[static_cast<size_t>(entry)];
      const T* const from = gradient + entry / slots * length + first;
      if (T* to = detail::row_of<T>(dparts, place, length)) {
        const T factor = factors[entry];
        to += first;
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) to[i] = factor * from[i];
      }
      if (!dweights.defined()) continue;
      const T* const part = detail::row_of<const T>(parts, place, length) + first;
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(from[i]) * static_cast<double>(part[i]);
      partial[static_cast<size_t>(at)] = sum;
    }
  });
  if (!dweights.defined()) return;
  T* const out = dweights.data<T>();
  for (size_t entry = 0; entry < places.size(); ++entry) {
    double sum = 0;
    for (int64_t i = 0; i < blocks; ++i) sum += partial[entry * static_cast<size_t>(blocks) + static_cast<size_t>(i)];
    out[entry] = static_cast<T>(sum);
  }
}

#ifdef __CUDACC__
template <class T>
struct RowGradient {
  const T* part;  // null when the weights need no gradient
  T* dpart;       // null when the part needs none
};

/// grid.y: the slots of this launch; blocks and threads along x share a row, and each block leaves its part of the dot
/// product of that row in partial[slot][block].
template <class T, int N>
__global__ void __launch_bounds__(cuda::kBlock)
    combine_rows_backward_kernel(const __grid_constant__ detail::RowTable<RowGradient<T>> table, int64_t first_entry,
                                 int slots, const T* weights, const T* dy, int64_t length,
                                 cuda::Accumulator<T>* partial) {
  cuda::wait_for_previous_kernel();
  using A = cuda::Accumulator<T>;
  using Pack = cuda::Pack<T, N>;
  const RowGradient<T> row = table.entries[blockIdx.y];
  const int64_t entry = first_entry + blockIdx.y;
  const A factor = convert<A>(weights[entry]);
  const Pack* const from = reinterpret_cast<const Pack*>(dy + entry / slots * length);
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  A dot = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < length / N; i += step) {
    const Pack gradient = from[i];
    if (row.part != nullptr) {
      const Pack part = reinterpret_cast<const Pack*>(row.part)[i];
#pragma unroll
      for (int k = 0; k < N; ++k) dot += convert<A>(gradient.values[k]) * convert<A>(part.values[k]);
    }
    if (row.dpart != nullptr) {
      Pack scaled;
#pragma unroll
      for (int k = 0; k < N; ++k) scaled.values[k] = convert<T>(factor * convert<A>(gradient.values[k]));
      reinterpret_cast<Pack*>(row.dpart)[i] = scaled;
    }
  }
  if (row.part == nullptr) return;
  dot = cuda::block_sum(dot);
  if (threadIdx.x == 0) partial[entry * gridDim.x + blockIdx.x] = dot;
}

template <class T>
struct SumPartials {
  const cuda::Accumulator<T>* partial;
  int blocks;
  T* out;
  __device__ void operator()(int64_t entry) const {
    cuda::Accumulator<T> sum = 0;
    for (int i = 0; i < blocks; ++i) sum += partial[entry * blocks + i];
    out[entry] = convert<T>(sum);
  }
};

template <class T>
void combine_backward_cuda(const Tensors& dparts, const Tensor& dweights, const Tensors& parts, const Tensor& weights,
                           const std::vector<RowPlace>& places, const Tensor& dy) {
  using A = cuda::Accumulator<T>;
  using Table = detail::RowTable<RowGradient<T>>;
  constexpr int N = cuda::kPackSize<T>;
  constexpr int64_t kBlocksPerRow = 64;
  const int64_t length = detail::row_length(dy.shape()), entries = static_cast<int64_t>(places.size());
  std::vector<RowGradient<T>> rows;
  bool packed = length % N == 0 && cuda::is_aligned(dy.raw_data(), 16);
  for (const RowPlace& place : places) {
    rows.push_back({dweights.defined() ? detail::row_of<const T>(parts, place, length) : nullptr,
                    detail::row_of<T>(dparts, place, length)});
    packed = packed && cuda::is_aligned(rows.back().part, 16) && cuda::is_aligned(rows.back().dpart, 16);
  }
  const unsigned blocks = detail::row_blocks(length, packed ? N : 1, kBlocksPerRow);
  const Tensor partial = dweights.defined() ? empty({entries, blocks}, dtype_of<A>, dy.device()) : Tensor();
  A* const sums = partial.defined() ? partial.data<A>() : nullptr;
  cudaStream_t stream = cuda::use(dy.device());
  for (int64_t first = 0; first < entries; first += Table::kCapacity) {
    const int64_t count = std::min(Table::kCapacity, entries - first);
    Table table;
    std::copy_n(rows.begin() + first, count, table.entries);
    const dim3 grid(blocks, static_cast<unsigned>(count));
    const auto kernel = packed ? combine_rows_backward_kernel<T, N> : combine_rows_backward_kernel<T, 1>;
    cuda::launch(kernel, grid, cuda::kBlock, 0, stream, table, first, static_cast<int>(weights.size(1)),
                 weights.data<T>(), dy.data<T>(), length, sums);
    CAMO_LAUNCHED("combine_rows_backward");
  }
  if (dweights.defined()) {
    cuda::for_each(dy.device(), entries, "combine_rows_weights",
                   SumPartials<T>{sums, static_cast<int>(blocks), dweights.data<T>()});
  }
}
#endif

struct CombineRowsNode final : Node {
  explicit CombineRowsNode(std::vector<RowPlace> at) : Node("combine_rows"), places(std::move(at)) {}
  std::vector<RowPlace> places;
  std::deque<Saved> parts;  // addresses stay
  Saved weights{this, "weights"};

  Tensors backward(const Tensors& dy) override {
    const Tensor gradient = dy[0].is_contiguous() ? dy[0] : clone(dy[0]);
    const auto count = static_cast<int>(parts.size());
    Tensors values, results;
    for (int p = 0; p < count; ++p) {
      values.push_back(*parts[static_cast<size_t>(p)]);
      results.push_back(needs(p) ? empty_like(values.back()) : Tensor());
    }
    const Tensor dweights = needs(count) ? zeros_like(*weights) : Tensor();
    if (gradient.numel() > 0) {
      if (gradient.is_cuda()) {
#ifdef __CUDACC__
        cuda::dispatch_floating(gradient.dtype(), "combine_rows", [&]<class T>() {
          combine_backward_cuda<T>(results, dweights, values, *weights, places, gradient);
        });
#endif
      } else {
        dispatch_floating(gradient.dtype(), "combine_rows", [&]<class T>() {
          combine_backward_cpu<T>(results, dweights, values, *weights, places, gradient);
        });
      }
    }
    results.push_back(dweights);
    return results;
  }
};

}  // namespace

Tensor combine_rows(const Tensors& parts, const std::vector<RowPlace>& places, const Tensor& weights) {
  CAMO_CHECK(!parts.empty() && parts.front().dims() >= 1, "combine_rows: needs at least one part with an axis of rows");
  CAMO_CHECK(weights.dims() == 2, "combine_rows: weights must be [images, slots]; got ", weights.shape());
  const Tensor& first = parts.front();
  std::vector<int64_t> sizes;
  Shape shape = first.shape();
  for (const Tensor& part : parts) {
    bool fits = part.dims() == first.dims() && part.dtype() == first.dtype() && part.device() == first.device();
    for (int i = 1; fits && i < shape.size(); ++i) fits = part.shape()[i] == shape[i];
    CAMO_CHECK(fits, "combine_rows: parts must agree in all but the number of rows; got ", first.shape(), " ",
               first.dtype(), " on ", first.device(), " and ", part.shape(), " ", part.dtype(), " on ", part.device());
    sizes.push_back(part.size(0));
  }
  CAMO_CHECK(weights.dtype() == first.dtype() && weights.device() == first.device(),
             "combine_rows: weights must have the parts' dtype and device; got ", weights.dtype(), " on ",
             weights.device(), " and ", first.dtype(), " on ", first.device());
  if (detail::needs_f32(first)) {
    Tensors all = parts;
    all.push_back(weights);
    return detail::in_f32(all, first.dtype(), [&](const Tensors& in) {
      return combine_rows(Tensors(in.begin(), in.end() - 1), places, in.back());
    });
  }
  const int64_t slots = detail::check_places(places, weights.size(0), sizes, "combine_rows");
  CAMO_CHECK(weights.size(0) == 0 || slots == weights.size(1), "combine_rows: weights must be [images, slots]; got ",
             weights.shape(), " for ", slots, " slots");
  Tensors dense, inputs = parts;
  for (const Tensor& part : parts) dense.push_back(part.is_contiguous() ? part : clone(part));
  const Tensor factors = weights.is_contiguous() ? weights : clone(weights);
  shape[0] = weights.size(0);
  const Tensor y = empty(shape, first.dtype(), first.device());
  detail::sum_rows(y, dense, places, factors, "combine_rows");
  inputs.push_back(weights);
  if (auto* node = record<CombineRowsNode>(y, inputs, places)) {
    for (const Tensor& part : dense) node->parts.emplace_back(node, "parts") = part;
    node->weights = factors;
  }
  return y;
}

}  // namespace camo
