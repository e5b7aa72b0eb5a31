// Attention backward on Hopper, 16-bit, D up to 256: all five products by wgmma, tiles by TMA.
//
//   P = exp(scale q k^T - L),  dP = dy v^T,  dS = P * (dP - delta),  delta = rowsum(dy * y)
//   dv = P^T dy,  dk = scale dS^T q,  dq = scale dS k
//
// Decomposition: a block owns 128 keys of one head, 64 per consumer warpgroup, whose dk and dv stay in registers while
// tiles of queries stream past. Scores are made transposed [keys, queries], so that P^T and dS^T are, register for
// register, the left operands of dv and dk. For dq, which contracts over the keys of both warpgroups, dS goes through
// shared memory, and the sum over blocks through f32 memory by red.add; a last kernel converts. In order (the default)
// each block waits for its predecessor at every tile, so that the bits are the same every time; out of order the sum
// takes the order of arrival.
// Layout: tiles as in hopper_forward.cuh. L (base 2) and delta of a tile of queries lie together, padded with L =
// infinity, which makes P = 0 for queries beyond the last. The f32 sums of dq are in the order of the registers.
// Bound by: shared memory and tensor cores alike.
#pragma once

#include "ops/attention/cuda/hopper_forward.cuh"

namespace camo::flash::hopper {

template <class T>
struct BackwardCall : Sizes {
  Source q, k, v, dy;
  CUtensorMap statistics;  // [head and tile, L of each query of the tile, delta of each]
  Heads<T> dq, dk, dv;
  Heads<const T> y, dy_rows;
  const float* log_sum_exp = nullptr;
  float* statistics_memory = nullptr;
  float* dq_sums = nullptr;
  int* turns = nullptr;  // of each tile of queries and warpgroup: blocks that have added to dq
  int blocks = 0, tiles = 0, all_heads = 0, together = 1;
  bool clear = false;        // columns beyond the width hold other heads' numbers
  bool clears_sums = false;  // nobody stores the first of the sums of dq
};

/// What a launch computes. Beyond D = 128 the sums of dk and dv do not fit in registers together.
enum class BackwardPart { all, values, queries_and_keys };

/// kWidth: D rounded up. kQueries: of a tile.
template <int kWidth_, int kQueries_, int kStages_ = 2, BackwardPart kPart_ = BackwardPart::all>
struct BackwardTile {
  static constexpr int kWidth = kWidth_, kQueries = kQueries_, kKeys = 128, kStages = kStages_, kGroups = 2;
  static constexpr BackwardPart kPart = kPart_;
  static constexpr bool kValues = kPart != BackwardPart::queries_and_keys, kGradients = kPart != BackwardPart::values;
  static constexpr int kThreads = kWarpgroup * (kGroups + 1);
  static constexpr int kPanels = (kWidth + kPanel - 1) / kPanel;
  static constexpr int kKeyPanel = kKeys * 128, kQueryPanel = kQueries * 128;  // bytes
  static constexpr int kKeyBytes = kPanels * kKeyPanel, kTileBytes = kPanels * kQueryPanel;
  static constexpr int kScoreBytes = kKeys * kQueries * 2;
  static constexpr int kStatistics = 2 * kQueries;  // floats

  /// dq of a tile: by rows among the warpgroups where there are 128, else by columns.
  static constexpr bool kSplitRows = kQueries == 128;
  static constexpr int kOutColumns = kSplitRows ? kWidth : kWidth / 2;
  static constexpr int kOutCount = kOutColumns / 2;               // registers of a thread
  static constexpr int kSums = kGroups * kWarpgroup * kOutCount;  // floats of a tile
  static constexpr int kSumBytes = kSums * 4;
  static constexpr int kFixedBytes = (kGradients ? 2 * kKeyBytes + 2 * kScoreBytes : kKeyBytes) +
                                     2 * kStages * kTileBytes + kStages * kStatistics * 4 + 1024;
  /// Whether the tile's dq fits in shared memory too: then a warp of its own adds it to memory, in order.
  static constexpr bool kHasWriter = kGradients && kFixedBytes + kSumBytes <= 226 * 1024;
  static constexpr int kBytes = kFixedBytes + (kHasWriter ? kSumBytes : 0);
  static_assert(kQueries == 64 || kQueries == 128);
  static_assert(kSplitRows || kWidth % 128 == 0);
};

template <class T, class S, bool kCausal, bool kOrdered>
__global__ void __launch_bounds__(S::kThreads, 1) hopper_backward_kernel(const __grid_constant__ BackwardCall<T> call) {
#ifdef CAMO_FLASH_HOPPER
  constexpr int kStages = S::kStages, kQueries = S::kQueries, kKeys = S::kKeys;
  extern __shared__ char dynamic[];
  char* const shared = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
  __shared__ uint64_t barriers[6 + 6 * kStages];
  const uint32_t first_barrier = shared_address(barriers);
  const auto barrier = [&](int kind, int stage) { return first_barrier + 8u * (6 + kind * kStages + stage); };
  const auto sums_full = [&](int consumer) { return first_barrier + 16 + 8u * consumer; };
  const auto sums_free = [&](int consumer) { return first_barrier + 32 + 8u * consumer; };
  constexpr bool kWrites = kOrdered && S::kHasWriter;
  enum { kQueryFull, kQueryClean, kQueryFree, kGradFull, kGradClean, kGradFree };
  const uint32_t keys_full = first_barrier, keys_clean = first_barrier + 8;
  const uint32_t key_tile = shared_address(shared), query_tiles = key_tile + S::kKeyBytes,
                 grad_tiles = query_tiles + kStages * S::kTileBytes, value_tile = grad_tiles + kStages * S::kTileBytes,
                 score_tiles = value_tile + S::kKeyBytes,
                 sum_tile = S::kGradients ? score_tiles + 2 * S::kScoreBytes : value_tile,
                 statistics = sum_tile + (S::kHasWriter ? S::kSumBytes : 0);

  // Blocks of a head add to dq one after the other: `together` heads advance side by side, block by block.
  const int first_head = blockIdx.x / (call.together * call.blocks) * call.together;
  const int side = min(call.together, call.all_heads - first_head);
  const int place_in = blockIdx.x - first_head * call.blocks, head = first_head + place_in % side;
  const int b = head / call.heads, h = head % call.heads;
  const int block = place_in / side, first_key = block * kKeys, shift = call.keys - call.queries;
  int first_tile = 0;
  if constexpr (kCausal) first_tile = max(0, first_key - shift) / kQueries;  // whose last query sees the first key

  const int group = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0);
  if (threadIdx.x == 0) {
    init_barrier(keys_full, 1);
    init_barrier(keys_clean, 32);
    for (int consumer = 0; consumer < S::kGroups; ++consumer) {
      init_barrier(sums_full(consumer), kWarpgroup);
      init_barrier(sums_free(consumer), 1);
    }
    for (int s = 0; s < kStages; ++s) {
      init_barrier(barrier(kQueryFull, s), 1);
      init_barrier(barrier(kQueryClean, s), 32);
      init_barrier(barrier(kQueryFree, s), 4 * S::kGroups);
      init_barrier(barrier(kGradFull, s), 1);
      init_barrier(barrier(kGradClean, s), 32);
      init_barrier(barrier(kGradFree, s), 4 * S::kGroups);
    }
    publish_barriers();
  }
  __syncthreads();

  if (group == S::kGroups) {  // producer
    lower_registers<24>();
    const int helper = threadIdx.x / 32 - S::kGroups * 4;  // 0 loads; 1 and 2 add the consumers' dq to memory; 3 clears
    if constexpr (kWrites) {
      if (helper > 0 && helper <= S::kGroups && threadIdx.x % 32 == 0) {
        const int consumer = helper - 1;
        for (int tile = first_tile; tile < call.tiles; ++tile) {
          const int64_t place = (static_cast<int64_t>(head) * call.tiles + tile) * S::kGroups + consumer;
          float* to = call.dq_sums + place * (kWarpgroup * S::kOutCount);
          const uint32_t from = sum_tile + consumer * (S::kSumBytes / S::kGroups);
          wait(sums_full(consumer), (tile - first_tile) & 1);
          if (block > 0) {
            wait_turn(call.turns + place, block);
            fence_async();
            add_bulk(to, from, S::kSumBytes / S::kGroups);
          } else {
            store_bulk(to, from, S::kSumBytes / S::kGroups);
          }
          commit_bulk();
          wait_bulk_read();
          arrive(sums_free(consumer));
          wait_bulk();
          fence_async();
          store_release(call.turns + place, block + 1);
        }
      }
    }
    if (helper == 0 && threadIdx.x % 32 == 0) {
      arrive_expecting(keys_full, (S::kGradients ? 2 : 1) * S::kKeyBytes);
      for (int p = 0; p < S::kPanels; ++p) {
        call.k.load(key_tile + p * S::kKeyPanel, keys_full, p, b, h, first_key);
        if constexpr (S::kGradients) call.v.load(value_tile + p * S::kKeyPanel, keys_full, p, b, h, first_key);
      }
      for (int tile = first_tile; tile < call.tiles; ++tile) {
        const int use = tile - first_tile, s = use % kStages;
        if (use >= kStages) wait(barrier(kQueryFree, s), (use / kStages - 1) & 1);
        arrive_expecting(barrier(kQueryFull, s), S::kTileBytes + S::kStatistics * 4);
        for (int p = 0; p < S::kPanels; ++p) {
          call.q.load(query_tiles + s * S::kTileBytes + p * S::kQueryPanel, barrier(kQueryFull, s), p, b, h,
                      tile * kQueries);
        }
        load_row(statistics + s * S::kStatistics * 4, call.statistics, barrier(kQueryFull, s),
                 head * call.tiles + tile);
        if (use >= kStages) wait(barrier(kGradFree, s), (use / kStages - 1) & 1);
        arrive_expecting(barrier(kGradFull, s), S::kTileBytes);
        for (int p = 0; p < S::kPanels; ++p) {
          call.dy.load(grad_tiles + s * S::kTileBytes + p * S::kQueryPanel, barrier(kGradFull, s), p, b, h,
                       tile * kQueries);
        }
      }
    } else if (helper == 3 && call.clear) {
      const int thread = threadIdx.x % 32, offset = call.q.offset(h), grad_offset = call.dy.offset(h);
      wait(keys_full, 0);
      clear_columns<kKeys, S::kWidth, 32>(shared, S::kKeyPanel, offset, call.width, thread);
      if constexpr (S::kGradients) {
        clear_columns<kKeys, S::kWidth, 32>(shared + (value_tile - key_tile), S::kKeyPanel, grad_offset, call.width,
                                            thread);
      }
      fence_shared_for_async();
      arrive(keys_clean);
      for (int use = 0; use < call.tiles - first_tile; ++use) {
        const int s = use % kStages;
        char* const queries = shared + S::kKeyBytes + s * S::kTileBytes;
        wait(barrier(kQueryFull, s), use / kStages & 1);
        clear_columns<kQueries, S::kWidth, 32>(queries, S::kQueryPanel, offset, call.width, thread);
        fence_shared_for_async();
        arrive(barrier(kQueryClean, s));
        wait(barrier(kGradFull, s), use / kStages & 1);
        clear_columns<kQueries, S::kWidth, 32>(queries + kStages * S::kTileBytes, S::kQueryPanel, grad_offset,
                                               call.width, thread);
        fence_shared_for_async();
        arrive(barrier(kGradClean, s));
      }
    }
    return;
  }

  raise_registers<240>();
  const int consumer = group, lane = threadIdx.x % 32, warp = threadIdx.x % kWarpgroup / 32;
  const float unit = call.scale * kLog2E;
  const int first_row = 64 * consumer + 16 * warp + lane / 4;  // keys of this thread: first_row and + 8 in the block
  const int query_ready = call.clear ? kQueryClean : kQueryFull, grad_ready = call.clear ? kGradClean : kGradFull;
  // A sum that this part does not make is left out by the compiler.
  float dk[S::kWidth / 2], dv[S::kWidth / 2];
#pragma unroll
  for (int i = 0; i < S::kWidth / 2; ++i) dk[i] = dv[i] = 0;
  const uint64_t k_columns = describe(key_tile + consumer * 8192, S::kKeyPanel),
                 v_columns = describe(value_tile + consumer * 8192, S::kKeyPanel),
                 k_rows = describe(key_tile + (S::kSplitRows ? 0 : consumer * (S::kPanels / 2) * S::kKeyPanel),
                                   S::kKeyPanel);
  const auto release = [&](uint32_t free) {
    if (lane == 0) arrive(free);
  };
  // Where this lane writes rows of dS: key row of its 8 x 8 matrix; columns come in eights, swizzled.
  const int score_row = 64 * consumer + 16 * warp + lane / 8 % 2 * 8 + lane % 8;

  wait(call.clear ? keys_clean : keys_full, 0);
  for (int tile = first_tile; tile < call.tiles; ++tile) {
    const int use = tile - first_tile, s = use % kStages, phase = use / kStages & 1;
    const uint32_t query_tile = query_tiles + s * S::kTileBytes, grad_tile = grad_tiles + s * S::kTileBytes;
    const uint64_t q_tile = describe(query_tile, S::kQueryPanel), dy_tile = describe(grad_tile, S::kQueryPanel);
    const float* numbers = reinterpret_cast<const float*>(shared + (statistics - key_tile)) + s * S::kStatistics;

    float scores[kQueries / 2], products[kQueries / 2];
    wait(barrier(query_ready, s), phase);
    fence_products();
#pragma unroll
    for (int step = 0; step < S::kWidth / 16; ++step) {
      Product<T, kQueries>::template run<false, false>(scores, advance(k_columns, column_step(step, S::kKeyPanel)),
                                                       advance(q_tile, column_step(step, S::kQueryPanel)), step > 0);
    }
    commit_products();
    wait(barrier(grad_ready, s), phase);
    if constexpr (S::kGradients) {
#pragma unroll
      for (int step = 0; step < S::kWidth / 16; ++step) {
        Product<T, kQueries>::template run<false, false>(products, advance(v_columns, column_step(step, S::kKeyPanel)),
                                                         advance(dy_tile, column_step(step, S::kQueryPanel)), step > 0);
      }
      commit_products();
      wait_products<1>();
    } else {
      wait_products<0>();
    }
    pin(scores);

    // P^T: columns are queries.
#pragma unroll
    for (int i = 0; i < kQueries / 2; i += 4) {
      const float2 l = *reinterpret_cast<const float2*>(numbers + 2 * i + lane % 4 * 2);
      scores[i] = exp2_unit(fmaf(scores[i], unit, -l.x));
      scores[i + 1] = exp2_unit(fmaf(scores[i + 1], unit, -l.y));
      scores[i + 2] = exp2_unit(fmaf(scores[i + 2], unit, -l.x));
      scores[i + 3] = exp2_unit(fmaf(scores[i + 3], unit, -l.y));
    }
    bool hides = first_key + kKeys > call.keys;
    if constexpr (kCausal) hides |= first_key + kKeys - 1 > tile * kQueries + shift;
    if (hides) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = first_key + first_row + 8 * half;
        int begin = key < call.keys ? 0 : kQueries;  // queries before see nothing of this key
        if constexpr (kCausal) begin = max(begin, key - shift - tile * kQueries);
        begin -= lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < kQueries / 2; i += 4) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (2 * i + e < begin) scores[i + 2 * half + e] = 0;
          }
        }
      }
    }

    uint32_t weights[kQueries / 4], grads[kQueries / 4];  // P^T and dS^T, packed
    if constexpr (S::kGradients) {
      wait_products<0>();
      pin(products);
#pragma unroll
      for (int i = 0; i < kQueries / 2; i += 4) {
        const float2 delta = *reinterpret_cast<const float2*>(numbers + kQueries + 2 * i + lane % 4 * 2);
        weights[i / 2] = pack<T>(scores[i], scores[i + 1]);
        weights[i / 2 + 1] = pack<T>(scores[i + 2], scores[i + 3]);
        grads[i / 2] = pack<T>(scores[i] * (products[i] - delta.x), scores[i + 1] * (products[i + 1] - delta.y));
        grads[i / 2 + 1] =
            pack<T>(scores[i + 2] * (products[i + 2] - delta.x), scores[i + 3] * (products[i + 3] - delta.y));
      }
    } else {
      pack_weights<T>(weights, scores);
    }
    if constexpr (S::kValues) {
      pin(weights);
      pin(dv);
      fence_products();
#pragma unroll
      for (int step = 0; step < kQueries / 16; ++step) {
        Product<T, S::kWidth>::template run<true>(dv, weights + 4 * step, advance(dy_tile, row_step(step)), 1);
      }
      commit_products();
    }
    if constexpr (!S::kGradients) {
      wait_products<0>();
      pin(dv);
      pin(weights);
      release(barrier(kQueryFree, s));
      release(barrier(kGradFree, s));
      continue;
    }

    const uint32_t score_tile = score_tiles + (use & 1) * S::kScoreBytes;
#pragma unroll
    for (int i = 0; i < kQueries / 4; i += 4) {
      const int column = i / 2 + lane / 16;  // of eight queries
      store_matrices(
          score_tile + column / 8 * (kKeys * 128) + score_row * 128 + (((column % 8) ^ (score_row % 8)) * 16),
          grads + i);
    }
    fence_shared_for_async();
    wait_named(1, 2 * kWarpgroup);  // all of dS is there; and nobody reads that of the tile before

    float dq[S::kOutCount];
    const uint64_t ds_rows = describe(score_tile + (S::kSplitRows ? consumer * (kKeys * 128) : 0), kKeys * 128);
    pin(grads);
    pin(dk);
    fence_products();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      Product<T, S::kOutColumns>::template run<true, true>(dq, advance(ds_rows, row_step(step)),
                                                           advance(k_rows, row_step(step)), step > 0);
    }
    commit_products();
#pragma unroll
    for (int step = 0; step < kQueries / 16; ++step) {
      Product<T, S::kWidth>::template run<true>(dk, grads + 4 * step, advance(q_tile, row_step(step)), 1);
    }
    commit_products();
    wait_products<1>();
    if constexpr (S::kValues) {
      pin(dv);
      pin(weights);
    }
    pin(dq);
    release(barrier(kGradFree, s));

    if constexpr (kWrites) {
      if (use > 0) wait(sums_free(consumer), (use - 1) & 1);
      float4* sums =
          reinterpret_cast<float4*>(shared + (sum_tile - key_tile) + consumer * (S::kSumBytes / S::kGroups)) +
          threadIdx.x % kWarpgroup;
#pragma unroll
      for (int i = 0; i < S::kOutCount; i += 4) {
        sums[i / 4 * kWarpgroup] = make_float4(dq[i], dq[i + 1], dq[i + 2], dq[i + 3]);
      }
      fence_shared_for_async();
      arrive(sums_full(consumer));
    } else {
      const int64_t place = (static_cast<int64_t>(head) * call.tiles + tile) * S::kGroups + consumer;
      if constexpr (kOrdered) {
        if (threadIdx.x % kWarpgroup == 0) wait_turn(call.turns + place, block);
        wait_named(2 + consumer, kWarpgroup);
      }
      float* sums = call.dq_sums + place * (kWarpgroup * S::kOutCount) + threadIdx.x % kWarpgroup * 4;
#pragma unroll
      for (int i = 0; i < S::kOutCount; i += 4) add_four(sums + i * kWarpgroup, dq + i);
      if constexpr (kOrdered) {
        __threadfence();
        wait_named(2 + consumer, kWarpgroup);
        if (threadIdx.x % kWarpgroup == 0) store_release(call.turns + place, block + 1);
      }
    }
    wait_products<0>();
    pin(dk);
    pin(grads);
    release(barrier(kQueryFree, s));
  }
  const float ones[2] = {1, 1}, scales[2] = {call.scale, call.scale};
  const int first = first_key + 64 * consumer;
  if constexpr (S::kValues) {
    if (call.dv.data) {
      store_accumulators<T>(call.dv, b, h, dv, ones, first, call.keys, call.width, call.dy.offset(h));
    }
  }
  if constexpr (S::kGradients) {
    if (call.dk.data) {
      store_accumulators<T>(call.dk, b, h, dk, scales, first, call.keys, call.width, call.q.offset(h));
    }
  }
#else
  __trap();
#endif
}

}  // namespace camo::flash::hopper
