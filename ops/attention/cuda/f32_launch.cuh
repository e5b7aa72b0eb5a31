// Launches of the f32 attention kernels: workspaces, widths, policies.
#pragma once

#include <algorithm>

#include "core/tensor.h"
#include "ops/attention/cuda/f32_shapes.cuh"
#include "ops/attention/cuda/f32_whole.cuh"
#include "ops/attention/cuda/launch.h"

namespace camo::flash::halves {

/// Raises a kernel's limit of dynamic shared memory where its tiles need more than the default.
template <class Kernel>
void allow_shared(Kernel kernel, int bytes) {
  if (bytes > 48 * 1024) CAMO_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

/// Halves of one tensor, in memory that is given back when this goes: the stream orders its reuse.
class Workspace {
 public:
  Workspace(const Call<float>& call, int rows, int row_halves, Device device)
      : tiles_(tiles_of(rows)),
        heads_(int64_t{call.batch} * call.heads),
        rows_(empty({heads_ * tiles_ * kScaledRows * row_halves}, f16, device)),
        down_(empty({heads_ * tiles_}, f32, device)) {}

  Halves halves() const { return {reinterpret_cast<__half*>(rows_.data<Half>()), down_.data<float>(), tiles_}; }
  SplitTask task(const Heads<const float>& x, int rows, bool by_rows) const {
    SplitTask task;
    task.x = x;
    task.count = rows;
    task.halves = halves();
    task.blocks = static_cast<unsigned>(heads_ * tiles_);
    task.by_rows = by_rows;
    return task;
  }

 private:
  int tiles_;
  int64_t heads_;
  Tensor rows_, down_;
};

template <class ByDepth>
void launch_split(const SplitTasks& tasks, unsigned count, cudaStream_t stream) {
  unsigned blocks = 0;
  bool with_delta = false;
  for (unsigned i = 0; i < count; ++i) {
    blocks = std::max(blocks, tasks.task[i].blocks);
    with_delta |= tasks.task[i].numbers.rows != nullptr;
  }
  const int bytes = split_bytes<ByDepth::kWidth>(with_delta);
  allow_shared(split_rows_kernel<ByDepth>, bytes);
  split_rows_kernel<ByDepth><<<dim3(blocks, count), kSplitThreads, bytes, stream>>>(tasks);
  CAMO_LAUNCHED("split_rows_kernel");
}

/// Whether the kernels without rules compute it: they take the maximum before they scale.
inline bool is_dense(const Call<float>& call) {
  return call.rules.kind == MaskKind::none && !call.rules.causal && call.rules.dropout <= 0 && call.scale > 0;
}

/// Whether the kernels of f32_whole*.cuh take a call without rules. They fit the shared memory of capability 9.0.
inline bool is_whole(const Call<float>& call, Device device) {
  return !call.rounded && call.width > 40 && call.width <= WholeHead::kWidth &&
         std::max(call.queries, call.keys) <= WholeHead::kTokens && cuda::device_info(device).major == 9;
}
/// Whether those of f32_wgmma*.cuh take it.
inline bool is_wgmma(const Call<float>& call, Device device) {
  return call.width > kTiny && call.width <= kWidestWgmma && has_hopper_kernels(device);
}

inline void launch_whole(void (*kernel)(Call<float>), int threads, int bytes, const char* name, const Call<float>& call,
                         Device device) {
  cudaStream_t stream = cuda::use(device);
  allow_shared(kernel, bytes);
  kernel<<<static_cast<unsigned>(call.batch * call.heads), threads, bytes, stream>>>(call);
  CAMO_LAUNCHED(name);
}

/// What a kernel with queries of its own, or keys, is launched with.
template <class S, class Kernel, class... Arguments>
void launch_rows(Kernel kernel, const char* name, int rows, cudaStream_t stream, const Call<float>& call,
                 Arguments... arguments) {
  const int blocks = (rows + S::kRows - 1) / S::kRows;
  allow_shared(kernel, S::kBytes);
  kernel<<<static_cast<unsigned>(blocks * call.batch * call.heads), S::kThreads, S::kBytes, stream>>>(
      call, arguments..., blocks);
  CAMO_LAUNCHED(name);
}

}  // namespace camo::flash::halves
