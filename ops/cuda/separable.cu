#include <cstring>
#include <list>
#include <string_view>

#include "core/cuda/kernels.cuh"
#include "ops/cuda/separable.h"

namespace camo::cuda {

namespace {

using detail::AxisTaps;

/// AxisTaps in device memory.
template <class A>
struct AxisTable {
  const int *begin, *index;
  const A* weight;
};

/// The bytes of an AxisTable: begin, index, weight in a row.
struct TableLayout {
  size_t index, weight, end;
  TableLayout(const AxisTaps& taps, size_t weight_size) {
    index = taps.begin.size() * sizeof(int);
    weight = (index + taps.index.size() * sizeof(int) + 7) / 8 * 8;
    end = weight + taps.index.size() * weight_size;
  }
};

template <class A>
Tensor upload(const AxisTaps& taps, Device device) {
  const TableLayout layout(taps, sizeof(A));
  std::vector<uint8_t> bytes(layout.end);
  const std::vector<int> begin(taps.begin.begin(), taps.begin.end()), index(taps.index.begin(), taps.index.end());
  const std::vector<A> weight(taps.weight.begin(), taps.weight.end());
  const auto put = [&](size_t at, const auto& values) {
    if (!values.empty()) std::memcpy(bytes.data() + at, values.data(), values.size() * sizeof values[0]);
  };
  put(0, begin);
  put(layout.index, index);
  put(layout.weight, weight);
  return from_vector<uint8_t>(bytes, {static_cast<int64_t>(bytes.size())}, device);
}

size_t hash_of(const AxisTaps& taps) {
  const auto bytes = [](const auto& values) {
    return std::hash<std::string_view>()(
        {reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]});
  };
  return bytes(taps.begin) ^ bytes(taps.index) * 31 ^ bytes(taps.weight) * 1009;
}

/// Tables that were uploaded: a copy to the device waits for it, so that each is made once. One cache a thread; the
/// entry that was not used for longest goes first.
class TableCache {
 public:
  template <class A>
  AxisTable<A> get(const AxisTaps& taps, Device device, Tensor& keep) {
    const size_t hash = hash_of(taps);
    const auto matches = [&](const Entry& entry) {
      return entry.hash == hash && entry.dtype == dtype_of<A> && entry.table.device() == device &&
             entry.taps.begin == taps.begin && entry.taps.index == taps.index && entry.taps.weight == taps.weight;
    };
    auto found = std::find_if(entries_.begin(), entries_.end(), matches);
    if (found == entries_.end()) {
      if (entries_.size() == kCapacity) entries_.pop_back();
      entries_.push_front({hash, dtype_of<A>, taps, upload<A>(taps, device)});
    } else {
      entries_.splice(entries_.begin(), entries_, found);
    }
    keep = entries_.front().table;
    const TableLayout layout(taps, sizeof(A));
    const uint8_t* base = keep.data<uint8_t>();
    return {reinterpret_cast<const int*>(base), reinterpret_cast<const int*>(base + layout.index),
            reinterpret_cast<const A*>(base + layout.weight)};
  }

 private:
  static constexpr size_t kCapacity = 128;
  struct Entry {
    size_t hash;
    DType dtype;
    AxisTaps taps;
    Tensor table;
  };
  std::list<Entry> entries_;
};

/// Never destroyed: device memory can't be freed once the process ends.
TableCache& table_cache() {
  thread_local auto* cache = new TableCache;
  return *cache;
}

/// sum[k] += weight * from[k].
template <class T, int V>
__device__ void add_weighted(const T* from, Accumulator<T> weight, Accumulator<T> (&sum)[V]) {
  const Pack<T, V> pack = *reinterpret_cast<const Pack<T, V>*>(from);
#pragma unroll
  for (int k = 0; k < V; ++k) sum[k] += weight * convert<Accumulator<T>>(pack.values[k]);
}

/// `to` = sum, or += sum.
template <class T, class A, int V>
__device__ void store(T* to, A (&sum)[V], bool adds) {
  if (adds) add_weighted<T, V>(to, A(1), sum);
  Pack<T, V> pack;
#pragma unroll
  for (int k = 0; k < V; ++k) pack.values[k] = convert<T>(sum[k]);
  *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

/// V channels of one output pixel a thread, channels fastest (with one channel: columns fastest).
template <class T, int V>
struct MapBoth {
  using A = Accumulator<T>;
  const T* x;
  T* y;
  bool adds;  // to y
  AxisTable<A> rows, columns;
  int height, width;  // of x
  FastDivide packs, out_width, out_height;

  __device__ void operator()(int64_t i) const {
    const auto index = static_cast<uint32_t>(i);
    const uint32_t pixel = packs.divide(index), line = out_width.divide(pixel), image = out_height.divide(line);
    const int64_t channels = int64_t{packs.divisor} * V;
    const uint32_t ox = pixel - line * out_width.divisor, oy = line - image * out_height.divisor;
    const T* from = x + int64_t{image} * height * width * channels + (index - pixel * packs.divisor) * V;
    const int first = columns.begin[ox], last = columns.begin[ox + 1];
    A sum[V] = {};
    for (int r = rows.begin[oy]; r < rows.begin[oy + 1]; ++r) {
      const T* line_of_x = from + int64_t{rows.index[r]} * width * channels;
      A part[V] = {};
      for (int c = first; c < last; ++c)
        add_weighted<T, V>(line_of_x + columns.index[c] * channels, columns.weight[c], part);
#pragma unroll
      for (int k = 0; k < V; ++k) sum[k] += rows.weight[r] * part[k];
    }
    store<T, A, V>(y + i * V, sum, adds);
  }
};

/// One axis: x [outer, inputs, inner] -> y [outer, outputs, inner]; V elements of `inner` a thread.
template <class In, class Out, int V>
struct MapOne {
  using A = Accumulator<In>;
  const In* x;
  Out* y;
  bool adds;  // to y
  AxisTable<A> taps;
  int inputs;
  FastDivide inner, outputs;  // inner in packs

  __device__ void operator()(int64_t i) const {
    const auto index = static_cast<uint32_t>(i);
    const uint32_t line = inner.divide(index), outer = outputs.divide(line), output = line - outer * outputs.divisor;
    const int64_t step = int64_t{inner.divisor} * V;
    const In* from = x + int64_t{outer} * inputs * step + (index - line * inner.divisor) * V;
    const int last = taps.begin[output + 1];
    A sum[V] = {};
#pragma unroll 4
    for (int k = taps.begin[output]; k < last; ++k)
      add_weighted<In, V>(from + taps.index[k] * step, taps.weight[k], sum);
    store<Out, A, V>(y + i * V, sum, adds);
  }
};

/// Calls fn.operator()<V>() with the most elements a pack, at most 16 bytes of T, that divide `width` and the
/// addresses.
template <class T, int V = kPackSize<T>, class Fn>
void with_pack(int64_t width, const void* a, const void* b, Fn&& fn) {
  if constexpr (V > 1) {
    if (width % V != 0 || !is_aligned(a, V * sizeof(T)) || !is_aligned(b, V * sizeof(T)))
      return with_pack<T, V / 2>(width, a, b, fn);
  }
  fn.template operator()<V>();
}

FastDivide divide_by(int64_t n) { return FastDivide(static_cast<uint32_t>(n)); }

template <class In, class Out>
void map_one(const Tensor& x, const Tensor& y, bool adds, const AxisTaps& taps, int64_t inner, const char* op) {
  using A = Accumulator<In>;
  Tensor keep;
  const AxisTable<A> table = table_cache().get<A>(taps, x.device(), keep);
  // Packs by the wider of the two types.
  with_pack<A>(inner, x.raw_data(), y.raw_data(), [&]<int V>() {
    for_each(x.device(), y.numel() / V, op,
             MapOne<In, Out, V>{x.data<In>(), y.data<Out>(), adds, table, static_cast<int>(taps.inputs),
                                divide_by(inner / V), divide_by(taps.outputs())});
  });
}

/// Taps of an output on average.
int64_t taps_per_output(const AxisTaps& taps) {
  return static_cast<int64_t>(taps.index.size()) / std::max<int64_t>(1, taps.outputs());
}

template <class T>
void map_both(const Tensor& x, const Tensor& y, bool adds, const AxisTaps& rows, const AxisTaps& columns,
              const char* op) {
  using A = Accumulator<T>;
  const int64_t images = x.size(0), width = x.size(2), channels = x.size(3);
  // Large windows that shrink the map: first the rows, into a smaller map, then its columns.
  if (taps_per_output(rows) * taps_per_output(columns) > 16 && 2 * rows.outputs() <= rows.inputs) {
    const Tensor blended = empty({images, rows.outputs(), width, channels}, dtype_of<A>, x.device());
    map_one<T, A>(x, blended, false, rows, width * channels, op);
    map_one<A, T>(blended, y, adds, columns, channels, op);
    return;
  }
  Tensor keep_rows, keep_columns;
  const AxisTable<A> row_table = table_cache().get<A>(rows, x.device(), keep_rows);
  const AxisTable<A> column_table = table_cache().get<A>(columns, x.device(), keep_columns);
  with_pack<T>(channels, x.raw_data(), y.raw_data(), [&]<int V>() {
    for_each(x.device(), y.numel() / V, op,
             MapBoth<T, V>{x.data<T>(), y.data<T>(), adds, row_table, column_table, static_cast<int>(rows.inputs),
                           static_cast<int>(width), divide_by(channels / V), divide_by(columns.outputs()),
                           divide_by(rows.outputs())});
  });
}

}  // namespace

Tensor separable_map(const Tensor& x, const AxisTaps& rows, const AxisTaps& columns, const char* op,
                     const Tensor& sum) {
  const Shape shape{x.size(0), rows.outputs(), columns.outputs(), x.size(3)};
  const Tensor y = sum.defined() ? sum : empty(shape, x.dtype(), x.device());
  constexpr int64_t kMost = int64_t{1} << 31;
  CAMO_CHECK(x.numel() < kMost && y.numel() < kMost, op, ": at most 2^31 elements on CUDA; got x ", x.shape(), ", y ",
             y.shape());
  cuda::dispatch_floating(x.dtype(), op, [&]<class T>() {
    if (y.numel() > 0) map_both<T>(x, y, sum.defined(), rows, columns, op);
  });
  return y;
}

}  // namespace camo::cuda
