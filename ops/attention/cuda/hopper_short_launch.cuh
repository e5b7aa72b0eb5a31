// Which tiles hopper_short_backward.cuh uses, and its launch.
#pragma once

#include "core/cuda/runtime.h"
#include "ops/attention/cuda/hopper.h"
#include "ops/attention/cuda/hopper_short_backward.cuh"

namespace camo::flash {
namespace hopper {

/// Bytes of shared memory that a block may have.
inline constexpr int kSharedBytes = 227 * 1024;

template <class S>
bool fits_short(int queries, int keys, int width) {
  const ShortLayout<S> at(queries, keys, width);
  return at.bytes <= kSharedBytes && std::max(at.query_tiles, at.key_tiles) <= S::kMaxTiles;
}

template <class T, class S>
void launch_short_backward(const Call<T>& call, int processors, cudaStream_t stream) {
  ShortCall<T> all;
  static_cast<Sizes&>(all) = sizes_of(call);
  const auto box = [&](const Heads<const T>& x, int rows, int box_rows) {
    return source_of(x, call.batch, rows, call.heads, call.width, box_rows);
  };
  all.q = box(call.q, call.queries, S::kTile);
  all.k = box(call.k, call.keys, S::kTile);
  all.v = box(call.v, call.keys, S::kTile);
  all.dy = box(call.dy, call.queries, S::kTile);
  if constexpr (!S::kAll) {
    all.q_unit = box(call.q, call.queries, S::kUnit);
    all.k_unit = box(call.k, call.keys, S::kUnit);
    all.v_unit = box(call.v, call.keys, S::kUnit);
    all.dy_unit = box(call.dy, call.queries, S::kUnit);
  }
  all.dq = call.dq;
  all.dk = call.dk;
  all.dv = call.dv;
  all.y = call.y;
  all.dy_rows = call.dy;
  all.log_sum_exp = call.log_sum_exp;
  all.clear =
      heads_are_merged(call.q) || heads_are_merged(call.k) || heads_are_merged(call.v) || heads_are_merged(call.dy);
  const ShortLayout<S> at(call.queries, call.keys, call.width);
  const int heads = call.batch * call.heads;
  // Who computes a unit changes no bit of it. Each block of a head has at least a unit for each warpgroup.
  all.parts = std::clamp(processors / heads, 1, (std::max(at.query_units, at.key_units) + S::kGroups - 1) / S::kGroups);
  const auto kernel = hopper_short_backward_kernel<T, S>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  kernel<<<static_cast<unsigned>(heads * all.parts), S::kThreads, at.bytes, stream>>>(all);
}

/// Calls fn.template operator()<S>() with the first of these tiles that fits.
template <class S, class... Rest, class Fn>
void dispatch_fitting(int queries, int keys, int width, Fn&& fn) {
  if constexpr (sizeof...(Rest) > 0) {
    if (!fits_short<S>(queries, keys, width)) return dispatch_fitting<Rest...>(queries, keys, width, fn);
  }
  fn.template operator()<S>();
}

/// Calls fn.template operator()<S>() with the tiles for heads of this width, so many queries and keys.
template <class Fn>
void dispatch_short_tile(int queries, int keys, int width, Fn&& fn) {
  const auto window = packed_window(width);
  const auto dispatch = [&]<class... S>() { dispatch_fitting<S...>(queries, keys, width, fn); };
  if (window <= 32) {
    dispatch.template operator()<ShortTile<32, 32, 96, false, 2>, ShortTile<32, 32, 64, false>>();
  } else if (window <= 40) {
    dispatch.template operator()<ShortTile<48, 40, 144, false, 2, false>, ShortTile<48, 40, 64, false>>();
  } else if (window <= 48) {
    dispatch.template operator()<ShortTile<48, 48, 96, false, 2>, ShortTile<48, 48, 64, false>>();
  } else if (window <= 64) {
    dispatch.template operator()<ShortTile<64, 64, 80, false, 2>, ShortTile<64, 64, 80, false>>();
  } else {
    dispatch.template operator()<ShortTile<80, 80, 48, true>, ShortTile<80, 80, 48, false>>();
  }
}

}  // namespace hopper

template <class T>
bool hopper_takes_short(const Call<T>& call) {
  using namespace hopper;
  return is_loadable(call.q, call.batch, call.queries) && is_loadable(call.k, call.batch, call.keys) &&
         is_loadable(call.v, call.batch, call.keys) && is_loadable(call.dy, call.batch, call.queries);
}

template <class T>
void backward_hopper_short(const Call<T>& call, Device device) {
  using namespace hopper;
  cudaStream_t stream = cuda::use(device);
  dispatch_short_tile(call.queries, call.keys, call.width, [&]<class S>() {
    launch_short_backward<T, S>(call, cuda::device_info(device).multiprocessors, stream);
    CAMO_LAUNCHED("hopper_short_backward_kernel");
  });
}

}  // namespace camo::flash
