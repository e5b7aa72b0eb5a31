#include "ops/attention/cuda/dispatch.cuh"
#include "ops/attention/cuda/f32_forward.cuh"
#include "ops/attention/cuda/f32_launch.cuh"
#include "ops/attention/cuda/f32_wgmma_forward.cuh"
#include "ops/attention/cuda/f32_whole_forward.cuh"

namespace camo::flash {
namespace halves {
namespace {

template <int kWidth, bool kImage, class Launch>
void forward_with_halves(const Call<float>& call, Device device, Launch&& launch) {
  cudaStream_t stream = cuda::use(device);
  const Workspace keys(call, call.keys, depth_row<kWidth, kImage>(), device);
  const Workspace values(call, call.keys, RowsLayout<kWidth>::kRow, device);
  SplitTasks tasks;
  tasks.heads = call.heads;
  tasks.width = call.width;
  tasks.task[0] = keys.task(call.k, call.keys, false);
  tasks.task[1] = values.task(call.v, call.keys, true);
  launch_split<kWidth, kImage>(tasks, 2, stream);
  launch(stream, keys.halves(), values.halves());
}

template <class Policy>
void launch_forward(const Call<float>& call, Device device) {
  if constexpr (Policy::kDense) {
    if (is_whole(call, device)) {
      return launch_whole(f32_whole_forward_kernel, WholeForward::kThreads, WholeForward::kBytes,
                          "f32_whole_forward_kernel", call, device);
    }
    if (is_wgmma(call, device)) {
      return dispatch_wgmma_width(call.width, [&]<int kWidth>() {
        using S = WgmmaForward<kWidth, wgmma_shape(kWidth).forward, wgmma_shape(kWidth).forward_blocks>;
        forward_with_halves<kWidth, true>(call, device, [&](cudaStream_t stream, const Halves& k, const Halves& v) {
          launch_rows<S>(f32_wgmma_forward_kernel<S>, "f32_wgmma_forward_kernel", call.queries, stream, call, k, v);
        });
      });
    }
  }
  dispatch_width(call.width, [&]<int kWidth>() {
    using S = ForwardTiling<kWidth, forward_shape<kWidth>()>;
    forward_with_halves<kWidth, false>(call, device, [&](cudaStream_t stream, const Halves& k, const Halves& v) {
      launch_rows<S>(f32_forward_kernel<S, Policy>, "f32_forward_kernel", call.queries, stream, call, k, v);
    });
  });
}

}  // namespace
}  // namespace halves

template <>
void forward<float>(const Call<float>& call, Device device) {
  if (halves::is_dense(call)) halves::launch_forward<Dense>(call, device);
  else halves::launch_forward<Ruled<float>>(call, device);
}

}  // namespace camo::flash
