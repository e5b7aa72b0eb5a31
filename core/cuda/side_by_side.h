// Independent work of an operation, side by side in recorded graphs.
//
//   cuda::side_by_side(device, {[&] { dx = ...; }, [&] { dweight = ...; }});
#pragma once

#include <initializer_list>

#include "core/cuda/recording.h"
#include "core/device.h"
#include "core/function_ref.h"

namespace camo::cuda {

#ifdef CAMO_WITH_CUDA
void record_side_by_side(Device device, std::initializer_list<FunctionRef<void()>> branches);
#endif

/// Calls the branches one after the other. Where this thread records, none of them waits in a launch for what another
/// queued on the device, and all that comes later waits for each of them: no branch may read or write what another one
/// writes, but may allocate and free memory as ever. Calls nest. After an exception the recording can't go on.
inline void side_by_side([[maybe_unused]] Device device, std::initializer_list<FunctionRef<void()>> branches) {
#ifdef CAMO_WITH_CUDA
  if (is_recording() && device.is_cuda()) return record_side_by_side(device, branches);
#endif
  for (const FunctionRef<void()>& branch : branches) branch();
}

}  // namespace camo::cuda
