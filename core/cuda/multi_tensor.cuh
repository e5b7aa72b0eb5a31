// One kernel over many tensors: their addresses travel as kernel arguments, so that nothing is uploaded or
// synchronised.
#pragma once

#include <vector>

#include "core/cuda/kernels.cuh"

namespace camo::cuda {

/// Elements of one tensor that a block works on.
inline constexpr int64_t kChunk = 8192;

/// A tensor's place in kPointers lists of tensors (parameters, gradients, ...), and what else the kernel needs of it.
template <int kPointers, class Extra>
struct MultiTensorItem {
  void* pointers[kPointers];
  int64_t size = 0;
  Extra extra{};
};

/// As many items as fit into the arguments of a kernel (32764 bytes).
template <int kPointers, class Extra>
struct MultiTensorTable {
  using Item = MultiTensorItem<kPointers, Extra>;
  static constexpr int kCapacity = 28000 / static_cast<int>(sizeof(Item) + sizeof(uint32_t));

  Item items[kCapacity];
  uint32_t first_block[kCapacity + 1];  // ascending; the last used one is the number of blocks
  int count;

  /// The item that a block works on.
  __device__ int find(uint32_t block) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_block[middle] <= block) low = middle;
      else high = middle - 1;
    }
    return low;
  }
};

/// One block a chunk; fn(item, begin, end, chunk) is called by all threads of the block, `chunk` counting over all
/// tables of a launch.
template <int kPointers, class Extra, class Fn>
__global__ void __launch_bounds__(kBlock)
    multi_tensor_kernel(const __grid_constant__ MultiTensorTable<kPointers, Extra> table, uint32_t first_chunk, Fn fn) {
  wait_for_previous_kernel();
  const int at = table.find(blockIdx.x);
  const auto item = table.items[at];  // a copy: stores through its pointers can't change it
  const int64_t begin = int64_t{blockIdx.x - table.first_block[at]} * kChunk;
  const int64_t end = begin + kChunk < item.size ? begin + kChunk : item.size;
  fn(item, begin, end, first_chunk + blockIdx.x);
}

template <int kPointers, class Extra>
int64_t chunk_count(const std::vector<MultiTensorItem<kPointers, Extra>>& items) {
  int64_t chunks = 0;
  for (const auto& item : items) chunks += (item.size + kChunk - 1) / kChunk;
  return chunks;
}

/// Runs fn over all chunks of all items, in as few launches as the tables need.
template <int kPointers, class Extra, class Fn>
void for_each_chunk(Device device, const std::vector<MultiTensorItem<kPointers, Extra>>& items, const char* name,
                    Fn fn) {
  using Table = MultiTensorTable<kPointers, Extra>;
  cudaStream_t stream = use(device);
  Table table;
  table.count = 0;
  uint32_t blocks = 0, first_chunk = 0;
  const auto launch_table = [&] {
    if (blocks == 0) return;
    table.first_block[table.count] = blocks;
    launch(multi_tensor_kernel<kPointers, Extra, Fn>, blocks, kBlock, 0, stream, table, first_chunk, fn);
    CAMO_LAUNCHED(name);
    first_chunk += blocks;
    blocks = 0;
    table.count = 0;
  };
  for (const auto& item : items) {
    if (item.size == 0) continue;
    table.items[table.count] = item;
    table.first_block[table.count] = blocks;
    blocks += static_cast<uint32_t>((item.size + kChunk - 1) / kChunk);
    if (++table.count == Table::kCapacity) launch_table();
  }
  launch_table();
}

/// body.operator()<N>(i) works on elements [i, i + N): 16 bytes of T at a time where all pointers allow, else one.
template <class T, int kPointers, class Extra, class Body>
__device__ void for_each_pack(const MultiTensorItem<kPointers, Extra>& item, int64_t begin, int64_t end, Body body) {
  constexpr int N = kPackSize<T>;
  uintptr_t bits = 0;
#pragma unroll
  for (int k = 0; k < kPointers; ++k) bits |= reinterpret_cast<uintptr_t>(item.pointers[k]);
  int64_t rest = begin;  // chunks begin at multiples of every pack size
  if (bits % sizeof(Pack<T, N>) == 0) {
    rest = end - (end - begin) % N;
    for (int64_t i = begin + int64_t{threadIdx.x} * N; i < rest; i += int64_t{kBlock} * N) {
      body.template operator()<N>(i);
    }
  }
  for (int64_t i = rest + threadIdx.x; i < end; i += kBlock) body.template operator()<1>(i);
}

}  // namespace camo::cuda
