#include "core/cuda/runtime.h"

#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "core/cuda/index_fault.h"
#include "core/cuda/recording.h"
#include "core/error.h"

namespace camo::cuda {

namespace {

bool sync_after_launch() {
  static const bool on = [] {
    const char* value = std::getenv("CAMO_SYNC");
    return value != nullptr && std::string(value) == "1";
  }();
  return on;
}

/// The streams of one device; they live as long as the process.
struct DeviceState {
  cudaStream_t compute = nullptr, copy = nullptr;
  IndexFault* fault = nullptr;
};

thread_local int current_device = -1;  // of this thread; -1: not known
thread_local bool recording = false;
thread_local const RecordedKeys* recorded_keys = nullptr;

void make_current(Device device) {
  if (current_device == device.index) return;
  current_device = -1;  // which one it is after a failure is not known
  CAMO_CUDA(cudaSetDevice(device.index));
  current_device = device.index;
}

void check_exists(Device device) {
  CAMO_CHECK_CODE(device, device.is_cuda() && device.index >= 0 && device.index < device_count(), "device: ", device,
                  " does not exist; this machine has ", device_count(), " CUDA devices");
}

/// Leaves the device current where it makes its state: going back would set up the GPU that is current by default,
/// which may be another one that nobody asked for.
const DeviceState& state(Device device) {
  static std::mutex mutex;
  static auto* states = new std::vector<std::unique_ptr<DeviceState>>(static_cast<size_t>(device_count()));
  check_exists(device);
  std::lock_guard lock(mutex);
  auto& slot = (*states)[static_cast<size_t>(device.index)];
  if (!slot) {
    make_current(device);
    auto made = std::make_unique<DeviceState>();
    CAMO_CUDA(cudaStreamCreateWithFlags(&made->compute, cudaStreamNonBlocking));
    CAMO_CUDA(cudaStreamCreateWithFlags(&made->copy, cudaStreamNonBlocking));
    void* note = nullptr;
    CAMO_CUDA(cudaHostAlloc(&note, sizeof(IndexFault), cudaHostAllocMapped));
    made->fault = new (note) IndexFault;
    CAMO_CUDA(cudaMalloc(reinterpret_cast<void**>(&made->fault->claimed), sizeof(unsigned int)));
    CAMO_CUDA(cudaMemset(made->fault->claimed, 0, sizeof(unsigned int)));
    slot = std::move(made);
  }
  return *slot;
}

std::vector<DeviceInfo> read_device_infos() {
  std::vector<DeviceInfo> infos;
  for (int i = 0; i < device_count(); ++i) {
    cudaDeviceProp properties;
    CAMO_CUDA(cudaGetDeviceProperties(&properties, i));
    infos.push_back({properties.name, properties.major, properties.minor, properties.multiProcessorCount,
                     static_cast<int64_t>(properties.totalGlobalMem),
                     static_cast<int64_t>(properties.sharedMemPerBlockOptin)});
  }
  return infos;
}

}  // namespace

void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that was reported must not be reported by the next call again
  const ErrorCode code = status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::device;
  fail(code, "cuda: ", call, " failed at ", file, ":", line, ": ", cudaGetErrorString(status), " (",
       cudaGetErrorName(status), ")");
}

void check_launch(const char* kernel, const char* file, int line) {
  check(cudaGetLastError(), kernel, file, line);
  if (sync_after_launch() && !recording) check(cudaDeviceSynchronize(), kernel, file, line);
  if (current_device >= 0) check_index_fault(Device::cuda(current_device));
}

bool is_recording() { return recording; }
bool set_recording(bool on) { return std::exchange(recording, on); }
void refuse_recording(const char* what) {
  CAMO_CHECK_CODE(device, !recording,
                  "graph: recorded work must need nothing of the host and draw new random numbers in each launch; got ",
                  what, "; keep it out of the recorded part, or use --cuda-graphs off");
}

RecordedKeys::RecordedKeys(const RandomKey* base, RandomKey first) : base_(base), first_(first) {
  CAMO_ASSERT(recorded_keys == nullptr);
  recorded_keys = this;
}
RecordedKeys::~RecordedKeys() { recorded_keys = nullptr; }

KernelKey kernel_key(RandomKey key) {
  if (!recording) return {key};
  if (recorded_keys == nullptr) refuse_recording("random numbers, the same in each launch");
  return {{key.seed, key.stream - recorded_keys->first_.stream}, recorded_keys->base_};
}

IndexFault* index_fault(Device device) { return state(device).fault; }

void check_index_fault(Device device) {
  volatile IndexFault* fault = state(device).fault;
  if (fault->complete == 0) return;
  const long long position = fault->position, extent = fault->extent;
  const char* op = fault->op;
  fault->complete = 0;
  make_current(device);
  CAMO_CUDA(cudaMemset(fault->claimed, 0, sizeof(unsigned int)));
  fail(ErrorCode::general, op, ": indices must lie within the extent ", extent, "; got ", position, " on ", device,
       ", seen after the call; with CAMO_SYNC=1 in the environment the call itself fails");
}

int device_count() {
  static const int count = [] {
    int found = 0;
    return cudaGetDeviceCount(&found) == cudaSuccess ? found : 0;
  }();
  return count;
}

cudaStream_t use(Device device) {
  const DeviceState& found = state(device);
  make_current(device);
  return found.compute;
}

cudaStream_t copy_stream(Device device) { return state(device).copy; }

void synchronize(Device device) {
  refuse_recording("a wait for the device");
  CAMO_CUDA(cudaStreamSynchronize(state(device).compute));
  CAMO_CUDA(cudaStreamSynchronize(state(device).copy));
  check_index_fault(device);
}

/// Of all devices at once, without setting up any: GPUs that others keep busy must not matter.
const DeviceInfo& device_info(Device device) {
  static const auto* infos = new std::vector<DeviceInfo>(read_device_infos());
  check_exists(device);
  return (*infos)[static_cast<size_t>(device.index)];
}

Event::Event(bool with_time) {
  CAMO_CUDA(cudaEventCreateWithFlags(&event_, with_time ? cudaEventDefault : cudaEventDisableTiming));
}
Event::~Event() { cudaEventDestroy(event_); }
void Event::record(cudaStream_t stream) {
  CAMO_CUDA(cudaEventRecordWithFlags(event_, stream, recording ? cudaEventRecordExternal : cudaEventRecordDefault));
}
void Event::block(cudaStream_t stream) const { CAMO_CUDA(cudaStreamWaitEvent(stream, event_)); }
void Event::synchronize() const { CAMO_CUDA(cudaEventSynchronize(event_)); }
float Event::milliseconds_since(const Event& start) const {
  float milliseconds = 0;
  CAMO_CUDA(cudaEventElapsedTime(&milliseconds, start.event_, event_));
  return milliseconds;
}

PinnedBuffer::PinnedBuffer(int64_t bytes) : bytes_(bytes) {
  CAMO_CUDA(cudaMallocHost(&data_, static_cast<size_t>(bytes)));
}
PinnedBuffer::~PinnedBuffer() { cudaFreeHost(data_); }

}  // namespace camo::cuda
