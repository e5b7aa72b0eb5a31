// Attention backward of narrow heads in 16 bits without rules: five products and one exponential per score, and every
// sum in one fixed order, without atomics.
//
//   P = exp(scale q k^T - L),  dP = dy v^T,  dS = P * (dP - delta),  dv = P^T dy,  dk = scale dS^T q,  dq = scale dS k
//
// Decomposition: a block has a range of the queries of one head, all of them where its dq fits shared memory, and walks
// through the keys in groups. Each of its warps owns 16 kKeyTiles keys of a group: their k and v, dk and dv stay in its
// registers while queries stream past. Scores are made transposed, [keys, queries], so that P and dS leave the tensor
// cores as left operands of dv and dk; for dq, dS is transposed by movmatrix.
// dq lives in shared memory, in f32, for the whole kernel. The warps walk the tiles of 16 queries in a ring: in step s
// warp w is at tile w + s, so that no two touch the same sums, and each tile meets the keys in one order. Before a warp
// adds to dq it waits until all have added in the step before, which is a whole step's work ago.
// Where a head has several ranges, each adds its dk and dv to f32 sums in memory when the one before has done so, and
// the last stores their total: the order is fixed, and memory does not depend on the number of ranges. A range waits
// only for blocks of lower numbers, which the device starts earlier. Layout: windows, as in the forward pass. dq: for
// each tile of 16 queries, pairs of columns, each [16 rows] swizzled so that a half warp touches 32 banks. Bound by:
// exponentials and issue slots at D = 10; tensor cores and shared memory at D = 20.
#pragma once

#include "ops/attention/cuda/narrow_numbers.cuh"
#include "ops/attention/cuda/warp16.cuh"

namespace camo::flash {

template <class T_, int kWidth_, int kKeyTiles_, int kWarps_, int kPolynomial>
struct NarrowBackward {
  using T = T_;
  static constexpr int kWidth = kWidth_, kKeyTiles = kKeyTiles_, kWarps = kWarps_;
  static constexpr int kThreads = kLanes * kWarps, kGroupKeys = 16 * kKeyTiles * kWarps, kRows = 16 * kWarps;
  static constexpr int kPitch = window_pitch(kWidth);
  static constexpr int kSteps = kWidth / 16, kColumns = kWidth / 8;
  static constexpr bool kHalfStep = kWidth % 16 != 0;
  static constexpr int kDepth = kSteps * 4 + (kHalfStep ? 2 : 0);  // registers of a left operand
  static constexpr int kPieces = 3;                                // of delta: three 16-bit numbers add up to an f32
  static constexpr int kTileSize = kRows * kPitch;
  static constexpr int kStageBytes = 2 * kTileSize * 2 + kRows * 8;  // queries, dy, numbers
  static constexpr int kFixedBytes = 2 * kStageBytes + 128;          // beside dq
  static_assert(kStageBytes % 128 == 0);
  static constexpr int kPairBytes = 16 * 8;  // of one pair of columns of a tile of 16 queries
  static __device__ constexpr bool is_polynomial(int i) {
    constexpr int kPatterns[] = {0, 0x08, 0x22, 0x52, 0x55};
    return kPatterns[kPolynomial] >> i & 1;
  }
};

/// Pairs of columns, of the window's, that a row touches.
struct PairSpan {
  int first, count;
  __host__ __device__ PairSpan(int offset, int width)
      : first(offset / 2), count((offset + width + 1) / 2 - offset / 2) {}
};

__device__ inline uint32_t transpose_8x8(uint32_t x) {
  uint32_t y = 0;
  CAMO_FLASH_ASM(("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x)));
  return y;
}

/// A counter of phases in shared memory that all warps of a block pass.
__device__ inline void barrier_init(uint32_t barrier, int count) {
  CAMO_FLASH_ASM(volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory"));
}
__device__ inline void barrier_arrive(uint32_t barrier) {
  CAMO_FLASH_ASM(volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier) : "memory"));
}
__device__ inline void barrier_wait(uint32_t barrier, int parity) {
  uint32_t done = 0;
  while (!done) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
#else
    CAMO_FLASH_ASM(volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                            : "=r"(done)
                            : "r"(barrier), "r"(parity)
                            : "memory"));
#endif
  }
}

/// Waits until `turn` others have had theirs; lets the next have its.
__device__ inline void wait_turn([[maybe_unused]] const int* turns, [[maybe_unused]] int turn) {
  int now = turn;
  do {
    CAMO_FLASH_ASM(volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(turns) : "memory"));
  } while (now != turn);
}
__device__ inline void give_turn([[maybe_unused]] int* turns, [[maybe_unused]] int turn) {
  CAMO_FLASH_ASM(volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turns), "r"(turn) : "memory"));
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    flash_narrow_backward_kernel(const __grid_constant__ Call<typename S::T> call, const NarrowPlan plan) {
  using T = typename S::T;
  constexpr int kColumns = S::kColumns, kSteps = S::kSteps, kKeyTiles = S::kKeyTiles, kWarps = S::kWarps;
  extern __shared__ __align__(128) char shared[];
  char* stages = shared + 128;  // the barrier stands first
  char* dq_sums = stages + 2 * S::kStageBytes;
  const uint32_t barrier = shared_address(shared);

  // Ranges of a head add dk and dv one after the other: the first ranges of all heads come first.
  const int heads = call.batch * call.heads, head = blockIdx.x % heads, range = blockIdx.x / heads;
  const int b = head / call.heads, h = head % call.heads;
  const int first_query = range * plan.range_rows, queries = min(plan.range_rows, call.queries - first_query);
  const int tiles = (queries + 15) / 16, rounds = (tiles + kWarps - 1) / kWarps;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, g = lane / 4, t = lane % 4;
  const WindowCopy<T, S::kWidth, S::kThreads> copy(call.q.of(b, h), call.width);
  const T *q = window_start(call.q.of(b, h)), *dy = window_start(call.dy.of(b, h));
  const T *k = window_start(call.k.of(b, h)), *v = window_start(call.v.of(b, h));
  const int begin = window_offset(call.q.of(b, h)), end = begin + call.width;
  const PairSpan span(begin, call.width);
  const float2* numbers = plan.numbers + static_cast<int64_t>(head) * call.queries;

  const int dq_bytes = tiles * span.count * S::kPairBytes;
  for (int i = threadIdx.x * 16; i < dq_bytes; i += S::kThreads * 16) {
    *reinterpret_cast<uint4*>(dq_sums + i) = make_uint4(0, 0, 0, 0);
  }
  if (threadIdx.x == 0) barrier_init(barrier, kWarps);

  // Columns of a window that belong to no row carry -delta in dy, in pieces, and what a piece counts in v: their
  // product with the others' is dP - delta. The first piece counts 1024, so that f16 holds any.
  const auto spare = [&](int i) { return i < begin ? i : i + call.width; };
  const auto piece_bits = [&](int column) -> uint32_t {
    const int piece = column < begin ? column : column >= end ? column - call.width : S::kPieces;
    return piece == 0 ? T(1024.0f).bits : piece < S::kPieces ? T(1.0f).bits : 0;
  };
  const auto fetch = [&](int round) {
    T* to = reinterpret_cast<T*>(stages + round % 2 * S::kStageBytes);
    const int first = first_query + round % rounds * S::kRows, count = first_query + queries;
    copy.template rows<S::kRows>(to, q, call.q.row, first, count);
    copy.template rows<S::kRows>(to + S::kTileSize, dy, call.dy.row, first, count);
    float2* number = reinterpret_cast<float2*>(to + 2 * S::kTileSize);
    for (int i = threadIdx.x; i < S::kRows; i += S::kThreads) {
      if (first + i < count) copy_async<8>(number + i, numbers + first + i);
      else number[i] = make_float2(-INFINITY, 0);  // no weight
    }
    commit_copies();
  };
  // Where in a tile's sums this lane's pairs are: [column tile][row g or g + 8]; negative: no part of the row.
  int dq_at[kColumns];
#pragma unroll
  for (int w = 0; w < kColumns; ++w) {
    const int pair = 4 * w + t - span.first;
    dq_at[w] = pair < 0 || pair >= span.count ? -1 : pair * S::kPairBytes + (g ^ (pair & 3) << 2) * 8;
  }

  const uint32_t sums_at = shared_address(dq_sums);
  const uint32_t by_depth = ((lane / 16 * 8 + lane % 8) * S::kPitch + lane / 8 % 2 * 8) * 2;
  const uint32_t by_rows = (lane % 16 * S::kPitch + lane / 16 * 8) * 2, by_half = lane % 16 * S::kPitch * 2;
  const float unit = call.scale * kLog2E;
  const int groups = (call.keys + S::kGroupKeys - 1) / S::kGroupKeys;
  fetch(0);
  int step_number = 0;
  for (int group = 0; group < groups; ++group) {
    const int first_key = (group * kWarps + warp) * 16 * kKeyTiles;
    const int count = call.keys - first_key;  // of this warp's keys, those that are there; may be negative
    uint32_t keys[kKeyTiles][S::kDepth], values[kKeyTiles][S::kDepth], keys_by_rows[kKeyTiles][kColumns][2];
    float dk[kKeyTiles][kColumns][4], dv[kKeyTiles][kColumns][4];
#pragma unroll
    for (int m = 0; m < kKeyTiles; ++m) {
      // Beyond the last key stands the last key again, so that weights stay finite, but nothing to add to dq.
      uint32_t own[S::kDepth];
#pragma unroll
      for (int i = 0; i < S::kDepth; ++i) {
        const int row = 16 * m + g + i % 2 * 8, column = i / 4 * 16 + i % 4 / 2 * 8 + 2 * t;
        const int key = min(first_key + row, call.keys - 1);
        keys[m][i] = load_pair(k + key * call.k.row, column, begin, end);
        values[m][i] =
            load_pair(v + key * call.v.row, column, begin, end) | piece_bits(column) | piece_bits(column + 1) << 16;
        own[i] = row < count ? keys[m][i] : 0;
      }
#pragma unroll
      for (int w = 0; w < kColumns; ++w) {
        keys_by_rows[m][w][0] = transpose_8x8(own[w / 2 * 4 + w % 2 * 2]);
        keys_by_rows[m][w][1] = transpose_8x8(own[w / 2 * 4 + w % 2 * 2 + 1]);
#pragma unroll
        for (int e = 0; e < 4; ++e) dk[m][w][e] = dv[m][w][e] = 0;
      }
    }

    // dk, dv and dq += what 16 queries contribute, whose rows and numbers are at these addresses.
    const auto add_tile = [&](uint32_t q_at, uint32_t numbers_at, float(&dq)[kColumns][4]) {
      const uint32_t dy_at = q_at + 2 * S::kTileSize;
      const float4 low = load_shared_4(numbers_at + 16 * t), high = load_shared_4(numbers_at + 64 + 16 * t);
      const float log2_sums[2][2] = {{low.x, low.z}, {high.x, high.z}};
      constexpr float kZeros[4] = {};
      uint32_t qs[kSteps][4], dys[kSteps][4], q_half[2], dy_half[2];
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        load_matrices(qs[i], q_at + by_depth + 32 * i);
        load_matrices(dys[i], dy_at + by_depth + 32 * i);
      }
      if constexpr (S::kHalfStep) {
        load_matrices(q_half, q_at + by_half + 32 * kSteps);
        load_matrices(dy_half, dy_at + by_half + 32 * kSteps);
      }
      uint32_t q_rows[(kColumns + 1) / 2][4], dy_rows[(kColumns + 1) / 2][4];
#pragma unroll
      for (int w = 0; w + 1 < kColumns; w += 2) {
        load_transposed(q_rows[w / 2], q_at + by_rows + 16 * w);
        load_transposed(dy_rows[w / 2], dy_at + by_rows + 16 * w);
      }
      if constexpr (kColumns % 2) {
        uint32_t x[2], y[2];
        load_transposed(x, q_at + by_half + 16 * (kColumns - 1));
        load_transposed(y, dy_at + by_half + 16 * (kColumns - 1));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          q_rows[kColumns / 2][i] = x[i];
          dy_rows[kColumns / 2][i] = y[i];
        }
      }
#pragma unroll
      for (int m = 0; m < kKeyTiles; ++m) {
        float p[2][4], grad[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          multiply_16<T>(p[n], keys[m], qs[0][2 * n], qs[0][2 * n + 1], kZeros);
          multiply_16<T>(grad[n], values[m], dys[0][2 * n], dys[0][2 * n + 1], kZeros);
#pragma unroll
          for (int i = 1; i < kSteps; ++i) {
            multiply_16<T>(p[n], keys[m] + 4 * i, qs[i][2 * n], qs[i][2 * n + 1]);
            multiply_16<T>(grad[n], values[m] + 4 * i, dys[i][2 * n], dys[i][2 * n + 1]);
          }
          if constexpr (S::kHalfStep) {
            multiply_8<T>(p[n], keys[m] + 4 * kSteps, q_half[n]);
            multiply_8<T>(grad[n], values[m] + 4 * kSteps, dy_half[n]);
          }
        }
        uint32_t weights[4], grads[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float x[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float score = p[i / 2][i % 2 * 2 + e], log2_sum = log2_sums[i / 2][e];
            if (S::is_polynomial(2 * i + e)) {
              x[e] = exp2_polynomial(__saturatef(fmaf(score, unit / 128, (log2_sum - kExp2Lowest) / 128)));
            } else {
              x[e] = exp2_special(fmaf(score, unit, log2_sum));
            }
          }
          weights[i] = Mma16<T>::pack(x[0], x[1]);
          grads[i] = Mma16<T>::pack(x[0] * grad[i / 2][i % 2 * 2], x[1] * grad[i / 2][i % 2 * 2 + 1]);
        }
#pragma unroll
        for (int w = 0; w < kColumns; ++w) {
          multiply_16<T>(dv[m][w], weights, dy_rows[w / 2][w % 2 * 2], dy_rows[w / 2][w % 2 * 2 + 1]);
          multiply_16<T>(dk[m][w], grads, q_rows[w / 2][w % 2 * 2], q_rows[w / 2][w % 2 * 2 + 1]);
        }
        // Blocks of [keys, queries] in the order (0, 0), (8, 0), (0, 8), (8, 8).
        const uint32_t turned[4] = {transpose_8x8(grads[0]), transpose_8x8(grads[2]), transpose_8x8(grads[1]),
                                    transpose_8x8(grads[3])};
#pragma unroll
        for (int w = 0; w < kColumns; ++w) {
          multiply_16<T>(dq[w], turned, keys_by_rows[m][w][0], keys_by_rows[m][w][1]);
        }
      }
    };

    for (int round = 0; round < rounds; ++round) {
      const int fetched = group * rounds + round;
      const T* stage = reinterpret_cast<const T*>(stages + fetched % 2 * S::kStageBytes);
      wait_for_copies<0>();
      copy.template clear_edges<S::kRows>(const_cast<T*>(stage));
      T* dy_rows = const_cast<T*>(stage) + S::kTileSize;
      copy.template clear_edges<S::kRows>(dy_rows);
      __syncthreads();  // this round's rows have arrived, and nobody reads the ones before any more
      for (int i = threadIdx.x; i < S::kRows; i += S::kThreads) {
        float rest = reinterpret_cast<const float2*>(stage + 2 * S::kTileSize)[i].y;
#pragma unroll
        for (int piece = 0; piece < S::kPieces; ++piece) {
          const float counts = piece == 0 ? 1024.0f : 1.0f;
          const T part(rest / counts);
          dy_rows[i * S::kPitch + spare(piece)] = part;
          rest = fmaf(static_cast<float>(part), -counts, rest);
        }
      }
      __syncthreads();
      if (fetched + 1 < groups * rounds) fetch(fetched + 1);

      const uint32_t stage_at = shared_address(stage);
      int place = warp;
#pragma unroll 1
      for (int s = 0; s < kWarps; ++s) {
        const int tile = round * kWarps + place;
        const bool work = tile < tiles && count > 0;
        float dq[kColumns][4] = {};
        if (work) add_tile(stage_at + place * (16 * S::kPitch * 2), stage_at + 4 * S::kTileSize + place * 128, dq);
        if (step_number > 0) barrier_wait(barrier, (step_number - 1) & 1);  // all have added in the step before
        if (work) {
          const uint32_t sums = sums_at + tile * span.count * S::kPairBytes;
#pragma unroll
          for (int w = 0; w < kColumns; ++w) {
            const bool there = dq_at[w] >= 0;
            const uint32_t upper = sums + dq_at[w], lower = upper ^ 64;  // row g + 8
            const float2 x = load_shared(upper, there), y = load_shared(lower, there);
            store_shared(upper, there, x.x + dq[w][0], x.y + dq[w][1]);
            store_shared(lower, there, y.x + dq[w][2], y.y + dq[w][3]);
          }
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(barrier);
        ++step_number;
        place = place + 1 < kWarps ? place + 1 : 0;
      }
    }

    // Sums of the ranges before, which have all been added when it is this one's turn.
    const int64_t place = (static_cast<int64_t>(head) * groups + group) * kWarps + warp;
    if (range > 0) {
      if (lane == 0) wait_turn(plan.turns + place, range);
      __syncwarp();
    }
    const bool last = range + 1 == plan.ranges;
#pragma unroll
    for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = 16 * m + g + 8 * half, key = first_key + row;
        if (row >= count) continue;
        if (plan.ranges > 1) {
          float* dk_sums = plan.sums + (static_cast<int64_t>(head) * call.keys + key) * call.width - begin;
          float* dv_sums = dk_sums + static_cast<int64_t>(heads) * call.keys * call.width;
#pragma unroll
          for (int w = 0; w < kColumns; ++w) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              const int column = 8 * w + 2 * t + e;
              if (column < begin || column >= end) continue;
              float &x = dk[m][w][2 * half + e], &y = dv[m][w][2 * half + e];
              if (range > 0) {
                x += __ldcg(dk_sums + column);
                y += __ldcg(dv_sums + column);
              }
              if (!last) {
                dk_sums[column] = x;
                dv_sums[column] = y;
              }
            }
          }
          if (!last) continue;
        }
#pragma unroll
        for (int w = 0; w < kColumns; ++w) {
          const float *x = dk[m][w] + 2 * half, *y = dv[m][w] + 2 * half;
          const int column = 8 * w + 2 * t;
          if (call.dk.data) {
            T* to = call.dk.of(b, h) + key * call.dk.row;
            store_pair(to, column, begin, end, x[0] * call.scale, x[1] * call.scale);
          }
          if (call.dv.data) store_pair(call.dv.of(b, h) + key * call.dv.row, column, begin, end, y[0], y[1]);
        }
      }
    }
    if (!last) {
      __threadfence();
      __syncwarp();
      if (lane == 0) give_turn(plan.turns + place, range + 1);
    }
  }

  if (!call.dq.data) return;
  __syncthreads();
  T* dq = call.dq.of(b, h);
  for (int i = threadIdx.x; i < queries * span.count; i += S::kThreads) {
    const int row = i / span.count, pair = i % span.count;
    const char* at = dq_sums + (row / 16 * span.count + pair) * S::kPairBytes + ((row % 16) ^ (pair & 3) << 2) * 8;
    const float2 x = *reinterpret_cast<const float2*>(at);
    store_pair(dq + (first_query + row) * call.dq.row, 2 * (pair + span.first), begin, end, x.x * call.scale,
               x.y * call.scale);
  }
}

}  // namespace camo::flash
