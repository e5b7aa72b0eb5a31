// Which tiles hopper_forward.cuh uses, and its launches.
#pragma once

#include "ops/attention/cuda/hopper.h"
#include "ops/attention/cuda/hopper_forward.cuh"

namespace camo::flash {
namespace hopper {

/// Of these key tiles, that which pads the keys least; each costs about 16 keys more than it holds.
template <int kFirst, int... kRest>
int best_key_tile(int keys) {
  int best = kFirst;
  const auto cost = [&](int tile) { return (keys + tile - 1) / tile * (tile + 16); };
  ((cost(kRest) < cost(best) ? best = kRest : best), ...);
  return best;
}

/// Calls fn.template operator()<ForwardTile>() with the tile for boxes of `width` columns.
///
/// 192 queries where registers allow (160 a thread: kKeys / 2 scores, kKeys / 4 words of weights, kWidth / 2 sums and
/// about 25 more), else 128 (240). Stages of keys and values by shared memory (227 KiB).
template <class Fn>
void dispatch_forward_tile(int width, int keys, Fn&& fn) {
  if (width <= 16) return fn.template operator()<ForwardTile<16, 3, 160, 2, 2>>();
  if (width <= 32) return fn.template operator()<ForwardTile<32, 3, 128, 2, 2>>();
  if (width <= 48) return fn.template operator()<ForwardTile<48, 3, 144, 2, 2>>();
  if (width <= 64) {
    if (best_key_tile<128, 80>(keys) == 128) return fn.template operator()<ForwardTile<64, 3, 128, 2, 2>>();
    return fn.template operator()<ForwardTile<64, 3, 80, 3, 2>>();
  }
  if (width <= 80) return fn.template operator()<ForwardTile<80, 3, 80, 2>>();
  if (width <= 128) {
    if (best_key_tile<176, 128>(keys) == 176) return fn.template operator()<ForwardTile<128, 2, 176, 2>>();
    return fn.template operator()<ForwardTile<128, 2, 128, 2>>();
  }
  if (width <= 192) return fn.template operator()<ForwardTile<192, 2, 96, 2>>();
  return fn.template operator()<ForwardTile<256, 2, 80, 2>>();
}

}  // namespace hopper

template <class T>
bool hopper_takes_forward(const Call<T>& call) {
  using namespace hopper;
  return call.rules.kind == MaskKind::none && call.rules.dropout <= 0 && call.scale > 0 &&
         boxed_width(call.width, call.heads, call.q, call.v) <= tile_width(call.width) &&
         offsets_agree(call.q, call.k) && is_loadable(call.q, call.batch, call.queries) &&
         is_loadable(call.k, call.batch, call.keys) && is_loadable(call.v, call.batch, call.keys);
}

template <class T>
void forward_hopper(const Call<T>& call, Device device) {
  using namespace hopper;
  cudaStream_t stream = cuda::use(device);
  dispatch_forward_tile(tile_width(call.width), call.keys, [&]<class S>() {
    launch_forward_tile<T, S>(call, cuda::device_info(device).multiprocessors, stream);
    CAMO_LAUNCHED("hopper_forward_kernel");
  });
}

}  // namespace camo::flash
