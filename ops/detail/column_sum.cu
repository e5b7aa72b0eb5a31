#include "ops/detail/column_sum.h"

#ifdef __CUDACC__
#include "ops/detail/reduce_device.cuh"
#endif

namespace camo::detail {

void column_sum_cuda([[maybe_unused]] const Tensor& out, [[maybe_unused]] const Tensor& x) {
#ifdef __CUDACC__
  const int64_t columns = x.size(-1);
  CAMO_ASSERT(x.is_contiguous() && out.is_contiguous() && out.numel() == columns);
  if (columns == 0) return;
  if (x.numel() == 0) return fill(out, 0);
  cuda::dispatch_floating(x.dtype(), "column_sum", [&]<class T>() {
    const auto reduce = [&]<class R>() {
      reduce_middle_cuda<SumReducer>(x.device(), DeviceElements<T>{x.data<T>()},
                                     StoreResult<R, Keep>{out.data<R>(), {}}, 1, x.numel() / columns, columns,
                                     "column_sum");
    };
    if (out.dtype() == x.dtype()) return reduce.template operator()<T>();
    CAMO_ASSERT(out.dtype() == f32 && x.dtype() != f64);
    if constexpr (!std::is_same_v<T, double> && !std::is_same_v<T, float>) reduce.template operator()<float>();
  });
#endif
}

}  // namespace camo::detail
