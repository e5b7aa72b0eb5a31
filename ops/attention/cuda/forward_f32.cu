#include "ops/attention/cuda/dispatch.cuh"
#include "ops/attention/cuda/f32_forward.cuh"
#include "ops/attention/cuda/f32_launch.cuh"
#include "ops/attention/cuda/f32_wgmma_forward.cuh"
#include "ops/attention/cuda/f32_whole_forward.cuh"

namespace camo::flash {
namespace halves {
namespace {

template <class S, class Kernel>
void forward_with_halves(const Call<float>& call, Device device, Kernel kernel, const char* name) {
  cudaStream_t stream = cuda::use(device);
  const Workspace keys(call, call.keys, S::Keys::kRow, device), values(call, call.keys, S::Values::kRow, device);
  SplitTasks tasks;
  tasks.heads = call.heads;
  tasks.width = call.width;
  tasks.task[0] = keys.task(call.k, call.keys, false);
  tasks.task[1] = values.task(call.v, call.keys, true);
  launch_split<typename S::Keys>(tasks, 2, stream);
  launch_rows<S>(kernel, name, call.queries, stream, call, keys.halves(), values.halves());
}

template <class Policy>
void launch_forward(const Call<float>& call, Device device) {
  if constexpr (Policy::kDense) {
    if (is_whole(call, device)) {
      return launch_whole(f32_whole_forward_kernel, WholeForward::kThreads, WholeForward::kBytes,
                          "f32_whole_forward_kernel", call, device);
    }
    if (is_wgmma(call, device)) {
      return dispatch_wgmma(call.width, call.rounded, [&]<int kWidth, int kParts>() {
        constexpr WgmmaShape kShape = wgmma_shape(kWidth, kParts);
        using S = WgmmaForward<kWidth, kParts, kShape.forward, kShape.forward_blocks>;
        forward_with_halves<S>(call, device, f32_wgmma_forward_kernel<S>, "f32_wgmma_forward_kernel");
      });
    }
  }
  dispatch_width(call.width, [&]<int kWidth>() {
    using S = ForwardTiling<kWidth, forward_shape<kWidth>()>;
    forward_with_halves<S>(call, device, f32_forward_kernel<S, Policy>, "f32_forward_kernel");
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
