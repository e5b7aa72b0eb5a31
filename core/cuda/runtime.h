// The CUDA runtime, wrapped: checked calls, the streams of a device, events, pinned memory, profiler ranges.
//
// Only builds with CUDA compile this (CAMO_WITH_CUDA). All work of an operation goes to the compute stream of its
// tensors' device; memory is reused in that stream's order. Nothing here synchronises unless its name says so.
#pragma once

#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <cstdint>
#include <string>

#include "core/device.h"

/// Throws camo::Error (device) naming the call, its file and line when a CUDA runtime call fails.
#define CAMO_CUDA(call) ::camo::cuda::check((call), #call, __FILE__, __LINE__)
/// Stands after every kernel launch. With CAMO_SYNC=1 in the environment it waits for the kernel, so that an error is
/// reported by the launch that caused it.
#define CAMO_LAUNCHED(kernel) ::camo::cuda::check_launch(kernel, __FILE__, __LINE__)

namespace camo::cuda {

void check(cudaError_t status, const char* call, const char* file, int line);
void check_launch(const char* kernel, const char* file, int line);

int device_count();
/// Makes `device` current on this thread and returns its compute stream.
cudaStream_t use(Device device);
/// The stream for copies between host and device that overlap with computing.
cudaStream_t copy_stream(Device device);
/// Waits for all work on a device's streams.
void synchronize(Device device);

/// What kernels need to know of a device, read once.
struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int64_t total_bytes = 0;
  int64_t shared_bytes = 0;  // of shared memory that a block may have
};
const DeviceInfo& device_info(Device device);
/// What kernels may use on a device: its compute capability, major * 10 + minor, or the one they were compiled for
/// where the driver compiles PTX of an older one.
int usable_capability(Device device);

/// A point in a stream that another stream, or the host, can wait for.
class Event {
 public:
  explicit Event(bool with_time = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  /// In recorded work each launch reaches the event anew.
  void record(cudaStream_t stream);
  /// Later work of `stream` waits for this event.
  void block(cudaStream_t stream) const;
  void synchronize() const;
  /// Milliseconds between two events made with_time, both reached.
  float milliseconds_since(const Event& start) const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// Host memory that the copy engine reaches directly.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(int64_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// A named range in profiler timelines.
class Range {
 public:
  explicit Range(const char* name) { nvtxRangePushA(name); }
  ~Range() { nvtxRangePop(); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
};

}  // namespace camo::cuda
