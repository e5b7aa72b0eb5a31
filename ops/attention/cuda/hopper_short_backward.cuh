// Attention backward on Hopper for short sequences, 16-bit, without rules: all products by wgmma, one launch.
//
//   P = exp(scale q k^T - L),  dP = dy v^T,  dS = P * (dP - delta),  delta = rowsum(dy * y)
//   dq = scale dS k;   dv = P^T dy,  dk = scale dS^T q
//
// Decomposition: a block has one head (or, where heads are few, every few units of it). A unit is 64 queries, or 64
// keys, and all of the other: a warpgroup has the unit's sums in registers (dq, or dk and dv) while tiles of the other
// stream past in shared memory. Units of queries come first and leave delta for those of keys. Scores are made twice,
// seven products instead of five: in return no sum is shared by warpgroups, nothing but delta passes from one to
// another, and their products and exponentials overlap freely. Every sum has one order.
// Layout: panels, see hopper_ptx.cuh, of whole heads. Either all four tensors fit, and units are read where they lie;
// or two, first k and v, then q and dy, which replace them tile by tile, and units are brought beside them. Other
// heads' columns are set to zero by a warp that follows the loads.
// Bound by: two warpgroups waiting in turn, at a unit's beginning and end above all. On an H100, tensor cores, issue
// slots and exponentials are busy 51, 32 and 30 % of the time at D 64 N 676, 39, 27 and 22 % at N 400, 31, 30 and 26 %
// at D 36 N 576. Three warpgroups leave no registers for wide tiles and were no faster.
#pragma once

#include "ops/attention/cuda/hopper_short.cuh"

namespace camo::flash::hopper {

template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    hopper_short_backward_kernel(const __grid_constant__ ShortCall<T> call) {
#ifdef CAMO_FLASH_HOPPER
  constexpr int kTile = S::kTile, kGroups = S::kGroups, kMaxTiles = S::kMaxTiles;
  constexpr uint32_t kStep = kTile * 128;  // bytes from tile to tile
  extern __shared__ char dynamic[];
  char* const shared = dynamic + (1024 - shared_address(dynamic) % 1024) % 1024;
  const ShortLayout<S> at(call.queries, call.keys, call.width);
  const uint32_t base = shared_address(shared), first_barrier = base + at.barriers;
  enum { kKeysFull, kKeysClean, kQueriesFull, kQueriesClean, kFree };
  const auto barrier = [&](int kind, int tile) { return first_barrier + 8u * (kind * kMaxTiles + tile); };
  const uint32_t unit_barriers = first_barrier + 8 * 5 * kMaxTiles,
                 numbers_made = unit_barriers + 8 * kGroups * S::kBuffers;
  float2* const numbers = reinterpret_cast<float2*>(shared + at.numbers);

  const int head = blockIdx.x / call.parts, part = blockIdx.x % call.parts;
  const int b = head / call.heads, h = head % call.heads;
  const auto own = [&](int units) { return (units - part + call.parts - 1) / call.parts; };
  const bool by_keys = call.dk.data || call.dv.data;
  const int query_units = call.dq.data ? own(at.query_units) : 0, key_units = by_keys ? own(at.key_units) : 0;

  const int group = __shfl_sync(~0u, threadIdx.x / kWarpgroup, 0);
  constexpr int kLastBarrier = 5 * kMaxTiles + kGroups * S::kBuffers;
  if (threadIdx.x <= kLastBarrier) {  // a thread a barrier
    const int kind = threadIdx.x / kMaxTiles, tile = threadIdx.x % kMaxTiles;
    const bool clean = kind == kKeysClean || kind == kQueriesClean;
    int arrivals = clean ? 32 : 1;
    if (kind == kFree) arrivals = max(min(kGroups, query_units), 1);
    if (threadIdx.x == kLastBarrier)
      arrivals = at.query_units * kWarpgroup;  // not one for all: racecheck follows these
    // Tools follow few barriers, so only those used are made.
    const int tiles = kind == kQueriesFull || kind == kQueriesClean ? at.query_tiles : at.key_tiles;
    if (kind > kFree || (tile < tiles && (!clean || call.clear) && (kind != kFree || !S::kAll))) {
      init_barrier(first_barrier + 8 * threadIdx.x, arrivals);
      publish_barriers();
    }
  }
  for (int i = at.query_units * S::kUnit + threadIdx.x; i < at.query_tiles * kTile; i += S::kThreads) {
    numbers[i] = make_float2(-INFINITY, 0);  // no weight
  }
  __syncthreads();

  if (group == kGroups) {  // loads and clears
    lower_registers<kGroups == 2 ? 24 : 32>();
    const int helper = threadIdx.x / 32 - kGroups * 4, lane = threadIdx.x % 32;
    const auto load_keys = [&](int tile) {
      arrive_expecting(barrier(kKeysFull, tile), 2 * S::kPanels * kStep);
      for (int p = 0; p < S::kPanels; ++p) {
        call.k.load(base + at.keys + p * at.key_panel + tile * kStep, barrier(kKeysFull, tile), p, b, h, tile * kTile);
        call.v.load(base + at.values + p * at.key_panel + tile * kStep, barrier(kKeysFull, tile), p, b, h,
                    tile * kTile);
      }
    };
    const auto load_queries = [&](int tile) {
      arrive_expecting(barrier(kQueriesFull, tile), 2 * S::kPanels * kStep);
      for (int p = 0; p < S::kPanels; ++p) {
        call.q.load(base + at.queries + p * at.query_panel + tile * kStep, barrier(kQueriesFull, tile), p, b, h,
                    tile * kTile);
        call.dy.load(base + at.grads + p * at.query_panel + tile * kStep, barrier(kQueriesFull, tile), p, b, h,
                     tile * kTile);
      }
    };
    const bool uses_keys = S::kAll || query_units > 0, uses_queries = S::kAll || key_units > 0;
    if (helper == 0 && lane == 0) {
      if constexpr (S::kAll) {
        for (int tile = 0; tile < max(at.key_tiles, at.query_tiles); ++tile) {
          if (tile < at.query_tiles) load_queries(tile);
          if (tile < at.key_tiles) load_keys(tile);
        }
      } else {
        for (int tile = 0; tile < at.key_tiles && uses_keys; ++tile) load_keys(tile);
        for (int tile = 0; tile < at.query_tiles && uses_queries; ++tile) {
          if (uses_keys && tile < at.key_tiles) wait(barrier(kFree, tile), 0);
          load_queries(tile);
        }
      }
    } else if (call.clear && (helper == 1 || helper == 2)) {
      const bool keys = helper == 1;
      const int offset = call.q.offset(h), count = keys ? at.key_tiles : at.query_tiles;
      const uint32_t panel = keys ? at.key_panel : at.query_panel;
      for (int tile = 0; tile < count && (keys ? uses_keys : uses_queries); ++tile) {
        wait(barrier(keys ? kKeysFull : kQueriesFull, tile), 0);
        clear_columns<kTile, S::kDepth, 32>(shared + (keys ? at.keys : at.queries) + tile * kStep, panel, offset,
                                            call.width, lane);
        clear_columns<kTile, S::kDepth, 32>(shared + (keys ? at.values : at.grads) + tile * kStep, panel, offset,
                                            call.width, lane);
        fence_shared_for_async();
        arrive(barrier(keys ? kKeysClean : kQueriesClean, tile));
      }
    }
    return;
  }

  raise_registers<kGroups == 2 ? 240 : 160>();
  const int thread = threadIdx.x % kWarpgroup, lane = thread % 32, t = lane % 4;
  const int row = thread / 32 * 16 + lane / 4;  // of the unit: this one and + 8
  const float unit_scale = call.scale * kLog2E;
  const int keys_ready = call.clear ? kKeysClean : kKeysFull, queries_ready = call.clear ? kQueriesClean : kQueriesFull;
  const auto unit_tiles = [&](int buffer) { return base + at.units + (group * S::kBuffers + buffer) * S::kUnitBytes; };
  const auto unit_full = [&](int buffer) { return unit_barriers + 8u * (group * S::kBuffers + buffer); };
  const int total = query_units + key_units;
  // Units: those of queries, then those of keys, dealt to the warpgroups in turn.
  const auto number_of = [&](int i) { return part + call.parts * (i < query_units ? i : i - query_units); };
  const auto load_unit = [&](int i) {
    if (S::kAll || i >= total || thread != 0) return;
    const int first = number_of(i) * S::kUnit, buffer = i / kGroups % S::kBuffers;
    const uint32_t full = unit_full(buffer);
    arrive_expecting(full, S::kUnitBytes);
    for (int p = 0; p < S::kPanels; ++p) {
      const uint32_t to = unit_tiles(buffer) + p * S::kUnitPanel, second = to + S::kPanels * S::kUnitPanel;
      if (i < query_units) {
        call.q_unit.load(to, full, p, b, h, first);
        call.dy_unit.load(second, full, p, b, h, first);
      } else {
        call.k_unit.load(to, full, p, b, h, first);
        call.v_unit.load(second, full, p, b, h, first);
      }
    }
  };
  int tiles_seen[2] = {0, 0};

  ShortNumbers<T, S::kOut> own_numbers;
  const auto load_numbers = [&](int i) {
    if (i < query_units) own_numbers.load(call, head, b, h, number_of(i) * S::kUnit);
  };

  const auto run = [&]<bool kByKeys>(int i) {
    constexpr int kHalf = kTile / 2;
    const int first = number_of(i) * S::kUnit;
    const int tiles = kByKeys ? at.query_tiles : at.key_tiles, ready = kByKeys ? queries_ready : keys_ready;
    const uint32_t panel = kByKeys ? at.query_panel : at.key_panel;  // of what streams
    const uint64_t b_first = describe(base + (kByKeys ? at.queries : at.keys), panel),
                   b_second = describe(base + (kByKeys ? at.grads : at.values), panel);

    // The unit's own rows.
    const int buffer = i / kGroups % S::kBuffers;
    uint32_t own_panel = S::kUnitPanel, own_first = unit_tiles(buffer),
             own_second = own_first + S::kPanels * S::kUnitPanel;
    if constexpr (S::kAll) {
      own_panel = kByKeys ? at.key_panel : at.query_panel;
      own_first = base + (kByKeys ? at.keys : at.queries) + first * 128;
      own_second = base + (kByKeys ? at.values : at.grads) + first * 128;
      const int last = min((first + S::kUnit - 1) / kTile, (kByKeys ? at.key_tiles : at.query_tiles) - 1);
      for (int tile = first / kTile; tile <= last; ++tile) {
        wait(barrier(kByKeys ? keys_ready : queries_ready, tile), 0);
      }
    } else {
      if constexpr (S::kBuffers > 1) load_unit(i + kGroups);
      wait(unit_full(buffer), i / kGroups / S::kBuffers & 1);
      if (call.clear) {
        char* tile = shared + (own_first - base);
        const int offset = call.q.offset(h);
        clear_columns<S::kUnit, S::kDepth, kWarpgroup>(tile, S::kUnitPanel, offset, call.width, thread);
        clear_columns<S::kUnit, S::kDepth, kWarpgroup>(tile + S::kPanels * S::kUnitPanel, S::kUnitPanel, offset,
                                                       call.width, thread);
        fence_shared_for_async();
        wait_named(1 + group, kWarpgroup);
      }
    }
    const uint64_t a_first = describe(own_first, own_panel), a_second = describe(own_second, own_panel);
    float sums[S::kOut / 2], value_sums[kByKeys ? S::kOut / 2 : 1];
    uint32_t weights[kByKeys ? kHalf / 2 : 1], grads[kHalf / 2];  // P and dS, packed
    float log_sum[2], delta[2];

    // Begins the product of the unit's rows and a tile's: a group.
    const auto start = [&](float(&to)[kHalf], uint64_t a, uint64_t x) {
      fence_products();
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        Product<T, kTile>::template run<false, false>(to, advance(a, column_step(step, own_panel)),
                                                      advance(x, column_step(step, panel)), step > 0);
      }
      commit_products();
    };
    // -L and -delta of registers n and n + 1, which belong to two queries where columns are queries.
    const auto number = [&](int tile, int n) {
      return *reinterpret_cast<const float4*>(numbers + tile * kTile + n * 2 + 2 * t);
    };
    const auto take_weights = [&](int tile, float(&scores)[kHalf]) {
#pragma unroll
      for (int n = 0; n < kHalf; n += 4) {
        float low[2] = {log_sum[0], log_sum[1]}, high[2] = {log_sum[0], log_sum[1]};  // [row] of columns 2 t, 2 t + 1
        if constexpr (kByKeys) {
          const float4 x = number(tile, n);
          low[0] = low[1] = x.x;
          high[0] = high[1] = x.z;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          scores[n + 2 * half] = exp2_unit(fmaf(scores[n + 2 * half], unit_scale, low[half]));
          scores[n + 2 * half + 1] = exp2_unit(fmaf(scores[n + 2 * half + 1], unit_scale, high[half]));
        }
      }
      if constexpr (!kByKeys) {  // keys beyond the last have a score of 0, which may be large beside the row's others
        const int count = call.keys - tile * kTile - 2 * t;
        if (count + 2 * t < kTile) {
#pragma unroll
          for (int n = 0; n < kHalf; ++n) {
            if (n / 4 * 8 + n % 2 >= count) scores[n] = 0;
          }
        }
      }
    };
    const auto take_grads = [&](int tile, const float(&scores)[kHalf], float(&products)[kHalf]) {
#pragma unroll
      for (int n = 0; n < kHalf; n += 4) {
        float low[2] = {delta[0], delta[1]}, high[2] = {delta[0], delta[1]};
        if constexpr (kByKeys) {
          const float4 x = number(tile, n);
          low[0] = low[1] = x.y;
          high[0] = high[1] = x.w;
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          products[n + 2 * half] = scores[n + 2 * half] * (products[n + 2 * half] + low[half]);
          products[n + 2 * half + 1] = scores[n + 2 * half + 1] * (products[n + 2 * half + 1] + high[half]);
        }
      }
    };
    const auto add = [&](int tile, const float(&scores)[kHalf], const float(&products)[kHalf]) {
#pragma unroll
      for (int n = 0; n < kHalf / 2; ++n) {
        grads[n] = pack<T>(products[2 * n], products[2 * n + 1]);
        if constexpr (kByKeys) weights[n] = pack<T>(scores[2 * n], scores[2 * n + 1]);
      }
      const uint64_t x = advance(b_first, tile * kStep), z = advance(b_second, tile * kStep);
      pin(grads);
      pin(sums);
      if constexpr (kByKeys) {
        pin(weights);
        pin(value_sums);
      }
      fence_products();
#pragma unroll
      for (int step = 0; step < kTile / 16; ++step) {
        if constexpr (kByKeys) {
          Product<T, S::kOut>::template run<true>(value_sums, weights + 4 * step, advance(z, row_step(step)),
                                                  tile > 0 || step > 0);
        }
        Product<T, S::kOut>::template run<true>(sums, grads + 4 * step, advance(x, row_step(step)),
                                                tile > 0 || step > 0);
      }
      commit_products();
    };
    const auto added = [&] {  // the sums of the tile before are there
      pin(sums);
      pin(grads);
      if constexpr (kByKeys) {
        pin(value_sums);
        pin(weights);
      }
    };
    const bool frees = !S::kAll && !kByKeys && i + kGroups >= query_units && key_units > 0;
    const auto release = [&](int tile) {  // by the last warp: others' products may still be reading
      if (!frees) return;
      wait_named(1 + group, kWarpgroup);
      if (thread == 0) arrive(barrier(kFree, tile));
    };

    float scores[kHalf], products[kHalf];
    if constexpr (kByKeys) {
      wait(numbers_made, 0);
    } else {
      own_numbers.store(call, h, first, numbers, at.query_tiles * kTile);
      wait_named(1 + group, kWarpgroup);
      arrive(numbers_made);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 x = numbers[min(first + row + 8 * half, at.query_tiles * kTile - 1)];
        log_sum[half] = x.x;
        delta[half] = x.y;
      }
    }
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
      if (tile >= tiles_seen[kByKeys]) {
        wait(barrier(ready, tile), 0);
        tiles_seen[kByKeys] = tile + 1;
      }
      start(scores, a_first, advance(b_first, tile * kStep));
      start(products, a_second, advance(b_second, tile * kStep));
      wait_products<1>();
      if constexpr (S::kOverlap) {
        added();
        if (tile > 0) release(tile - 1);
      }
      pin(scores);
      take_weights(tile, scores);
      wait_products<0>();
      pin(products);
      take_grads(tile, scores, products);
      add(tile, scores, products);
      if constexpr (!S::kOverlap) {
        wait_products<0>();
        added();
        release(tile);
      }
    }
    if constexpr (!kByKeys) load_numbers(i + kGroups);
    if constexpr (S::kOverlap) {
      wait_products<0>();
      added();
      release(tiles - 1);
    }
    // The unit's tiles now hold what is stored.
    if constexpr (!S::kAll) wait_named(1 + group, kWarpgroup);
    const uint32_t room = S::kAll ? base + at.units + group * 4 * S::kStageBytes : unit_tiles(buffer);
    T* const stage = reinterpret_cast<T*>(shared + (room - base) + thread / 32 * S::kStageBytes);
    const int offset = call.q.offset(h);
    const auto store = [&](const Heads<T>& out, const float(&x)[S::kOut / 2], float factor) {
      const int count = kByKeys ? call.keys : call.queries;
      if (at.is_staged(call.width)) {
        store_accumulators_staged<T>(out, b, h, x, factor, first, count, call.width, offset, stage);
      } else {
        const float factors[2] = {factor, factor};
        store_accumulators<T>(out, b, h, x, factors, first, count, call.width, offset);
      }
    };
    if constexpr (kByKeys) {
      if (call.dv.data) store(call.dv, value_sums, 1);
      if (call.dk.data) store(call.dk, sums, call.scale);
    } else {
      store(call.dq, sums, call.scale);
    }
    if constexpr (!S::kAll) {
      fence_shared_for_async();
      wait_named(1 + group, kWarpgroup);
      if constexpr (S::kBuffers == 1) load_unit(i + kGroups);
    }
  };

  load_unit(group);
  load_numbers(group);
  int i = group;
  for (; i < query_units; i += kGroups) run.template operator()<false>(i);
  // delta of queries that are no units of this block's.
  for (int unit = group; unit < at.query_units && by_keys; unit += kGroups) {
    if (query_units > 0 && unit % call.parts == part) continue;
    own_numbers.load(call, head, b, h, unit * S::kUnit);
    own_numbers.store(call, h, unit * S::kUnit, numbers, at.query_tiles * kTile);
    arrive(numbers_made);
  }
  for (; i < total; i += kGroups) run.template operator()<true>(i);
#else
  __trap();
#endif
}

}  // namespace camo::flash::hopper
