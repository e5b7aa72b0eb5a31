#include "core/memory_check.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#endif

namespace camo {
namespace {

constexpr int64_t kGuard = 4096;  // keeps any alignment that allocators give
constexpr int kFresh = 0xFF, kGuardByte = 0xA5;

struct State {
  std::atomic<bool> on{false};
  std::atomic<int64_t> guarded{0};  // storages with guards that live, so that others need no lock
  std::atomic<int64_t> damaged{0}, checked{0};
  std::mutex mutex;
  std::unordered_set<void*> storages;
};

State& state() {
  static auto* made = new State;  // never destroyed: storages of static tensors are freed late
  return *made;
}

void set_bytes(void* to, int byte, int64_t count, Device device) {
#ifdef CAMO_WITH_CUDA
  if (device.is_cuda()) {
    CAMO_CUDA(cudaMemsetAsync(to, byte, static_cast<size_t>(count), cuda::use(device)));
    return;
  }
#endif
  CAMO_ASSERT(device.is_cpu());
  std::memset(to, byte, static_cast<size_t>(count));
}

bool is_whole(const void* guard, Device device) {
  std::vector<unsigned char> bytes(kGuard);
#ifdef CAMO_WITH_CUDA
  if (device.is_cuda()) {
    cuda::synchronize(device);
    CAMO_CUDA(cudaMemcpy(bytes.data(), guard, kGuard, cudaMemcpyDeviceToHost));
  }
#endif
  if (device.is_cpu()) std::memcpy(bytes.data(), guard, kGuard);
  return std::all_of(bytes.begin(), bytes.end(), [](unsigned char byte) { return byte == kGuardByte; });
}

}  // namespace

MemoryCheck::MemoryCheck() {
  CAMO_CHECK(!state().on, "memory check: one at a time; another one lives");
  state().damaged = 0;
  state().checked = 0;
  state().on = true;
}

MemoryCheck::~MemoryCheck() { state().on = false; }

int64_t MemoryCheck::damaged() const { return state().damaged; }
int64_t MemoryCheck::checked() const { return state().checked; }

namespace detail {

bool wants_guards() { return state().on; }
int64_t guard_bytes() { return kGuard; }

void* begin_guards(void* block, int64_t bytes, Device device) {
  char* data = static_cast<char*>(block) + kGuard;
  set_bytes(block, kGuardByte, kGuard, device);
  set_bytes(data, kFresh, bytes, device);
  set_bytes(data + bytes, kGuardByte, kGuard, device);
  const std::lock_guard lock(state().mutex);
  state().storages.insert(data);
  ++state().guarded;
  return data;
}

void* end_guards(void* data, int64_t bytes, Device device) {
  if (state().guarded == 0) return nullptr;
  {
    const std::lock_guard lock(state().mutex);
    if (state().storages.erase(data) == 0) return nullptr;
    --state().guarded;
  }
  char* block = static_cast<char*>(data) - kGuard;
  if (!is_whole(block, device) || !is_whole(block + kGuard + bytes, device)) ++state().damaged;
  ++state().checked;
  return block;
}

}  // namespace detail
}  // namespace camo
