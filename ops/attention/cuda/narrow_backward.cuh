// Attention backward of narrow heads in 16 bits without rules: five products and one exponential per score, and every
// sum in one fixed order.
//
//   P = exp(scale q k^T - L),  dP = dy v^T,  dS = P * (dP - delta),  dv = P^T dy,  dk = scale dS^T q,  dq = scale dS k
//
// Decomposition: a block has a range of the queries of one head and walks through the keys in groups. Each of its warps
// owns 16 kKeyTiles keys of a group: their k and v, dk and dv stay in its registers while queries stream past, a round
// of 16 for each warp in shared memory while the next one arrives. Scores are made transposed, [keys, queries], so that
// P and dS leave the tensor cores as left operands of dv and dk; for dq, dS is transposed by movmatrix.
// dq lives in shared memory, in f32, for the whole kernel, as the accumulators of its product. The warps walk the tiles
// of 16 queries in a ring: in step s warp w is at tile w + s, so that no two touch the same sums, and each tile meets
// the keys in one order. Before a warp adds to dq it waits until all have added in the step before, which is a whole
// step's work ago. The same waits tell that a round's rows are ready and that nobody reads those of the round before.
// dk and dv are made of summands, of the same queries whatever the batch: a block adds each to f32 sums in memory,
// which does not wait, and the last one stores the total. Few heads get a block for each summand, many heads blocks
// that make several one after the other: the order of the sums is the same. A block waits only for those of lower
// numbers, which the device starts earlier. Layout: windows, as in the forward pass. dq: for each tile of 16 queries,
// pairs of columns, each eight times two rows' (g, g + 8), swizzled so that a quarter of a warp touches 32 banks. A
// tile of 16 x 16 scores issues 10 products of 16 x 8 x 16 at D = 10 (6.1 clocks each on a scheduler's tensor core,
// where other arithmetic waits), 8 exponentials (8 clocks each), 8 multiply-adds, 8 multiplications, 8 packings, 4
// transpositions and a third of the 43 instructions beside them in a step: 60 in all. With operands in registers they
// take 84 clocks of a scheduler, here 145. Bound by: the latencies of that chain, which three warps of a scheduler do
// not hide (it issues in every other clock, H100); registers allow no fourth.
#pragma once

#include "ops/attention/cuda/narrow_numbers.cuh"
#include "ops/attention/cuda/narrow_sums.cuh"
#include "ops/attention/cuda/warp16.cuh"

namespace camo::flash {

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    flash_narrow_backward_kernel(const __grid_constant__ Call<typename S::T> call, const NarrowPlan plan) {
  using T = typename S::T;
  constexpr int kColumns = S::kColumns, kSteps = S::kSteps, kKeyTiles = S::kKeyTiles, kWarps = S::kWarps;
  extern __shared__ __align__(128) char shared[];
  char* stages = shared + 128;  // the barrier stands first
  char* dq_sums = stages + 2 * S::kStageBytes;
  const uint32_t barrier = keep(shared_address(shared)), stages_at = barrier + 128;

  // Ranges of a head add dk and dv one after the other: the first ranges of all heads come first.
  const int heads = call.batch * call.heads, head = blockIdx.x % heads, range = blockIdx.x / heads;
  const int b = head / call.heads, h = head % call.heads;
  const int range_rows = plan.range_sums * plan.sum_rounds * S::kRows, first_query = range * range_rows;
  const int queries = min(range_rows, call.queries - first_query);
  const int rounds = (queries + S::kRows - 1) / S::kRows;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, g = lane / 4, t = lane % 4;
  const WindowCopy<T, S::kWidth, S::kThreads> copy(call.q.of(b, h), call.width);
  const T *q = window_start(call.q.of(b, h)), *dy = window_start(call.dy.of(b, h));
  const T *k = window_start(call.k.of(b, h)), *v = window_start(call.v.of(b, h));
  const int begin = window_offset(call.q.of(b, h)), end = begin + call.width;
  const PairSpan span(begin, call.width);
  const float2* numbers = plan.numbers + static_cast<int64_t>(head) * call.queries;

  const int tile_bytes = span.count * S::kPairBytes;
  const int dq_bytes = rounds * kWarps * tile_bytes;
  for (int i = threadIdx.x * 16; i < dq_bytes; i += S::kThreads * 16) {
    *reinterpret_cast<uint4*>(dq_sums + i) = make_uint4(0, 0, 0, 0);
  }
  if (threadIdx.x == 0) barrier_init(barrier, S::kThreads);

  // Columns of a window that belong to no row carry -delta in dy, in parts, and what a part counts in v: their
  // product with the others' is dP - delta. The first part counts 1024, so that f16 holds any.
  const auto spare = [&](int i) { return i < begin ? i : i + call.width; };
  const auto part_bits = [&](int column) -> uint32_t {
    const uint32_t first = column == spare(0), other = column == spare(1) | column == spare(2);  // without branches
    return first * T(1024.0f).bits + other * T(1.0f).bits;
  };
  const auto fetch = [&](int number) {
    char* stage = stages + number % 2 * S::kStageBytes;
    const int first = first_query + number % rounds * S::kRows, count = first_query + queries;
    copy.template rows<S::kRows>(reinterpret_cast<T*>(stage), q, call.q.row, first, count);
    copy.template rows<S::kRows>(reinterpret_cast<T*>(stage + S::kTileBytes), dy, call.dy.row, first, count);
    float* log2_sums = reinterpret_cast<float*>(stage + S::kSumsAt);
    for (int i = threadIdx.x; i < S::kRows; i += S::kThreads) {
      if (first + i < count) copy_async<4>(log2_sums + i, &numbers[first + i].x);
      else log2_sums[i] = -INFINITY;  // no weight
    }
    float* deltas = reinterpret_cast<float*>(stage + S::kDeltasAt) + copy.piece * S::kRows;
    copy.template each_row<S::kRows>([&](int r) {
      if (first + r < count) copy_async<4>(deltas + r, &numbers[first + r].y);
      else deltas[r] = 0;
    });
    commit_copies();
  };
  // Makes what this thread has fetched fit for products; before others read it, they wait for this thread.
  const auto finish = [&](int number) {
    char* stage = stages + number % 2 * S::kStageBytes;
    T* dy_rows = reinterpret_cast<T*>(stage + S::kTileBytes);
    const float* deltas = reinterpret_cast<const float*>(stage + S::kDeltasAt) + copy.piece * S::kRows;
    wait_for_copies<0>();
    copy.template clear_edges<S::kRows>(reinterpret_cast<T*>(stage));
    copy.template clear_edges<S::kRows>(dy_rows);
    copy.template each_row<S::kRows>([&](int r) {
      float rest = deltas[r];
#pragma unroll
      for (int i = 0; i < S::kParts; ++i) {
        const float counts = i == 0 ? 1024.0f : 1.0f;
        const T part(rest / counts);
        if (spare(i) / 8 == copy.piece) dy_rows[r * S::kPitch + spare(i)] = part;
        rest = fmaf(static_cast<float>(part), -counts, rest);
      }
    });
  };
  // Where in a tile's sums this lane's are; those of the next columns stand 512 bytes behind.
  const int first_pair = t - span.first;
  const uint32_t sums_at =
      stages_at + 2 * S::kStageBytes + first_pair * S::kPairBytes + (g ^ (first_pair & 3) << 1) * 16;
  bool is_part[kColumns];
#pragma unroll
  for (int w = 0; w < kColumns; ++w) is_part[w] = first_pair + 4 * w >= 0 && first_pair + 4 * w < span.count;

  // Rows as ldmatrix takes them: for products by depth, by rows, and for their last 8 columns, queries and dy at once.
  const uint32_t by_depth = keep(((lane / 16 * 8 + lane % 8) * S::kPitch + lane / 8 % 2 * 8) * 2);
  const uint32_t by_rows = keep((lane % 16 * S::kPitch + lane / 16 * 8) * 2);
  const uint32_t by_half = keep(lane % 16 * S::kPitch * 2 + lane / 16 * S::kTileBytes + 16 * (kColumns - 1));
  const auto column_of = [&](int i) { return i / 4 * 16 + i % 4 / 2 * 8 + 2 * t; };  // of a left operand's register
  const float unit = call.scale * kLog2E;
  const int groups = (call.keys + S::kGroupKeys - 1) / S::kGroupKeys;
  fetch(0);
  finish(0);
  __syncthreads();
  int step = 0;
  for (int group = 0; group < groups; ++group) {
    const int first_key = (group * kWarps + warp) * 16 * kKeyTiles;
    const int count = call.keys - first_key;  // of this warp's keys, those that are there; may be negative
    uint32_t keys[kKeyTiles][S::kDepth], values[kKeyTiles][S::kDepth], keys_by_rows[kKeyTiles][kColumns][2];
    float dk[kKeyTiles][kColumns][4], dv[kKeyTiles][kColumns][4];
#pragma unroll
    for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
      for (int i = 0; i < S::kDepth; ++i) {
        // Beyond the last key stands the last key again, so that weights stay finite, but nothing to add to dq.
        const int key = min(first_key + 16 * m + g + i % 2 * 8, call.keys - 1), column = column_of(i);
        keys[m][i] = load_pair(k + key * call.k.row, column, begin, end);
        values[m][i] = load_pair(v + key * call.v.row, column, begin, end);
      }
    }
#pragma unroll
    for (int m = 0; m < kKeyTiles; ++m) {
      uint32_t own[S::kDepth];
#pragma unroll
      for (int i = 0; i < S::kDepth; ++i) {
        values[m][i] |= part_bits(column_of(i)) | part_bits(column_of(i) + 1) << 16;
        own[i] = 16 * m + g + i % 2 * 8 < count ? keys[m][i] : 0;
      }
#pragma unroll
      for (int w = 0; w < kColumns; ++w) {
        keys_by_rows[m][w][0] = transpose_8x8(own[w / 2 * 4 + w % 2 * 2]);
        keys_by_rows[m][w][1] = transpose_8x8(own[w / 2 * 4 + w % 2 * 2 + 1]);
#pragma unroll
        for (int e = 0; e < 4; ++e) dk[m][w][e] = dv[m][w][e] = 0;
      }
    }

    // dk and dv += what 16 queries contribute, whose rows and sums are at these addresses; dS^T.
    const auto add_tile = [&](uint32_t q_at, uint32_t sums, uint32_t(&turned)[kKeyTiles][4]) {
      const float2 low = load_shared_2(sums), high = load_shared_2(sums + 32);
      const float log2_sums[2][2] = {{low.x, low.y}, {high.x, high.y}};
      constexpr float kZeros[4] = {};
      uint32_t qs[kSteps][4], dys[kSteps][4], halves[4];
      const uint32_t depth_at = q_at + by_depth, rows_at = q_at + by_rows, half_at = q_at + by_half;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        load_matrices(qs[i], depth_at + 32 * i);
        load_matrices(dys[i], depth_at + S::kTileBytes + 32 * i);
      }
      if constexpr (S::kHalfStep) load_matrices(halves, half_at);
      uint32_t q_rows[(kColumns + 1) / 2][4], dy_rows[(kColumns + 1) / 2][4];
#pragma unroll
      for (int w = 0; w + 1 < kColumns; w += 2) {
        load_transposed(dy_rows[w / 2], rows_at + S::kTileBytes + 16 * w);
        load_transposed(q_rows[w / 2], rows_at + 16 * w);
      }
      if constexpr (S::kHalfStep) {
        uint32_t x[4];
        load_transposed(x, half_at);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          q_rows[kColumns / 2][i] = x[i];
          dy_rows[kColumns / 2][i] = x[2 + i];
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
            multiply_8<T>(p[n], keys[m] + 4 * kSteps, halves[n]);
            multiply_8<T>(grad[n], values[m] + 4 * kSteps, halves[2 + n]);
          }
        }
        uint32_t weights[4], grads[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float x[2], *y = grad[i / 2] + i % 2 * 2;
#pragma unroll
          for (int e = 0; e < 2; ++e) x[e] = exp2_special(fmaf(p[i / 2][i % 2 * 2 + e], unit, log2_sums[i / 2][e]));
          weights[i] = Mma<T>::pack(x[0], x[1]);
          grads[i] = Mma<T>::pack(x[0] * y[0], x[1] * y[1]);
        }
#pragma unroll
        for (int w = 0; w < kColumns; ++w) {
          multiply_16<T>(dv[m][w], weights, dy_rows[w / 2][w % 2 * 2], dy_rows[w / 2][w % 2 * 2 + 1]);
          multiply_16<T>(dk[m][w], grads, q_rows[w / 2][w % 2 * 2], q_rows[w / 2][w % 2 * 2 + 1]);
        }
        // Blocks of [keys, queries] in the order (0, 0), (8, 0), (0, 8), (8, 8).
#pragma unroll
        for (int i = 0; i < 4; ++i) turned[m][i] = transpose_8x8(grads[i / 2 + i % 2 * 2]);
      }
    };
    for (int round = 0; round < rounds; ++round) {
      const int number = group * rounds + round;
      const bool more = number + 1 < groups * rounds;
      const uint32_t stage = stages_at + number % 2 * S::kStageBytes,
                     round_sums = sums_at + round * kWarps * tile_bytes;
      int place = warp;
      // The next round's rows are fetched when all have taken a step of this one, and made ready before all take the
      // last but one.
#pragma unroll 1
      for (int part = 0; part < 3; ++part) {
        const int steps = part == 0 ? 2 : part == 1 ? kWarps - 4 : 2;
        if (count > 0) {
#pragma unroll 1
          for (int s = 0; s < steps; ++s) {
            const uint32_t q_at = stage + place * (16 * S::kPitch * 2), sums = stage + S::kSumsAt + place * 64 + 8 * t;
            const uint32_t dq_at = round_sums + place * tile_bytes;
            uint32_t turned[kKeyTiles][4];
            add_tile(q_at, sums, turned);
            barrier_wait(barrier, ~step & 1);  // all have added in the step before
            float dq[kColumns][4];
#pragma unroll
            for (int w = 0; w < kColumns; ++w) load_sums(dq[w], dq_at + 512 * w, is_part[w]);
#pragma unroll
            for (int m = 0; m < kKeyTiles; ++m) {
#pragma unroll
              for (int w = 0; w < kColumns; ++w) {
                multiply_16<T>(dq[w], turned[m], keys_by_rows[m][w][0], keys_by_rows[m][w][1]);
              }
            }
#pragma unroll
            for (int w = 0; w < kColumns; ++w) store_sums(dq_at + 512 * w, is_part[w], dq[w]);
            barrier_arrive(barrier);
            ++step;
            place = place + 1 < kWarps ? place + 1 : 0;
          }
        } else {  // no keys
#pragma unroll 1
          for (int s = 0; s < steps; ++s) {
            barrier_wait(barrier, ~step & 1);
            barrier_arrive(barrier);
            ++step;
          }
        }
        if (more && part == 0) fetch(number + 1);
        if (more && part == 1) finish(number + 1);
      }
      if (count > 0 && ((round + 1) % plan.sum_rounds == 0 || round + 1 == rounds)) {
        add_key_sums<S>(call, plan, group, round, round + 1 == rounds, dk, dv);
      }
    }
  }

  if (!call.dq.data) return;
  __syncthreads();
  T* dq = call.dq.of(b, h);
  for (int i = threadIdx.x; i < queries * span.count; i += S::kThreads) {
    const int row = i / span.count, pair = i % span.count;
    const char* at =
        dq_sums + (row / 16 * span.count + pair) * S::kPairBytes + (row % 8 ^ (pair & 3) << 1) * 16 + row / 8 % 2 * 8;
    const float2 x = *reinterpret_cast<const float2*>(at);
    store_pair(dq + (first_query + row) * call.dq.row, 2 * (pair + span.first), begin, end, x.x * call.scale,
               x.y * call.scale);
  }
}

}  // namespace camo::flash
