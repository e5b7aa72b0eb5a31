// f32 numbers as pairs of halves, which is how the f32 kernels multiply on tensor cores.
//
//   x * 2^s = high + low,  x y ~ (high_x high_y + high_x low_y + low_x high_y) 2^-(sx + sy)
//
// Each factor keeps 22 bits, or 11 where TF32 is allowed and high stands alone (kParts = 1); the power of two, shared
// by 64 rows of a head, brings the largest of them to [2^13, 2^14), so that neither range nor precision of halves
// matters before numbers 2^17 times smaller than the largest.
//
// Layouts of a row of D numbers, as operands read them from shared memory:
//   by depth (contracted along D): high and low; where D is narrow (up to 40), all three products side by side in one
//     contraction, so that 3 D is rounded up to 16 instead of D. Own rows of a warp hold
//     [high | high | low], streamed rows [high | low | high]; the second section starts at a multiple of 8, and the
//     third fills the gaps.
//   by rows (contracted along rows): high and low; with a last column of high that is 1 where D is narrow, as the
//     column of the result that belongs to it is the sum of the weights.
//
// split_rows_kernel: a block has 64 rows of one head; it reads them once, finds the scale, and writes whole rows of
// halves, zero beyond D and N. Bound by: memory.
#pragma once

#include <cuda_fp16.h>

#include "ops/attention/cuda/call.cuh"

namespace camo::flash::halves {

/// Of scores: times 0, where queries and keys are 0, a hidden key's -infinity would be NaN.
inline constexpr float kLeastUnit = 0x1p-126f;

inline constexpr int kScaledRows = 64;  // rows that share a scale

constexpr int round_up(int x, int unit) { return (x + unit - 1) / unit * unit; }

/// A power of two and its inverse.
struct PowerOfTwo {
  float up, down;
};
/// Brings numbers up to `largest` below 2^14.
__device__ inline PowerOfTwo scale_for(float largest) {
  const int exponent = static_cast<int>(__float_as_uint(largest) >> 23);  // biased
  const int up = min(max(267 - exponent, 1), 253);
  return {__uint_as_float(static_cast<uint32_t>(up) << 23), __uint_as_float(static_cast<uint32_t>(254 - up) << 23)};
}

/// Two numbers as halves: rounded to 11 bits, and what that leaves, to 11 bits too. Rounding (not truncating) halves
/// what is left, and makes its sign random.
__device__ inline void split(float x, float y, uint32_t& high, uint32_t& low) {
  const __half2 rounded = __floats2half2_rn(x, y);
  const float2 back = __half22float2(rounded);
  const __half2 rest = __floats2half2_rn(x - back.x, y - back.y);
  high = reinterpret_cast<const uint32_t&>(rounded);
  low = reinterpret_cast<const uint32_t&>(rest);
}
/// The part of a number that a half holds.
enum class Part { high, low, rest };
__device__ inline float part_of(float x, Part part) {
  const float high = __half2float(__float2half_rn(x)), low = x - high;
  if (part == Part::high) return high;
  return part == Part::low ? low : low - __half2float(__float2half_rn(low));
}

/// Which number a half belongs to (column -1 is a zero, -2 a one), and which part of it in streamed and in own rows.
struct Source {
  int column;
  Part streamed, own;
};

/// For products that are contracted along D.
template <int kWidth_>
struct DepthLayout {
  static constexpr int kWidth = kWidth_, kParts = 2;
  static constexpr bool kImage = false;
  static constexpr bool kTiny = kWidth <= 2, kPacked = kWidth <= 40;
  static constexpr int kLow = round_up(kWidth, kPacked ? 8 : 16);  // where the low halves begin
  static constexpr int kRow = kPacked ? round_up(3 * kWidth, 16) : 2 * kLow;
  static constexpr int kPitch = kRow + 8;  // in shared memory: an odd number of 16-byte units
  static constexpr int kSteps = (kPacked ? kRow : kLow) / 16;
  static_assert(kRow % 16 == 0 && kRow >= kLow + kWidth && (!kTiny || (kWidth == 2 && kRow == 16)));

  static __device__ constexpr Source source(int column) {
    if constexpr (kTiny) {
      // Errors of so few products do not average out: these three parts of a number are all of its 24 bits.
      constexpr Part kStreamed[] = {Part::high, Part::high, Part::high, Part::rest, Part::low, Part::low};
      constexpr Part kOwn[] = {Part::high, Part::low, Part::rest, Part::high, Part::high, Part::low};
      if (column >= 6 * kWidth) return {-1, Part::high, Part::high};
      return {column % kWidth, kStreamed[column / kWidth], kOwn[column / kWidth]};
    }
    if (column < kWidth) return {column, Part::high, Part::high};
    if (column >= kLow && column < kLow + kWidth) return {column - kLow, Part::low, kPacked ? Part::high : Part::low};
    if (!kPacked) return {-1, Part::high, Part::high};
    const int copy = column < kLow ? column - kWidth : column - 2 * kWidth;
    return {copy < kWidth ? copy : -1, Part::high, Part::low};
  }
};

/// For products that are contracted along D, where high and low are images of groups of 8 columns: a step of 16 takes
/// any two groups, so that only each part's D is rounded up, to 8. One part: high alone, to 16.
template <int kWidth_, int kParts_>
struct GroupLayout {
  static constexpr int kWidth = kWidth_, kParts = kParts_;
  static constexpr bool kImage = true;
  static constexpr int kLow = round_up(kWidth, kParts == 1 ? 16 : 8), kGroups = kLow / 8;
  static constexpr int kRow = kParts * kLow;

  static __device__ constexpr Source source(int column) {
    const int at = column < kLow ? column : column - kLow;
    const Part part = column < kLow ? Part::high : Part::low;
    return {at < kWidth ? at : -1, part, part};
  }
};

/// For products that are contracted along rows.
template <int kWidth_, int kParts_ = 2>
struct RowsLayout {
  static constexpr int kWidth = kWidth_, kParts = kParts_;
  static constexpr bool kOnes = kWidth <= 40;
  static constexpr int kLow = round_up(kWidth + (kOnes ? 1 : 0), 8);
  static constexpr int kColumns = kLow / 8;
  static constexpr int kRow = kParts * kLow;
  static constexpr int kPitch = kRow + 8;

  static __device__ constexpr Source source(int column) {
    if (kOnes && column == kLow - 1) return {-2, Part::high, Part::high};
    const int at = column < kLow ? column : column - kLow;
    const Part part = column < kLow ? Part::high : Part::low;
    return {at < kWidth ? at : -1, part, part};
  }
};

/// The rows of one tensor as halves: [B, H, tiles, 64, Layout::kRow], and what undoes the scale of each tile.
struct Halves {
  __half* rows = nullptr;
  float* down = nullptr;
  int tiles = 0;
};
/// What backward needs to know of each query. [B, H, tiles, 64]; zero weights beyond the last.
struct RowNumbers {
  float2* rows = nullptr;                                 // (log-sum-exp in base 2) - kLift, delta = rowsum(dy * y)
  float* largest_delta = nullptr;                         // magnitude, of each tile
  static constexpr float kLift = 12, kUnlift = 0x1p-12f;  // weights are computed times 2^kLift
};
constexpr int tiles_of(int rows) { return (rows + kScaledRows - 1) / kScaledRows; }

/// What split_rows_kernel does to one tensor.
struct SplitTask {
  Heads<const float> x;
  int count = 0;  // rows of a head
  Halves halves;
  unsigned blocks = 0;   // B * tiles * H
  bool by_rows = false;  // else by depth
  RowNumbers numbers{};  // where x is dy: of its rows, from y and log_sum_exp
  Heads<const float> y;
  const float* log_sum_exp = nullptr;
};
struct SplitTasks {
  SplitTask task[4];
  int heads = 0, width = 0;
};

inline constexpr int kSplitThreads = 128;

/// The largest divisor of `steps` up to 8.
constexpr int most_at_once(int steps) {
  for (int most = 8; most > 1; --most) {
    if (steps % most == 0) return most;
  }
  return 1;
}
/// Copies rows [first, first + kRows) of a head, up to kWidth columns, into shared memory by kThreads threads, zeros
/// beyond the count; several accesses are in flight at once. Returns the largest magnitude that this thread saw.
template <int kWidth, int kRows, int kThreads, int kPitch, int kElements>
__device__ float load_rows_by(float* tile, const float* source, int64_t stride, int first, int count, int width) {
  constexpr int kUnits = (kWidth + kElements - 1) / kElements;
  constexpr int kLanes = kUnits <= 4 ? 4 : kUnits <= 8 ? 8 : kUnits <= 16 ? 16 : 32;
  constexpr int kColumnSteps = (kUnits + kLanes - 1) / kLanes, kRowStep = kThreads / kLanes;
  constexpr int kSteps = kRows / kRowStep * kColumnSteps, kBatch = most_at_once(kSteps);
  static_assert(kRows % kRowStep == 0);
  using Access = cuda::Pack<float, kElements>;
  const int thread = static_cast<int>(threadIdx.x) % kThreads;
  float largest = 0;
#pragma unroll 1
  for (int batch = 0; batch < kSteps; batch += kBatch) {
    Access x[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int step = batch + i, row = thread / kLanes + step / kColumnSteps * kRowStep;
      const int column = (thread % kLanes + step % kColumnSteps * kLanes) * kElements;
      x[i] = Access{};
      if (column < width && first + row < count) {
        x[i] = *reinterpret_cast<const Access*>(source + (first + row) * stride + column);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int step = batch + i, row = thread / kLanes + step / kColumnSteps * kRowStep;
      const int column = (thread % kLanes + step % kColumnSteps * kLanes) * kElements;
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if (column + e < kWidth) tile[row * kPitch + column + e] = x[i].values[e];
        largest = fmaxf(largest, fabsf(x[i].values[e]));
      }
    }
  }
  return largest;
}
template <int kWidth, int kRows, int kThreads, int kPitch>
__device__ float load_rows(float* tile, const Heads<const float>& x, const float* source, int first, int count,
                           int width) {
  if (x.access == 16) {
    return load_rows_by<kWidth, kRows, kThreads, kPitch, 4>(tile, source, x.row, first, count, width);
  }
  if (x.access == 8) {
    return load_rows_by<kWidth, kRows, kThreads, kPitch, 2>(tile, source, x.row, first, count, width);
  }
  return load_rows_by<kWidth, kRows, kThreads, kPitch, 1>(tile, source, x.row, first, count, width);
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}
/// Largest of a block of kSplitThreads.
__device__ inline float block_max(float x, float* scratch) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  return fmaxf(fmaxf(scratch[0], scratch[1]), fmaxf(scratch[2], scratch[3]));
}

/// Writes a tile of shared memory as halves, two of a row at once.
template <class Layout, int kPitch>
__device__ void store_halves(__half2* to, const float* tile, float up, int width) {
  constexpr int kUnits = Layout::kRow / 2;
  constexpr int kLanes = kUnits <= 16 ? 16 : kUnits <= 32 ? 32 : kUnits <= 64 ? 64 : 128;
  for (int unit = threadIdx.x % kLanes; unit < kUnits; unit += kLanes) {
    const Source left = Layout::source(2 * unit), right = Layout::source(2 * unit + 1);
    const bool has_left = left.column >= 0 && left.column < width,
               has_right = right.column >= 0 && right.column < width;
    const float* from_left = tile + (has_left ? left.column : 0);
    const float* from_right = tile + (has_right ? right.column : 0);
    const float right_constant = right.column == -2 ? 1.0f : 0.0f;  // in an odd column
#pragma unroll 4
    for (int row = threadIdx.x / kLanes; row < kScaledRows; row += kSplitThreads / kLanes) {
      const float x = has_left ? from_left[row * kPitch] * up : 0.0f;
      const float y = has_right ? from_right[row * kPitch] * up : right_constant;
      to[row * kUnits + unit] = __floats2half2_rn(part_of(x, left.streamed), part_of(y, right.streamed));
    }
  }
}

/// Writes a tile of shared memory as an image of 8 x 8 core matrices (f32_wgmma_ptx.cuh), each by one warp.
template <class Layout, int kPitch>
__device__ void store_image(__half2* to, const float* tile, float up, int width) {
  const int lane = threadIdx.x % 32;
  for (int unit = threadIdx.x / 32; unit < Layout::kRow / 8; unit += kSplitThreads / 32) {
    const int column = 8 * unit + lane % 4 * 2;
    const Source left = Layout::source(column), right = Layout::source(column + 1);
    const bool has_left = left.column >= 0 && left.column < width,
               has_right = right.column >= 0 && right.column < width;
    const float* from = tile + lane / 4 * kPitch;
    const float right_constant = right.column == -2 ? 1.0f : 0.0f;  // in an odd column
#pragma unroll
    for (int row = 0; row < kScaledRows; row += 8) {
      const float x = has_left ? from[row * kPitch + left.column] * up : 0.0f;
      const float y = has_right ? from[row * kPitch + right.column] * up : right_constant;
      to[(unit * 8 + row / 8) * 32 + lane] = __floats2half2_rn(part_of(x, left.streamed), part_of(y, right.streamed));
    }
  }
}

/// Grid: (B * tiles * H, tasks), heads fastest since they share lines of memory.
template <class ByDepth>
__global__ void __launch_bounds__(kSplitThreads) split_rows_kernel(const __grid_constant__ SplitTasks tasks) {
  constexpr int kWidth = ByDepth::kWidth, kPitch = kWidth | 1;
  extern __shared__ float tile[];  // [64][kPitch], twice for delta
  __shared__ float scratch[8];
  const SplitTask& task = tasks.task[blockIdx.y];
  const int tiles = task.halves.tiles, width = tasks.width;
  const int h = blockIdx.x % tasks.heads, part = blockIdx.x / tasks.heads % tiles, b = blockIdx.x / tasks.heads / tiles;
  if (blockIdx.x >= task.blocks) return;
  const int first = part * kScaledRows;
  const int64_t head = int64_t{b} * tasks.heads + h, number = head * tiles + part;

  const float largest =
      load_rows<kWidth, kScaledRows, kSplitThreads, kPitch>(tile, task.x, task.x.of(b, h), first, task.count, width);
  if (task.numbers.rows) {
    load_rows<kWidth, kScaledRows, kSplitThreads, kPitch>(tile + kScaledRows * kPitch, task.y, task.y.of(b, h), first,
                                                          task.count, width);
  }
  const PowerOfTwo scale = scale_for(block_max(largest, scratch));
  if (threadIdx.x == 0) task.halves.down[number] = scale.down;
  const auto store = [&]<class Layout>() {
    auto* to = reinterpret_cast<__half2*>(task.halves.rows + number * (kScaledRows * Layout::kRow));
    if constexpr (ByDepth::kImage) store_image<Layout, kPitch>(to, tile, scale.up, width);
    else store_halves<Layout, kPitch>(to, tile, scale.up, width);
  };
  if (task.by_rows) store.template operator()<RowsLayout<kWidth, ByDepth::kParts>>();
  else store.template operator()<ByDepth>();
  if (!task.numbers.rows) return;

  const int row = threadIdx.x / 2;
  float delta = 0;
  for (int column = threadIdx.x % 2; column < width; column += 2) {
    float dy = tile[row * kPitch + column];
    // dP is of rounded dy. A row of dS that does not sum to 0 would reach dq times the mean of the keys.
    if constexpr (ByDepth::kParts == 1) dy = part_of(dy * scale.up, Part::high) * scale.down;
    delta = fmaf(dy, tile[(kScaledRows + row) * kPitch + column], delta);
  }
  delta += __shfl_xor_sync(~0u, delta, 1);
  if (threadIdx.x % 2 == 0) {
    float log2_sum = 1e30f;
    if (first + row < task.count) {
      const float log_sum = task.log_sum_exp[head * task.count + first + row];
      log2_sum = log_sum == -INFINITY ? 0.0f : fmaf(log_sum, kLog2E, -RowNumbers::kLift);  // sees nothing: any will do
    }
    task.numbers.rows[number * kScaledRows + row] = make_float2(log2_sum, delta);
  }
  const float largest_delta = block_max(fabsf(delta), scratch + 4);
  if (threadIdx.x == 0) task.numbers.largest_delta[number] = largest_delta;
}
template <int kWidth>
constexpr int split_bytes(bool with_delta) {
  return (with_delta ? 2 : 1) * kScaledRows * (kWidth | 1) * static_cast<int>(sizeof(float));
}

}  // namespace camo::flash::halves
