// parts[p][r] = x[b] for every slot of every image b.   dx[b] = sum over the slots of b of dparts[p][r], in T's
// accumulation type. Nothing is saved but the places.
#include "core/autograd.h"
#include "ops/detail/row_places.h"

namespace camo {

namespace {

/// Whether part p is x itself: all images, in order.
bool holds_all(const std::vector<RowPlace>& places, int64_t images, int64_t slots, int64_t part, int64_t size) {
  if (size != images) return false;
  for (int64_t b = 0; b < images; ++b) {
    bool found = false;
    for (int64_t s = 0; s < slots; ++s) {
      const RowPlace& place = places[static_cast<size_t>(b * slots + s)];
      found = found || (place.part == part && place.row == b);
    }
    if (!found) return false;
  }
  return true;
}

void copy_rows_cpu(const Tensor& x, const Tensors& parts, const std::vector<RowPlace>& places, int64_t slots) {
  const int64_t bytes = detail::row_length(x.shape()) * size_in_bytes(x.dtype());
  const auto* const from = static_cast<const std::byte*>(x.raw_data());
  parallel_for(static_cast<int64_t>(places.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const RowPlace& place = places[static_cast<size_t>(i)];
      const Tensor& part = parts[static_cast<size_t>(place.part)];
      if (part.storage() == x.storage()) continue;
      auto* const to = static_cast<std::byte*>(part.raw_data()) + place.row * bytes;
      std::copy_n(from + i / slots * bytes, bytes, to);
    }
  });
}

#ifdef __CUDACC__
/// One row to copy, in units of Word.
struct RowCopy {
  const void* from;
  void* to;
};

/// grid.y: the rows of this launch; blocks and threads along x share a row.
template <class Word>
__global__ void __launch_bounds__(cuda::kBlock)
    copy_rows_kernel(const __grid_constant__ detail::RowTable<RowCopy> table, int64_t words) {
  cuda::wait_for_previous_kernel();
  const RowCopy row = table.entries[blockIdx.y];
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < words; i += step) {
    static_cast<Word*>(row.to)[i] = static_cast<const Word*>(row.from)[i];
  }
}
#endif

void copy_rows_cuda([[maybe_unused]] const Tensor& x, [[maybe_unused]] const Tensors& parts,
                    [[maybe_unused]] const std::vector<RowPlace>& places, [[maybe_unused]] int64_t slots) {
#ifdef __CUDACC__
  const int64_t bytes = detail::row_length(x.shape()) * size_in_bytes(x.dtype());
  const auto* const from = static_cast<const std::byte*>(x.raw_data());
  cudaStream_t stream = cuda::use(x.device());
  detail::RowTable<RowCopy> table;
  int64_t count = 0;
  const auto launch = [&] {
    if (count == 0) return;
    bool packed = bytes % 16 == 0;
    for (int64_t i = 0; i < count; ++i) {
      packed = packed && cuda::is_aligned(table.entries[i].from, 16) && cuda::is_aligned(table.entries[i].to, 16);
    }
    const int64_t words = packed ? bytes / 16 : bytes;
    const dim3 grid(detail::row_blocks(words, 1), static_cast<unsigned>(count));
    if (packed) cuda::launch(copy_rows_kernel<int4>, grid, cuda::kBlock, 0, stream, table, words);
    else cuda::launch(copy_rows_kernel<char>, grid, cuda::kBlock, 0, stream, table, words);
    CAMO_LAUNCHED("copy_rows");
    count = 0;
  };
  for (size_t i = 0; i < places.size(); ++i) {
    const Tensor& part = parts[static_cast<size_t>(places[i].part)];
    if (part.storage() == x.storage()) continue;
    auto* const to = static_cast<std::byte*>(part.raw_data()) + places[i].row * bytes;
    table.entries[count] = {from + static_cast<int64_t>(i) / slots * bytes, to};
    if (++count == detail::RowTable<RowCopy>::kCapacity) launch();
  }
  launch();
#endif
}

struct DispatchRowsNode final : Node {
  DispatchRowsNode(Shape shape, std::vector<RowPlace> at) : Node("dispatch_rows"), x_shape(shape), places(at) {}
  Shape x_shape;
  std::vector<RowPlace> places;

  Tensors backward(const Tensors& dy) override {
    Tensors parts;
    const Tensor* any = nullptr;
    for (const Tensor& gradient : dy) {
      parts.push_back(gradient.defined() && !gradient.is_contiguous() ? clone(gradient) : gradient);
      if (gradient.defined()) any = &gradient;
    }
    if (any == nullptr) return {{}};
    const Tensor dx = empty(x_shape, any->dtype(), any->device());
    detail::sum_rows(dx, parts, places, {}, "dispatch_rows");
    return {dx};
  }
};

}  // namespace

Tensors dispatch_rows(const Tensor& x, const std::vector<RowPlace>& places, const std::vector<int64_t>& sizes) {
  CAMO_CHECK(x.dims() >= 1, "dispatch_rows: x needs an axis of images; got ", x.shape());
  const int64_t images = x.size(0);
  const int64_t slots = detail::check_places(places, images, sizes, "dispatch_rows");
  const Tensor source = x.is_contiguous() ? x : clone(x);
  Tensors parts;
  for (size_t p = 0; p < sizes.size(); ++p) {
    Shape shape = x.shape();
    shape[0] = sizes[p];
    const bool whole = holds_all(places, images, slots, static_cast<int64_t>(p), sizes[p]);
    parts.push_back(whole ? source.detach() : empty(shape, x.dtype(), x.device()));
  }
  if (source.numel() > 0) {
    if (x.is_cuda()) copy_rows_cuda(source, parts, places, slots);
    else copy_rows_cpu(source, parts, places, slots);
  }
  record<DispatchRowsNode>(parts, std::span<const Tensor>(&x, 1), x.shape(), places);
  return parts;
}

}  // namespace camo
