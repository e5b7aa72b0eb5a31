// Conditions of a recorded graph, set from indices on the device. One thread each: there are as many as experts.
#include <algorithm>

#include "core/cuda/graph.h"
#include "core/cuda/kernels.cuh"

namespace camo::cuda {

namespace {

constexpr size_t kMostConditions = 64;

struct ConditionTable {
  cudaGraphConditionalHandle handles[kMostConditions];
};

/// Thread c sets condition c; exactly one thread writes each.
__global__ void set_conditions_kernel(const __grid_constant__ ConditionTable table, const int64_t* indices,
                                      int64_t count) {
  bool chosen = false;
  for (int64_t i = 0; i < count; ++i) chosen = chosen || indices[i] == static_cast<int64_t>(threadIdx.x);
  cudaGraphSetConditional(table.handles[threadIdx.x], chosen ? 1 : 0);
}

}  // namespace

void GraphBuilder::set_conditions(const std::vector<Condition>& conditions, const Tensor& indices) const {
  CAMO_CHECK(conditions.size() <= kMostConditions, "graph: at most ", kMostConditions,
             " conditions are set at once; got ", conditions.size());
  if (conditions.empty()) return;
  ConditionTable table{};
  std::copy(conditions.begin(), conditions.end(), table.handles);
  set_conditions_kernel<<<1, static_cast<unsigned>(conditions.size()), 0, use(device_)>>>(
      table, indices.data<int64_t>(), indices.numel());
  CAMO_LAUNCHED("set_conditions");
}

}  // namespace camo::cuda
