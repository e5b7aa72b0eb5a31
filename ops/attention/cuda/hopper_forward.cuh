// Attention forward on Hopper, 16-bit, D up to 256: scores and outputs by wgmma, tiles by TMA.
//
// Decomposition: a block owns 64 queries per consumer warpgroup of one head and walks over the keys from the last tile
// (the only one that needs masking, bar causality) to the first. One warp brings tiles; each consumer keeps its rows'
// scores, weights and outputs in registers. Two overlaps hide the exponentials behind the tensor cores: a warpgroup
// issues the scores of the next tile before the weighted sum of this one, and takes softmax while that sum runs; and
// warpgroups take turns at issuing (named barriers), so that one computes exponentials while another multiplies.
// Layout: q, k and v are read where they are, any strides that TMA takes (multiples of 16 bytes); tiles are panels of
// 64 columns (hopper_ptx.cuh). Columns beyond D are zeros by TMA; where heads follow each other at odd places, TMA
// brings the neighbours' channels instead, and the producer clears them in q and k: 0 times Inf is not 0. (In v they
// only make columns of y that nobody stores.)
// Bound by: exponentials and tensor cores alike at D = 64, tensor cores above.
#pragma once

#include "ops/attention/cuda/call.cuh"
#include "ops/attention/cuda/hopper_rows.cuh"
#include "ops/attention/cuda/hopper_source.cuh"

namespace camo::flash::hopper {

template <class T>
struct ForwardCall : Sizes {
  Source q, k, v;
  Heads<T> out;
  float* log_sum_exp = nullptr;
  int blocks = 0, items = 0;
  bool clear = false;      // columns beyond the width hold other heads' numbers
  bool by_blocks = false;  // items in this order
};

/// kWidth: D rounded up, a multiple of 16. kGroups: consumer warpgroups, 64 queries each. kKeys: of a tile. kStages: of
/// keys and of values. kQueryStages: two, where they fit, fetch the queries of the next item early.
template <int kWidth_, int kGroups_, int kKeys_, int kStages_, int kQueryStages_ = 1>
struct ForwardTile {
  static constexpr int kWidth = kWidth_, kGroups = kGroups_, kKeys = kKeys_;
  static constexpr int kStages = kStages_, kQueryStages = kQueryStages_;
  static constexpr int kRows = 64 * kGroups, kThreads = kWarpgroup * (kGroups + 1);
  static constexpr int kPanels = (kWidth + kPanel - 1) / kPanel;
  static constexpr int kQueryPanel = kRows * 128, kKeyPanel = kKeys * 128;  // bytes
  static constexpr int kQueryBytes = kPanels * kQueryPanel, kTileBytes = kPanels * kKeyPanel;
  static constexpr int kBytes = kQueryStages * kQueryBytes + 2 * kStages * kTileBytes + 1024;  // and room to align
  static_assert(kKeyPanel % 1024 == 0);
  /// All 64K of a multiprocessor: the producer leaves its own to the consumers.
  static constexpr int kProducerRegisters = kGroups == 3 ? 32 : 24, kConsumerRegisters = kGroups == 3 ? 160 : 240;
};

/// What a block works on: 64 kGroups queries of one head.
template <class S, bool kCausal>
struct ForwardItem {
  int b, h, head, first_query;
  int tiles;  // of keys that any of the queries sees
  int whole;  // of these, before any that hides keys from a query

  template <class T>
  __device__ ForwardItem(const ForwardCall<T>& call, int item) {
    // By blocks, the last of which may hold few queries, or by heads, whose blocks share keys and values.
    const int all_heads = call.items / call.blocks, block = call.by_blocks ? item / all_heads : item % call.blocks;
    head = call.by_blocks ? item % all_heads : item / call.blocks;
    b = head / call.heads;
    h = head % call.heads;
    // Causal blocks differ in length: the longest first.
    first_query = (kCausal ? call.blocks - 1 - block : block) * S::kRows;
    tiles = (call.keys + S::kKeys - 1) / S::kKeys;
    whole = call.keys / S::kKeys;
    if constexpr (kCausal) {
      const int shift = call.keys - call.queries;
      const int seen = min(call.keys, min(call.queries, first_query + S::kRows) + shift);  // by the last query
      tiles = seen <= 0 ? 0 : (seen + S::kKeys - 1) / S::kKeys;
      whole = min(whole, max(0, first_query + 1 + shift) / S::kKeys);
    }
  }
};

template <class T, class S, bool kCausal>
__global__ void __launch_bounds__(S::kThreads, 1) hopper_forward_kernel(const __grid_constant__ ForwardCall<T> call) {
#ifdef CAMO_FLASH_HOPPER
  constexpr int kStages = S::kStages, kGroups = S::kGroups, kKeys = S::kKeys;
  extern __shared__ char dynamic[];
  char* const shared = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
  constexpr int kQueryStages = S::kQueryStages;
  __shared__ uint64_t barriers[3 * kQueryStages + 5 * kStages];
  const uint32_t first_barrier = shared_address(barriers);
  const auto barrier = [&](int kind, int stage) {
    return first_barrier + 8u * (3 * kQueryStages + kind * kStages + stage);
  };
  enum { kKeysFull, kKeysClean, kKeysFree, kValuesFull, kValuesFree };
  const auto query_full = [&](int stage) { return first_barrier + 24u * stage; };
  const auto query_clean = [&](int stage) { return first_barrier + 24u * stage + 8; };
  const auto query_free = [&](int stage) { return first_barrier + 24u * stage + 16; };
  const uint32_t query_tiles = shared_address(shared), key_tiles = query_tiles + kQueryStages * S::kQueryBytes,
                 value_tiles = key_tiles + kStages * S::kTileBytes;

  constexpr int kCleaners = kWarpgroup - 32;  // threads: all of the producer but its first warp
  const int group = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kQueryStages; ++s) {
      init_barrier(query_full(s), 1);
      init_barrier(query_clean(s), kCleaners);
      init_barrier(query_free(s), 4 * kGroups);
    }
    for (int s = 0; s < kStages; ++s) {
      init_barrier(barrier(kKeysFull, s), 1);
      init_barrier(barrier(kKeysClean, s), kCleaners);
      init_barrier(barrier(kKeysFree, s), 4 * kGroups);
      init_barrier(barrier(kValuesFull, s), 1);
      init_barrier(barrier(kValuesFree, s), 4 * kGroups);
    }
    publish_barriers();
  }
  __syncthreads();

  if (group == kGroups) {  // producer
    lower_registers<S::kProducerRegisters>();
    const int thread = threadIdx.x % kWarpgroup;
    int first_use = 0, round = 0;  // tiles and items so far
    for (int index = blockIdx.x; index < call.items; index += gridDim.x) {
      const ForwardItem<S, kCausal> item(call, index);
      const int tiles = item.tiles;
      if (tiles == 0) continue;
      const int query_stage = round % kQueryStages, query_phase = round / kQueryStages & 1;
      if (thread == 0) {
        const auto load = [&](const Source& source, uint32_t to, uint32_t full, uint32_t free, int tile, int use) {
          if (use >= kStages) wait(free, (use / kStages - 1) & 1);
          arrive_expecting(full, S::kTileBytes);
          for (int p = 0; p < S::kPanels; ++p) {
            source.load(to + p * S::kKeyPanel, full, p, item.b, item.h, (tiles - 1 - tile) * kKeys);
          }
        };
        const auto load_keys = [&](int tile) {
          const int use = first_use + tile, s = use % kStages;
          load(call.k, key_tiles + s * S::kTileBytes, barrier(kKeysFull, s), barrier(kKeysFree, s), tile, use);
        };
        const auto load_values = [&](int tile) {
          const int use = first_use + tile, s = use % kStages;
          load(call.v, value_tiles + s * S::kTileBytes, barrier(kValuesFull, s), barrier(kValuesFree, s), tile, use);
        };
        if (round >= kQueryStages) wait(query_free(query_stage), query_phase ^ 1);
        arrive_expecting(query_full(query_stage), S::kQueryBytes);
        for (int p = 0; p < S::kPanels; ++p) {
          call.q.load(query_tiles + query_stage * S::kQueryBytes + p * S::kQueryPanel, query_full(query_stage), p,
                      item.b, item.h, item.first_query);
        }
        load_keys(0);
        for (int tile = 1; tile < tiles; ++tile) {
          load_keys(tile);
          load_values(tile - 1);
        }
        load_values(tiles - 1);
      } else if (thread >= 32 && call.clear) {
        const int offset = call.q.offset(item.h);
        wait(query_full(query_stage), query_phase);
        clear_columns<S::kRows, S::kWidth, kCleaners>(shared + query_stage * S::kQueryBytes, S::kQueryPanel, offset,
                                                      call.width, thread - 32);
        fence_shared_for_async();
        arrive(query_clean(query_stage));
        for (int use = first_use; use < first_use + tiles; ++use) {
          const int s = use % kStages;
          wait(barrier(kKeysFull, s), use / kStages & 1);
          clear_columns<kKeys, S::kWidth, kCleaners>(shared + (key_tiles - query_tiles) + s * S::kTileBytes,
                                                     S::kKeyPanel, offset, call.width, thread - 32);
          fence_shared_for_async();
          arrive(barrier(kKeysClean, s));
        }
      }
      first_use += tiles;
      ++round;
    }
    return;
  }

  raise_registers<S::kConsumerRegisters>();
  const int lane = threadIdx.x % 32, row_in_item = 64 * group + threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
  const int keys_ready = call.clear ? kKeysClean : kKeysFull;
  const float unit = call.scale * kLog2E;
  const auto release = [&](uint32_t free) {
    if (lane == 0) arrive(free);
  };
  // Turns: a warpgroup waits at its own named barrier, where its predecessor arrives.
  const auto begin_turn = [&] { wait_named(1 + group, 2 * kWarpgroup); };
  const auto end_turn = [&] { arrive_named(1 + (group + 1) % kGroups, 2 * kWarpgroup); };
  if (group == kGroups - 1) end_turn();

  int stage = 0, phase = 0, round = 0;  // stage and phase: of the values
  for (int index = blockIdx.x; index < call.items; index += gridDim.x) {
    const ForwardItem<S, kCausal> item(call, index);
    float sums[S::kWidth / 2];
    RowState rows;
#pragma unroll
    for (int i = 0; i < S::kWidth / 2; ++i) sums[i] = 0;
    const bool idle = item.first_query + 64 * group >= call.queries;
    if (idle) {  // takes its turns, no more
      for (int tile = 0; tile < item.tiles; ++tile) {
        wait(barrier(kKeysFull, stage), phase);
        begin_turn();
        end_turn();
        release(barrier(kKeysFree, stage));
        wait(barrier(kValuesFull, stage), phase);
        release(barrier(kValuesFree, stage));
        if (++stage == kStages) stage = 0, phase ^= 1;
      }
      if (item.tiles > 0) release(query_free(round++ % kQueryStages));
    } else if (item.tiles > 0) {
      const int query_stage = round % kQueryStages;
      const uint64_t q = describe(query_tiles + query_stage * S::kQueryBytes + group * 8192, S::kQueryPanel);
      float scores[kKeys / 2], factor[2];
      uint32_t weights[kKeys / 4];
      const auto issue_scores = [&](int s) {
        const uint64_t k = describe(key_tiles + s * S::kTileBytes, S::kKeyPanel);
#pragma unroll
        for (int step = 0; step < S::kWidth / 16; ++step) {
          Product<T, kKeys>::template run<false, false>(scores, advance(q, column_step(step, S::kQueryPanel)),
                                                        advance(k, column_step(step, S::kKeyPanel)), step > 0);
        }
        commit_products();
      };
      const auto issue_sums = [&](int s) {
        const uint64_t v = describe(value_tiles + s * S::kTileBytes, S::kKeyPanel);
#pragma unroll
        for (int step = 0; step < kKeys / 16; ++step) {
          Product<T, S::kWidth>::template run<true>(sums, weights + 4 * step, advance(v, row_step(step)), 1);
        }
        commit_products();
      };
      const auto hide = [&](int tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          int end = call.keys;
          if constexpr (kCausal) {
            end = min(end, item.first_query + row_in_item + 8 * half + call.keys - call.queries + 1);
          }
          end -= tile * kKeys + lane % 4 * 2;
#pragma unroll
          for (int i = 0; i < kKeys / 2; i += 4) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (2 * i + e >= end) scores[i + 2 * half + e] = -INFINITY;
            }
          }
        }
      };

      wait(call.clear ? query_clean(query_stage) : query_full(query_stage), round / kQueryStages & 1);
      wait(barrier(keys_ready, stage), phase);
      begin_turn();
      fence_products();
      issue_scores(stage);
      end_turn();
      wait_products<0>();
      pin(scores);
      release(barrier(kKeysFree, stage));
      if (item.tiles > item.whole) hide(item.tiles - 1);
      take_softmax<kCausal>(scores, rows, factor, unit);
      pack_weights<T>(weights, scores);

      for (int tile = item.tiles - 2; tile >= 0; --tile) {
        int next = stage + 1, next_phase = phase;
        if (next == kStages) next = 0, next_phase ^= 1;
        wait(barrier(keys_ready, next), next_phase);
        begin_turn();
        pin(sums);
        pin(weights);
        fence_products();
        issue_scores(next);
        wait(barrier(kValuesFull, stage), phase);
        issue_sums(stage);
        end_turn();
        wait_products<1>();
        pin(scores);
        release(barrier(kKeysFree, next));
        if (tile >= item.whole) hide(tile);
        take_softmax<kCausal>(scores, rows, factor, unit);
        wait_products<0>();
        pin(sums);
        pin(weights);
        release(barrier(kValuesFree, stage));
#pragma unroll
        for (int i = 0; i < S::kWidth / 2; ++i) sums[i] *= factor[i / 2 % 2];
        pack_weights<T>(weights, scores);
        stage = next;
        phase = next_phase;
      }
      release(query_free(query_stage));
      wait(barrier(kValuesFull, stage), phase);
      pin(sums);
      pin(weights);
      fence_products();
      issue_sums(stage);
      wait_products<0>();
      pin(sums);
      release(barrier(kValuesFree, stage));
      if (++stage == kStages) stage = 0, phase ^= 1;
      ++round;
    }

    if (idle) continue;
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = quad_sum(rows.total[half]);
      inverse[half] = total == 0 ? 0.0f : 1 / total;
      const int query = item.first_query + row_in_item + 8 * half;
      if (lane % 4 == 0 && query < call.queries) {
        call.log_sum_exp[static_cast<int64_t>(item.head) * call.queries + query] =
            total == 0 ? -INFINITY : fmaf(rows.top[half], call.scale, logf(total));
      }
    }
    store_accumulators<T>(call.out, item.b, item.h, sums, inverse, item.first_query + 64 * group, call.queries,
                          call.width, call.v.offset(item.h));
  }
#else
  __trap();
#endif
}

template <class T, class S>
void launch_forward_tile(const Call<T>& call, int multiprocessors, cudaStream_t stream) {
  ForwardCall<T> all;
  static_cast<Sizes&>(all) = sizes_of(call);
  all.q = source_of(call.q, call.batch, call.queries, call.heads, call.width, S::kRows);
  all.k = source_of(call.k, call.batch, call.keys, call.heads, call.width, S::kKeys);
  all.v = source_of(call.v, call.batch, call.keys, call.heads, call.width, S::kKeys);
  all.out = call.out;
  all.log_sum_exp = call.log_sum_exp;
  all.blocks = (call.queries + S::kRows - 1) / S::kRows;
  all.items = all.blocks * call.batch * call.heads;
  all.clear = heads_are_merged(call.q) || heads_are_merged(call.k);
  constexpr int64_t kCached = 24 << 20;  // bytes of keys and values that surely stay in the L2 cache of 50 MiB
  all.by_blocks = int64_t{call.batch} * call.heads * call.keys * call.width * 4 <= kCached;
  const auto kernel = call.rules.causal ? hopper_forward_kernel<T, S, true> : hopper_forward_kernel<T, S, false>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kBytes);
  // Items of one length: a block takes several, fetching the next while it ends the one before. Of different lengths:
  // each to the next multiprocessor that is free.
  const int blocks = call.rules.causal ? all.items : std::min(all.items, multiprocessors);
  kernel<<<static_cast<unsigned>(blocks), S::kThreads, S::kBytes, stream>>>(all);
}

}  // namespace camo::flash::hopper
