#include <cstdio>
#include <mutex>
#include <set>

#include "ops/attention/flash.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#include "ops/attention/cuda/launch.h"
#endif

namespace camo {
namespace flash {
namespace {

/// What can compute a call, and from where on `automatic` takes it. The first line that matches holds.
struct Line {
  const char* name;
  Device::Kind device;
  DType dtype;
  int capability;       // of the device at least, major * 10 + minor
  int64_t width;        // at most
  int64_t least_keys;   // automatic takes flash from this many keys on
  bool hopper = false;  // plain calls on a Hopper GPU only
  int64_t least_width = 0;
};
constexpr Line kTable[] = {
    // Every CUDA call gains: no score travels to memory.
    {"flash (f16 wgmma)", Device::Kind::cuda, DType::f16, 90, 256, 0, true, kLeastHopperWidth},
    {"flash (bf16 wgmma)", Device::Kind::cuda, DType::bf16, 90, 256, 0, true, kLeastHopperWidth},
    {"flash (f32 as pairs of f16)", Device::Kind::cuda, DType::f32, 80, 256, 0},
    {"flash (f16 mma.sync)", Device::Kind::cuda, DType::f16, 80, 128, 0},
    {"flash (bf16 mma.sync)", Device::Kind::cuda, DType::bf16, 80, 128, 0},
    // On the CPU the products of the plain one are faster, until its matrix of scores outgrows the caches.
    {"flash (tiled, f32)", Device::Kind::cpu, DType::f32, 0, 16, 256},
    {"flash (tiled, f32)", Device::Kind::cpu, DType::f32, 0, 32, 1024},
    {"flash (tiled, f32)", Device::Kind::cpu, DType::f32, 0, 64, 4096},
    {"flash (tiled, f32)", Device::Kind::cpu, DType::f32, 0, INT64_MAX, 8192},
    {"flash (tiled, f64)", Device::Kind::cpu, DType::f64, 0, INT64_MAX, 512},
};

int capability_of([[maybe_unused]] Device device) {
#ifdef CAMO_WITH_CUDA
  if (device.is_cuda()) return cuda::device_info(device).major * 10 + cuda::device_info(device).minor;
#endif
  return 0;
}

/// Whether a line for Hopper GPUs can compute the call.
bool fits_hopper([[maybe_unused]] const AttentionCase& call, [[maybe_unused]] const Line& line) {
#ifdef CAMO_WITH_CUDA
  return call.plain && call.width >= line.least_width && call.width <= line.width && has_hopper_kernels(call.device);
#else
  return false;
#endif
}

struct Match {
  const Line* line = nullptr;
  std::string why_not;
};

Match find(AttentionCase call) {
  if (call.device.is_cpu() && (call.dtype == f16 || call.dtype == bf16)) call.dtype = f32;  // what it is computed in
  std::string why = concat_text("no flash kernel for ", call.dtype, " on ", call.device);
  for (const Line& line : kTable) {
    if (line.device != call.device.kind || line.dtype != call.dtype) continue;
    if (line.hopper) {
      if (fits_hopper(call, line)) return {&line, {}};
    } else if (capability_of(call.device) < line.capability) {
      why = concat_text("it needs compute capability 8.0; ", call.device, " has ", capability_of(call.device) / 10, ".",
                        capability_of(call.device) % 10);
    } else if (call.width > line.width) {
      why = concat_text("it takes head dimensions up to ", line.width, "; got ", call.width);
    } else {
      return {&line, {}};
    }
  }
  return {nullptr, why};
}

AttentionBackend wanted(AttentionBackend backend) {
  return backend == AttentionBackend::automatic ? attention_backend() : backend;
}

}  // namespace

AttentionChoice choose(const AttentionCase& call, AttentionBackend backend) {
  backend = wanted(backend);
  if (backend == AttentionBackend::math) return {};
  const Match match = find(call);
  if (backend == AttentionBackend::flash) return {match.line != nullptr, match.why_not};
  return {match.line && call.keys >= match.line->least_keys, {}};
}

bool is_chosen(const Tensor& q, const Tensor& k, const AttentionOptions& options) {
  AttentionCase call{q.device(), q.dtype(), q.size(1), k.size(1), q.size(3)};
  call.plain = !options.mask.defined() && options.dropout <= 0 && options.scale.value_or(1) > 0;
  const auto choice = choose(call, options.backend);
  if (!choice.why_not.empty()) {
    static std::mutex mutex;
    static std::set<std::string> said;
    const std::lock_guard lock(mutex);
    if (said.insert(choice.why_not).second) {
      std::fprintf(stderr, "warning: scaled_dot_product_attention: flash was asked for, math is used: %s\n",
                   choice.why_not.c_str());
    }
  }
  return choice.flash;
}

}  // namespace flash

std::string attention_kernel_name(Device device, DType dtype, int64_t queries, int64_t keys, int64_t width,
                                  AttentionBackend backend) {
  const flash::AttentionCase call{device, dtype, queries, keys, width};
  return flash::choose(call, backend).flash ? flash::find(call).line->name : "math";
}

}  // namespace camo
