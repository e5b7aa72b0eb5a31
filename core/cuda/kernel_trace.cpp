#include "core/cuda/kernel_trace.h"

#if __has_include(<cupti.h>)
#define CAMO_HAVE_CUPTI 1
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#endif

#include "core/cuda/runtime.h"
#include "core/error.h"

namespace camo::cuda {

#ifdef CAMO_HAVE_CUPTI

namespace {

/// The calls of CUPTI that are used; the program does not link the library.
struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
  decltype(&cuptiActivityPushExternalCorrelationId) push = nullptr;
  decltype(&cuptiActivityPopExternalCorrelationId) pop = nullptr;
  decltype(&cuptiGetResultString) describe = nullptr;
  std::string missing;  // why it can't be used

  Cupti() {
    void* library = nullptr;
    const std::string major = std::to_string(CUDART_VERSION / 1000);
    for (const std::string& name :
         {"libcupti.so." + major, std::string("libcupti.so"), "/usr/local/cuda/lib64/libcupti.so." + major,
          "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so." + major}) {
      library = dlopen(name.c_str(), RTLD_NOW);
      if (library != nullptr) break;
    }
    if (library == nullptr) {
      missing = "libcupti.so." + major + " is not found; add its folder to LD_LIBRARY_PATH";
      return;
    }
    const auto load = [&]<class Fn>(Fn& function, const char* name) {
      function = reinterpret_cast<Fn>(dlsym(library, name));
      if (function == nullptr) missing = std::string("libcupti lacks ") + name;
    };
    load(register_callbacks, "cuptiActivityRegisterCallbacks");
    load(enable, "cuptiActivityEnable");
    load(disable, "cuptiActivityDisable");
    load(flush, "cuptiActivityFlushAll");
    load(next_record, "cuptiActivityGetNextRecord");
    load(push, "cuptiActivityPushExternalCorrelationId");
    load(pop, "cuptiActivityPopExternalCorrelationId");
    load(describe, "cuptiGetResultString");
  }

  void check(CUptiResult result, const char* what) const {
    if (result == CUPTI_SUCCESS) return;
    const char* text = nullptr;
    describe(result, &text);
    fail(ErrorCode::device, "profile: CUPTI can't ", what, ": ", text != nullptr ? text : "unknown error");
  }
};

const Cupti& cupti() {
  static const auto* loaded = new Cupti;
  return *loaded;
}

constexpr CUpti_ActivityKind kKinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                         CUPTI_ACTIVITY_KIND_MEMSET};
/// Tags come with the records of calls, and only for the kinds of calls that are recorded.
constexpr CUpti_ActivityKind kTagKinds[] = {CUPTI_ACTIVITY_KIND_RUNTIME, CUPTI_ACTIVITY_KIND_DRIVER,
                                            CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION};
constexpr CUpti_ExternalCorrelationKind kTagKind = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0;
constexpr size_t kBufferBytes = size_t{8} << 20;

/// What CUPTI's thread has handed over.
struct Records {
  std::mutex mutex;
  std::vector<std::pair<uint32_t, DeviceActivity>> activities;  // with their correlation numbers
  std::unordered_map<uint32_t, uint64_t> tags;                  // by correlation number
};
Records& records() {
  static auto* kept = new Records;
  return *kept;
}

std::string readable(const char* mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? text : mangled;
  std::free(text);
  if (name.starts_with("void ")) name.erase(0, 5);
  int depth = 0;  // of template brackets: the first parenthesis outside begins the arguments
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (name[i] == '(' && depth == 0 && name.compare(i, 11, "(anonymous ") != 0) return name.substr(0, i);
  }
  return name;
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *bytes = *buffer == nullptr ? 0 : kBufferBytes;
  *most_records = 0;
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid_bytes) {
  Records& to = records();
  const std::lock_guard lock(to.mutex);
  CUpti_Activity* record = nullptr;
  const auto add = [&](const auto* activity, std::string name) {
    to.activities.emplace_back(
        activity->correlationId,
        DeviceActivity{std::move(name), 0, static_cast<int64_t>(activity->start), static_cast<int64_t>(activity->end)});
  };
  while (cupti().next_record(buffer, valid_bytes, &record) == CUPTI_SUCCESS) {
    switch (record->kind) {
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
        add(kernel, readable(kernel->name));
        break;
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY: add(reinterpret_cast<const CUpti_ActivityMemcpy6*>(record), "copy"); break;
      case CUPTI_ACTIVITY_KIND_MEMSET: add(reinterpret_cast<const CUpti_ActivityMemset4*>(record), "fill"); break;
      case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: {
        const auto* tagged = reinterpret_cast<const CUpti_ActivityExternalCorrelation*>(record);
        to.tags[tagged->correlationId] = tagged->externalId;
        break;
      }
      default: break;
    }
  }
  std::free(buffer);
}

}  // namespace

std::string why_no_kernel_trace() { return device_count() == 0 ? why_no_cuda() : cupti().missing; }

KernelTrace::KernelTrace(Tags tags) : tags_(tags) {
  const std::string reason = why_no_kernel_trace();
  CAMO_CHECK_CODE(device, reason.empty(), "profile: kernels can't be traced: ", reason);
  static const bool registered = [] {
    cupti().check(cupti().register_callbacks(give_buffer, take_buffer), "take buffers");
    return true;
  }();
  CAMO_ASSERT(registered);
  for (const CUpti_ActivityKind kind : kKinds) cupti().check(cupti().enable(kind), "trace kernels");
  if (tags_ == Tags::off) return;
  for (const CUpti_ActivityKind kind : kTagKinds) cupti().check(cupti().enable(kind), "trace calls");
  cupti().check(cupti().push(kTagKind, 0), "tag launches");
}

KernelTrace::~KernelTrace() {
  if (tags_ == Tags::on) {
    uint64_t last = 0;
    cupti().pop(kTagKind, &last);
    for (const CUpti_ActivityKind kind : kTagKinds) cupti().disable(kind);
  }
  for (const CUpti_ActivityKind kind : kKinds) cupti().disable(kind);
  cupti().flush(0);
  Records& from = records();
  const std::lock_guard lock(from.mutex);
  from.activities.clear();
  from.tags.clear();
}

void KernelTrace::tag(uint64_t tag) {  // throws nothing: called where scopes end
  uint64_t last = 0;
  cupti().pop(kTagKind, &last);
  cupti().push(kTagKind, tag);
}

std::vector<DeviceActivity> KernelTrace::activities() {
  CAMO_CUDA(cudaDeviceSynchronize());
  cupti().check(cupti().flush(0), "hand over what it saw");
  Records& from = records();
  const std::lock_guard lock(from.mutex);
  std::vector<DeviceActivity> result;
  result.reserve(from.activities.size());
  for (const auto& [correlation, activity] : from.activities) {
    result.push_back(activity);
    const auto tagged = from.tags.find(correlation);
    if (tagged != from.tags.end()) result.back().tag = tagged->second;
  }
  std::sort(result.begin(), result.end(),
            [](const DeviceActivity& a, const DeviceActivity& b) { return a.begin < b.begin; });
  return result;
}

#else

std::string why_no_kernel_trace() { return "camo was built without CUPTI's headers"; }
KernelTrace::KernelTrace(Tags tags) : tags_(tags) {
  fail(ErrorCode::device, "profile: kernels can't be traced: ", why_no_kernel_trace());
}
KernelTrace::~KernelTrace() = default;
void KernelTrace::tag(uint64_t) {}
std::vector<DeviceActivity> KernelTrace::activities() { return {}; }

#endif

}  // namespace camo::cuda
