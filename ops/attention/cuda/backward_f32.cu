#include "ops/attention/cuda/dispatch.cuh"
#include "ops/attention/cuda/f32_backward.cuh"
#include "ops/attention/cuda/f32_launch.cuh"
#include "ops/attention/cuda/f32_wgmma_backward.cuh"
#include "ops/attention/cuda/f32_whole_backward.cuh"

namespace camo::flash {
namespace halves {
namespace {

template <class Layout, class Launch>
void backward_with_halves(const Call<float>& call, Device device, Launch&& launch) {
  cudaStream_t stream = cuda::use(device);
  constexpr int kRow = Layout::kRow;
  const Workspace q(call, call.queries, kRow, device), k(call, call.keys, kRow, device);
  const Workspace v(call, call.keys, kRow, device), dy(call, call.queries, kRow, device);
  const int64_t tiles = int64_t{call.batch} * call.heads * tiles_of(call.queries);
  const Tensor row_numbers = empty({tiles * kScaledRows, 2}, f32, device), largest = empty({tiles}, f32, device);
  const RowNumbers numbers{reinterpret_cast<float2*>(row_numbers.data<float>()), largest.data<float>()};
  SplitTasks tasks;
  tasks.heads = call.heads;
  tasks.width = call.width;
  tasks.task[0] = q.task(call.q, call.queries, false);
  tasks.task[1] = k.task(call.k, call.keys, false);
  tasks.task[2] = v.task(call.v, call.keys, false);
  tasks.task[3] = dy.task(call.dy, call.queries, false);
  tasks.task[3].numbers = numbers;
  tasks.task[3].y = call.y;
  tasks.task[3].log_sum_exp = call.log_sum_exp;
  launch_split<Layout>(tasks, 4, stream);
  launch(stream, q.halves(), k.halves(), v.halves(), dy.halves(), numbers);
}

template <class Policy>
void launch_backward(const Call<float>& call, Device device) {
  const bool keys = call.dk.data || call.dv.data, queries = call.dq.data;
  if constexpr (Policy::kDense) {
    if (is_whole(call, device)) {
      return launch_whole(f32_whole_backward_kernel, WholeBackward::kThreads, WholeBackward::kBytes,
                          "f32_whole_backward_kernel", call, device);
    }
    if (is_wgmma(call, device)) {
      return dispatch_wgmma(call.width, call.rounded, [&]<int kWidth, int kParts>() {
        constexpr WgmmaShape kShape = wgmma_shape(kWidth, kParts);
        using Keys = WgmmaBackward<kWidth, kParts, kShape.keys, kShape.keys_blocks>;
        using Queries = WgmmaBackward<kWidth, kParts, kShape.queries, kShape.queries_blocks>;
        backward_with_halves<typename Keys::Layout>(
            call, device,
            [&](cudaStream_t stream, const Halves& q, const Halves& k, const Halves& v, const Halves& dy,
                const RowNumbers& numbers) {
              if (keys) {
                launch_rows<Keys>(f32_wgmma_backward_keys_kernel<Keys>, "f32_wgmma_backward_keys_kernel", call.keys,
                                  stream, call, q, dy, numbers);
              }
              if (queries) {
                launch_rows<Queries>(f32_wgmma_backward_queries_kernel<Queries>, "f32_wgmma_backward_queries_kernel",
                                     call.queries, stream, call, k, v, numbers);
              }
            });
      });
    }
  }
  dispatch_width(call.width, [&]<int kWidth>() {
    using S = BackwardTiling<kWidth, backward_shape<kWidth>()>;
    backward_with_halves<typename S::Layout>(
        call, device,
        [&](cudaStream_t stream, const Halves& q, const Halves& k, const Halves& v, const Halves& dy,
            const RowNumbers& numbers) {
          const auto launch_keys = [&]<bool kKeys, bool kValues>() {
            launch_rows<S>(f32_backward_keys_kernel<S, Policy, kKeys, kValues>, "f32_backward_keys_kernel", call.keys,
                           stream, call, q, dy, numbers);
          };
          if constexpr (kWidth <= 128) {
            if (keys) launch_keys.template operator()<true, true>();
          } else {
            if (call.dk.data) launch_keys.template operator()<true, false>();
            if (call.dv.data) launch_keys.template operator()<false, true>();
          }
          if (queries) {
            launch_rows<S>(f32_backward_queries_kernel<S, Policy>, "f32_backward_queries_kernel", call.queries, stream,
                           call, k, v, numbers);
          }
        });
  });
}

}  // namespace
}  // namespace halves

template <>
void backward<float>(const Call<float>& call, Device device) {
  if (halves::is_dense(call)) halves::launch_backward<Dense>(call, device);
  else halves::launch_backward<Ruled<float>>(call, device);
}

}  // namespace camo::flash
