// Attention forward on Hopper, 16-bit, of heads whose keys and values all fit in shared memory: D 49 to 64 up to 720
// keys, D 65 to 80 up to 144.
//
// Decomposition: a block has one head (or a range of its queries, where there are few heads). One thread asks for all
// keys and values at once, tile by tile, each tile with a barrier of its own that completes once: no ring, no producer.
// Each warpgroup takes 64 queries at a time and walks over the tiles. Warpgroups take turns (named barriers): while one
// has the scores of a tile and the weighted sum of the tile before in the tensor cores, the others compute
// exponentials.
//
// Layout: hopper_maps.cuh; panels as in hopper_ptx.cuh. Shared memory: 64 queries of each warpgroup, all tiles of keys,
// all tiles of values, ones. The columns of the head before, where heads begin at odd places, are cleared in q and k
// (0 times Inf is not 0); in v they make columns of y that nobody stores.
//
// Bound by: the latency of a turn, products and exponentials of a warpgroup following each other (N 400 and 676: tensor
// cores 32 and 46 %, exponentials 31 and 44 %, issue slots 29 and 37 %); with one tile, by that of launch, loads and
// stores. No gain: sums beside the exponentials of the next tile, polynomials for some of these, fewer warpgroups with
// longer tiles; without turns it takes 1 to 5 % longer.
#pragma once

#include "core/cuda/launch.cuh"
#include "ops/attention/cuda/hopper_maps.cuh"
#include "ops/attention/cuda/hopper_weights.cuh"

namespace camo::flash::hopper {

template <class T>
struct ResidentCall : Sizes {
  HeadMaps q, k, v;
  Heads<T> out;
  float* log_sum_exp = nullptr;
  int ranges = 1, range_tiles = 0;  // of a head's queries; tiles of 64 queries in each
};

/// kWidth: of boxes, a multiple of 16. kGroups: warpgroups. kKeys: of a tile. kOneTile: there is only one.
template <int kWidth_, int kGroups_, int kKeys_, bool kOneTile_ = false>
struct ResidentTile {
  static constexpr int kWidth = kWidth_, kGroups = kGroups_, kKeys = kKeys_, kThreads = kWarpgroup * kGroups;
  static constexpr bool kOneTile = kOneTile_;
  static constexpr int kPanels = (kWidth + kPanel - 1) / kPanel;
  static constexpr int kQueryPanel = 64 * 128, kKeyPanel = kKeys * 128;  // bytes
  static constexpr int kQueryBytes = kPanels * kQueryPanel, kTileBytes = kPanels * kKeyPanel;
  static constexpr int kFixedBytes = kGroups * kQueryBytes + kOnesBytes + 1024;  // and room to align
  static constexpr int kMostBytes = 227 * 1024 - 512;
  static constexpr int kMostTiles = kOneTile ? 1 : (kMostBytes - kFixedBytes) / (2 * kTileBytes);
  static_assert(kKeyPanel % 1024 == 0 && kMostTiles > 0);
  static constexpr int bytes(int tiles) { return kFixedBytes + 2 * tiles * kTileBytes; }
};

template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, 1) hopper_resident_kernel(const __grid_constant__ ResidentCall<T> call) {
#ifdef CAMO_FLASH_HOPPER
  cuda::wait_for_previous_kernel();
  constexpr int kGroups = S::kGroups, kKeys = S::kKeys;
  extern __shared__ char dynamic[];
  char* const shared = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
  __shared__ uint64_t barriers[kGroups + 3 * S::kMostTiles];
  const uint32_t first_barrier = shared_address(barriers);
  const auto query_full = [&](int group) { return first_barrier + 8u * group; };
  const auto keys_full = [&](int tile) { return first_barrier + 8u * (kGroups + 3 * tile); };
  const auto keys_clean = [&](int tile) { return first_barrier + 8u * (kGroups + 3 * tile + 1); };
  const auto values_full = [&](int tile) { return first_barrier + 8u * (kGroups + 3 * tile + 2); };
  const int tiles = S::kOneTile ? 1 : (call.keys + kKeys - 1) / kKeys;
  const uint32_t query_tiles = shared_address(shared), key_tiles = query_tiles + kGroups * S::kQueryBytes,
                 value_tiles = key_tiles + tiles * S::kTileBytes, ones = value_tiles + tiles * S::kTileBytes;
  const int head = blockIdx.x / call.ranges, b = head / call.heads, h = head % call.heads;
  const int first_item = blockIdx.x % call.ranges * call.range_tiles;
  const int end_item = min(first_item + call.range_tiles, (call.queries + 63) / 64);
  const auto load_queries = [&](int group, int item) {
    arrive_expecting(query_full(group), S::kQueryBytes);
    for (int p = 0; p < S::kPanels; ++p) {
      call.q.load(query_tiles + group * S::kQueryBytes + p * S::kQueryPanel, query_full(group), p, b, h, 64 * item);
    }
  };

  if (threadIdx.x == 0) {
    for (int g = 0; g < kGroups; ++g) init_barrier(query_full(g), 1);
    for (int tile = 0; tile < tiles; ++tile) {
      init_barrier(keys_full(tile), 1);
      init_barrier(keys_clean(tile), kWarpgroup);
      init_barrier(values_full(tile), 1);
    }
    publish_barriers();
    const auto load = [&](const HeadMaps& maps, uint32_t to, uint32_t full, int tile) {
      arrive_expecting(full, S::kTileBytes);
      for (int p = 0; p < S::kPanels; ++p) {
        maps.load(to + tile * S::kTileBytes + p * S::kKeyPanel, full, p, b, h, tile * kKeys);
      }
    };
    load_queries(0, first_item);
    load(call.k, key_tiles, keys_full(0), 0);
    for (int g = 1; g < kGroups && first_item + g < end_item; ++g) load_queries(g, first_item + g);
    for (int tile = 1; tile < tiles; ++tile) {
      load(call.k, key_tiles, keys_full(tile), tile);
      load(call.v, value_tiles, values_full(tile - 1), tile - 1);
    }
    load(call.v, value_tiles, values_full(tiles - 1), tiles - 1);
  }
  set_ones<T>(ones);
  __syncthreads();

  const int group = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0), lane = threadIdx.x % 32;
  const int row_in_item = threadIdx.x % kWarpgroup / 32 * 16 + lane / 4;
  const float unit = call.scale * kLog2E;
  const uint64_t q = describe(query_tiles + group * S::kQueryBytes, S::kQueryPanel);
  // Neighbours' columns in the keys are cleared by the warpgroups one after the other, a tile ahead of their use.
  const int offset = call.q.offset(h);
  const auto keys_ready = [&](int tile) { return offset > 0 ? keys_clean(tile) : keys_full(tile); };
  const auto clear_keys = [&](int tile) {
    if (offset == 0 || tile >= tiles || tile % kGroups != group) return;
    wait(keys_full(tile), 0);
    clear_before<kKeys, kWarpgroup>(shared + (key_tiles - query_tiles) + tile * S::kTileBytes, offset,
                                    threadIdx.x % kWarpgroup);
    fence_shared_for_async();
    arrive(keys_clean(tile));
  };
  // Turns: a warpgroup waits at its own named barrier, where its predecessor arrives.
  const auto begin_turn = [&] { wait_named(1 + group, 2 * kWarpgroup); };
  const auto end_turn = [&] { arrive_named(1 + (group + 1) % kGroups, 2 * kWarpgroup); };
  const auto meet_own_group = [&] { wait_named(1 + kGroups + group, kWarpgroup); };
  if (group == kGroups - 1) end_turn();

#pragma unroll 1
  for (int round = 0, first = first_item; first < end_item; ++round, first += kGroups) {
    const int item = first + group;
    if (item >= end_item) {  // takes its turns, no more
      for (int tile = 0; tile < tiles; ++tile) {
        if (round == 0) clear_keys(tile);
        begin_turn();
        end_turn();
      }
      continue;
    }
    float sums[S::kWidth / 2], scores[kKeys / 2];
    uint32_t weights[kKeys / 4];
    WeightedRows rows;
    const auto issue_scores = [&](int tile) {
      const uint64_t k = describe(key_tiles + tile * S::kTileBytes, S::kKeyPanel);
#pragma unroll
      for (int step = 0; step < S::kWidth / 16; ++step) {
        Product<T, kKeys>::template run<false, false>(scores, advance(q, column_step(step, S::kQueryPanel)),
                                                      advance(k, column_step(step, S::kKeyPanel)), step > 0);
      }
      commit_products();
    };
    const auto issue_sums = [&](int tile) {
      const uint64_t v = describe(value_tiles + tile * S::kTileBytes, S::kKeyPanel);
#pragma unroll
      for (int step = 0; step < kKeys / 16; ++step) {
        Product<T, S::kWidth>::template run<true>(sums, weights + 4 * step, advance(v, row_step(step)), 1);
        Product<T, 8>::template run<true>(rows.total, weights + 4 * step, describe(ones, 0), 1);
      }
      commit_products();
    };
    // The scores of the last tile are there: the queries are not needed any more, keys that do not exist are hidden.
    const auto end_scores = [&] {
      if (item + kGroups < end_item) {
        meet_own_group();
        if (threadIdx.x % kWarpgroup == 0) load_queries(group, item + kGroups);
      }
      if (tiles * kKeys > call.keys) hide_keys(scores, call.keys - (tiles - 1) * kKeys);
    };

    if (round == 0) clear_keys(0);
    wait(query_full(group), round & 1);
    if (offset > 0) {
      clear_before<64, kWarpgroup>(shared + group * S::kQueryBytes, offset, threadIdx.x % kWarpgroup);
      fence_shared_for_async();
      meet_own_group();
    }
    if (round == 0) clear_keys(1);
    wait(keys_ready(0), 0);
    begin_turn();
    fence_products();
    issue_scores(0);
    end_turn();
    wait_products<0>();
    pin(scores);
    if (tiles == 1) end_scores();
    take_first_weights<T>(weights, scores, rows, unit);
#pragma unroll
    for (int i = 0; i < S::kWidth / 2; ++i) sums[i] = 0;
    if constexpr (!S::kOneTile) {
#pragma unroll 1
      for (int tile = 1; tile < tiles; ++tile) {
        if (round == 0) clear_keys(tile + 1);
        wait(keys_ready(tile), 0);
        wait(values_full(tile - 1), 0);
        begin_turn();
        pin(sums);
        pin(rows.total);
        pin(weights);
        fence_products();
        issue_scores(tile);
        issue_sums(tile - 1);
        end_turn();
        wait_products<0>();
        pin(scores);
        pin(sums);
        pin(rows.total);
        pin(weights);
        if (tile + 1 == tiles) end_scores();
        take_weights<T>(weights, scores, rows, sums, unit);
      }
    }
    wait(values_full(tiles - 1), 0);
    pin(sums);
    pin(rows.total);
    pin(weights);
    fence_products();
    issue_sums(tiles - 1);
    wait_products<0>();
    pin(sums);
    pin(rows.total);
    float inverse[2];
    finish_rows(rows, inverse, call.log_sum_exp + int64_t{head} * call.queries, 64 * item + row_in_item, call.queries);
    store_rows<T>(call.out, b, h, sums, inverse, 64 * item, call.queries, call.width, call.v.offset(h));
  }
#else
  __trap();
#endif
}

}  // namespace camo::flash::hopper
