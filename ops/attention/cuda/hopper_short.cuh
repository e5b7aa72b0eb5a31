// What hopper_short_backward.cuh is told, its tiles, where they lie in shared memory, and delta.
#pragma once

#include "ops/attention/cuda/hopper_rows.cuh"
#include "ops/attention/cuda/hopper_source.cuh"

namespace camo::flash::hopper {

template <class T>
struct ShortCall : Sizes {
  Source q, k, v, dy;                      // boxes of a tile
  Source q_unit, k_unit, v_unit, dy_unit;  // boxes of a unit
  Heads<T> dq, dk, dv;
  Heads<const T> y, dy_rows;
  const float* log_sum_exp = nullptr;
  int parts = 1;       // blocks of a head
  bool clear = false;  // columns beyond the width hold other heads' numbers
};

/// kDepth: contracted columns, kOut: columns of sums. kTile: rows of a streamed tile. kAll: whether all four tensors
/// are in shared memory; if not, a warpgroup has room for kBuffers units. kOverlap: whether the products of a tile may
/// still run when those of the next begin, for which registers must suffice.
template <int kDepth_, int kOut_, int kTile_, bool kAll_, int kBuffers_ = 1, bool kOverlap_ = true>
struct ShortTile {
  static constexpr int kDepth = kDepth_, kOut = kOut_, kTile = kTile_, kGroups = 2, kUnit = 64, kMaxTiles = 16;
  static constexpr int kBuffers = kBuffers_;
  static constexpr bool kAll = kAll_, kOverlap = kOverlap_;
  static constexpr int kThreads = kWarpgroup * (kGroups + 1);
  static constexpr int kPanels = (kDepth + kPanel - 1) / kPanel, kSteps = kDepth / 16;
  static constexpr int kUnitPanel = kUnit * 128;                  // bytes
  static constexpr int kStageBytes = 16 * stage_pitch(kOut) * 2;  // of a warp
  static constexpr int kUnitBytes = 2 * kPanels * kUnitPanel;
  static_assert(kStageBytes * 4 <= kUnitBytes);
  static_assert(kDepth % 16 == 0 && kTile % 16 == 0 && kOut <= kDepth);
};

/// Where everything lies in shared memory, in bytes from its start.
template <class S>
struct ShortLayout {
  int query_tiles, key_tiles, query_units, key_units;
  uint32_t query_panel, key_panel, keys, values, queries, grads, units, numbers, barriers, bytes;
  // units: the warpgroups' own tiles, or no more than room for what a warp stores

  /// Whether sums are stored through shared memory: at odd widths, where registers hold no pairs that memory can take.
  static __host__ __device__ bool is_staged(int width) { return width % 2 != 0; }

  __host__ __device__ ShortLayout(int query_count, int key_count, int width)
      : query_tiles((query_count + S::kTile - 1) / S::kTile),
        key_tiles((key_count + S::kTile - 1) / S::kTile),
        query_units((query_count + S::kUnit - 1) / S::kUnit),
        key_units((key_count + S::kUnit - 1) / S::kUnit) {
    const uint32_t query_bytes = static_cast<uint32_t>(query_tiles) * S::kTile * 128,
                   key_bytes = static_cast<uint32_t>(key_tiles) * S::kTile * 128;
    const uint32_t most = query_bytes > key_bytes ? query_bytes : key_bytes;
    query_panel = S::kAll ? query_bytes : most;
    key_panel = S::kAll ? key_bytes : most;
    keys = 0;
    values = S::kPanels * key_panel;
    queries = S::kAll ? 2 * values : 0;
    grads = queries + S::kPanels * query_panel;
    const uint32_t end = grads + S::kPanels * query_panel;
    units = end;
    numbers = end + S::kGroups * (!S::kAll ? S::kBuffers * S::kUnitBytes : is_staged(width) ? 4 * S::kStageBytes : 0);
    barriers = numbers + static_cast<uint32_t>(query_tiles) * S::kTile * 8;
    bytes = barriers + (5 * S::kMaxTiles + S::kGroups * S::kBuffers + 1) * 8;
    // The last unit may reach beyond its tensor, where it reads anything.
    const uint32_t reach = grads + (S::kPanels - 1) * query_panel + static_cast<uint32_t>(query_units) * S::kUnitPanel;
    if (S::kAll && bytes < reach) bytes = reach;
    bytes += 1024;  // to begin at a multiple of it
  }
};

/// delta of 64 queries, and their L in base 2: two threads a query, whose pieces of 16 bytes they share.
template <class T, int kColumns>
struct ShortNumbers {
  static constexpr int kPieces = (kColumns / 8 + 1) / 2;
  uint4 y[kPieces], dy[kPieces];
  float log_sum = -INFINITY;

  /// Reads the pieces, without waiting for them. first: of the 64.
  __device__ void load(const ShortCall<T>& call, int head, int b, int h, int first) {
    const int thread = threadIdx.x % kWarpgroup, i = first + thread / 2;
#pragma unroll
    for (int n = 0; n < kPieces; ++n) y[n] = dy[n] = make_uint4(0, 0, 0, 0);
    log_sum = -INFINITY;
    if (i >= call.queries) return;
    log_sum = call.log_sum_exp[static_cast<int64_t>(head) * call.queries + i];
    const T *y_row = call.y.of(b, h) + i * call.y.row, *dy_row = call.dy_rows.of(b, h) + i * call.dy_rows.row;
    const int begin = call.q.offset(h), end = begin + call.width;
    const bool last = i + 1 == call.queries;  // behind it, there may be no memory
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
      const int column = 16 * n + thread % 2 * 8;
      if (column >= end) continue;
      if (last && (column < begin || column + 8 > end)) {
        y[n] = load_part(y_row - begin + column, begin - column, end - column);
        dy[n] = load_part(dy_row - begin + column, begin - column, end - column);
      } else {
        y[n] = *reinterpret_cast<const uint4*>(y_row - begin + column);
        dy[n] = *reinterpret_cast<const uint4*>(dy_row - begin + column);
      }
    }
  }
  /// Stores -L and -delta of those below `padded`.
  __device__ void store(const ShortCall<T>& call, int h, int first, float2* numbers, int padded) const {
    const int thread = threadIdx.x % kWarpgroup, i = first + thread / 2;
    const int begin = call.q.offset(h), end = begin + call.width;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
      const int column = 16 * n + thread % 2 * 8;
      const uint32_t left[4] = {y[n].x, y[n].y, y[n].z, y[n].w}, right[4] = {dy[n].x, dy[n].y, dy[n].z, dy[n].w};
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        T a, c;
        a.bits = static_cast<uint16_t>(left[e / 2] >> e % 2 * 16);
        c.bits = static_cast<uint16_t>(right[e / 2] >> e % 2 * 16);
        const bool inside = column + e >= begin && column + e < end;
        if (inside) sum = fmaf(static_cast<float>(a), static_cast<float>(c), sum);
      }
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    if (thread % 2 == 0 && i < padded) {
      numbers[i] = make_float2(log_sum == -INFINITY ? -INFINITY : -log_sum * kLog2E, -sum);
    }
  }

 private:
  static __device__ uint4 load_part(const T* from, int begin, int end) {
    uint32_t words[4] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (e >= begin && e < end) words[e / 2] |= uint32_t{from[e].bits} << e % 2 * 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
  }
};

}  // namespace camo::flash::hopper
