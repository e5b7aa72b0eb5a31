#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <optional>
#include <set>

#include "ops/attention/flash.h"
#include "ops/attention/window.h"
#include "ops/math_mode.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#include "ops/attention/cuda/launch.h"
#endif

namespace camo {
namespace flash {
namespace {

constexpr int64_t kAny = INT64_MAX;
constexpr auto kCpu = Device::Kind::cpu, kCuda = Device::Kind::cuda;

/// What computes a pass, and from where on `automatic` takes it. The first line that matches holds.
struct Line {
  const char* name;
  Kernel kernel;
  std::optional<Pass> pass;  // unless both
  Device::Kind device;
  DType dtype;
  int capability;  // of the device at least, major * 10 + minor
  int64_t least_width, width;
  int64_t window;      // packed_window() at most, of kernels that read windows
  int64_t tokens;      // queries and keys at most
  int64_t least_keys;  // automatic takes flash from this many keys on
  int64_t least_tokens = 1;
  int64_t shared_kib = 0;  // of shared memory that a block takes, where some devices have less
};
/// Microseconds are of an H100, bf16, batch 16, 8 heads.
constexpr Line kTable[] = {
    // Every CUDA call gains: no score travels to memory.
    // Forward, D 10 N 9216 and D 20 N 2304: narrow 3411 and 286, wgmma 3639 and 292. D 73 N 144: 12 and 16. Between,
    // D 36 N 576 and D 64 N 400: narrow 36 and 29, wgmma 32 and 24.
    {"flash (f16 narrow)", Kernel::narrow, Pass::forward, kCuda, DType::f16, 80, 1, 32, 80, kAny, 0},
    {"flash (bf16 narrow)", Kernel::narrow, Pass::forward, kCuda, DType::bf16, 80, 1, 32, 80, kAny, 0},
    // Keys and values in shared memory. D 64 N 144, 324, 400 and 676: 7.2, 17.4, 18.1 and 38.2, streaming 8.2, 17.5,
    // 22.9 and 46.5. D 73 N 100 and 144: 8.1 and 9.5, narrow 9.7 and 12.0. Fewer tokens were not measured.
    {"flash (f16 resident)", Kernel::resident, Pass::forward, kCuda, DType::f16, 90, 49, 64, 64, 720, 0, 144},
    {"flash (bf16 resident)", Kernel::resident, Pass::forward, kCuda, DType::bf16, 90, 49, 64, 64, 720, 0, 144},
    {"flash (f16 resident)", Kernel::resident, Pass::forward, kCuda, DType::f16, 90, 65, 80, 80, 144, 0, 100},
    {"flash (bf16 resident)", Kernel::resident, Pass::forward, kCuda, DType::bf16, 90, 65, 80, 80, 144, 0, 100},
    {"flash (f16 narrow)", Kernel::narrow, Pass::forward, kCuda, DType::f16, 80, 65, 80, 80, 144, 0, 1, 108},
    {"flash (bf16 narrow)", Kernel::narrow, Pass::forward, kCuda, DType::bf16, 80, 65, 80, 80, 144, 0, 1, 108},
    // Backward, D 10 and 20: narrow 6504 and 657, mma 17800 and 1466, wgmma 19800 and 962. D 73 N 144: whole heads 24,
    // wgmma for short sequences 28, for long ones 76; their 146 KiB of shared memory fit devices of 9.0.
    {"flash (f16 narrow)", Kernel::narrow, Pass::backward, kCuda, DType::f16, 80, 1, 21, 24, kAny, 0},
    {"flash (bf16 narrow)", Kernel::narrow, Pass::backward, kCuda, DType::bf16, 80, 1, 21, 24, kAny, 0},
    {"flash (f16 whole heads)", Kernel::whole, Pass::backward, kCuda, DType::f16, 90, 22, 80, 80, 144, 0, 1, 144},
    {"flash (bf16 whole heads)", Kernel::whole, Pass::backward, kCuda, DType::bf16, 90, 22, 80, 80, 144, 0, 1, 144},
    // As many tokens as fit a block's shared memory. D 36 N 576, D 64 N 400 and N 676: 97, 55 and 131, where wgmma for
    // long sequences takes 129, 88 and 174.
    {"flash (f16 wgmma, short)", Kernel::short_wgmma, Pass::backward, kCuda, DType::f16, 90, 22, 64, 64, 704, 0},
    {"flash (bf16 wgmma, short)", Kernel::short_wgmma, Pass::backward, kCuda, DType::bf16, 90, 22, 64, 64, 704, 0},
    {"flash (f16 wgmma, short)", Kernel::short_wgmma, Pass::backward, kCuda, DType::f16, 90, 65, 80, 80, 288, 0},
    {"flash (bf16 wgmma, short)", Kernel::short_wgmma, Pass::backward, kCuda, DType::bf16, 90, 65, 80, 80, 288, 0},
    // Causal calls reach the first of these; below, mma is as fast.
    {"flash (f16 wgmma)", Kernel::wgmma, Pass::forward, kCuda, DType::f16, 90, 9, 256, kAny, kAny, 0},
    {"flash (bf16 wgmma)", Kernel::wgmma, Pass::forward, kCuda, DType::bf16, 90, 9, 256, kAny, kAny, 0},
    {"flash (f16 wgmma)", Kernel::wgmma, Pass::backward, kCuda, DType::f16, 90, 33, 256, kAny, kAny, 0},
    {"flash (bf16 wgmma)", Kernel::wgmma, Pass::backward, kCuda, DType::bf16, 90, 33, 256, kAny, kAny, 0},
    // Devices without wgmma.
    {"flash (f16 narrow)", Kernel::narrow, Pass::forward, kCuda, DType::f16, 80, 1, 64, 64, kAny, 0},
    {"flash (f16 narrow)", Kernel::narrow, Pass::forward, kCuda, DType::f16, 80, 1, 80, 80, kAny, 0, 1, 108},
    {"flash (bf16 narrow)", Kernel::narrow, Pass::forward, kCuda, DType::bf16, 80, 1, 64, 64, kAny, 0},
    {"flash (bf16 narrow)", Kernel::narrow, Pass::forward, kCuda, DType::bf16, 80, 1, 80, 80, kAny, 0, 1, 108},
    // f32 where TF32 is allowed: 11 bits of each number instead of 22, one product instead of three. But D 73 N 144:
    // 34 + 95, and as whole heads with all bits 29 + 75.
    {"flash (f32 as pairs of f16)", Kernel::mma, {}, kCuda, DType::f32, 90, 65, 80, kAny, 144, 0},
    {"flash (f32 as f16, TF32)", Kernel::rounded, {}, kCuda, DType::f32, 90, 3, 80, kAny, kAny, 0},
    // Masks, dropout and the rest.
    {"flash (f32 as pairs of f16)", Kernel::mma, {}, kCuda, DType::f32, 80, 1, 80, kAny, kAny, 0},
    {"flash (f32 as pairs of f16)", Kernel::mma, {}, kCuda, DType::f32, 80, 81, 128, kAny, kAny, 0, 1, 133},
    {"flash (f32 as pairs of f16)", Kernel::mma, {}, kCuda, DType::f32, 80, 129, 256, kAny, kAny, 0, 1, 196},
    {"flash (f16 mma.sync)", Kernel::mma, {}, kCuda, DType::f16, 75, 1, 80, kAny, kAny, 0},
    {"flash (f16 mma.sync)", Kernel::mma, {}, kCuda, DType::f16, 75, 81, 128, kAny, kAny, 0, 1, 85},
    {"flash (bf16 mma.sync)", Kernel::mma, {}, kCuda, DType::bf16, 80, 1, 128, kAny, kAny, 0},
    // On the CPU the products of the plain one are faster, until its matrix of scores outgrows the caches.
    {"flash (tiled, f32)", Kernel::tiled, {}, kCpu, DType::f32, 0, 1, 16, kAny, kAny, 256},
    {"flash (tiled, f32)", Kernel::tiled, {}, kCpu, DType::f32, 0, 1, 32, kAny, kAny, 1024},
    {"flash (tiled, f32)", Kernel::tiled, {}, kCpu, DType::f32, 0, 1, 64, kAny, kAny, 4096},
    {"flash (tiled, f32)", Kernel::tiled, {}, kCpu, DType::f32, 0, 1, kAny, kAny, kAny, 8192},
    {"flash (tiled, f64)", Kernel::tiled, {}, kCpu, DType::f64, 0, 1, kAny, kAny, kAny, 512},
};

int capability_of([[maybe_unused]] Device device) {
#ifdef CAMO_WITH_CUDA
  if (device.is_cuda()) return cuda::usable_capability(device);
#endif
  return 0;
}

int64_t shared_kib_of([[maybe_unused]] Device device) {
#ifdef CAMO_WITH_CUDA
  if (device.is_cuda()) return cuda::device_info(device).shared_bytes / 1024;
#endif
  return 0;
}

bool runs_wgmma([[maybe_unused]] Device device) {
#ifdef CAMO_WITH_CUDA
  return has_hopper_kernels(device);
#else
  return false;
#endif
}

/// Whether a kernel for some calls only takes this one, whose dtype, pass, width and tokens match its line.
bool takes(const Line& line, const AttentionCase& call) {
  const bool dense = call.plain && !call.causal;
  switch (line.kernel) {
    case Kernel::wgmma: return call.plain && runs_wgmma(call.device);
    case Kernel::rounded: return dense && allow_tf32() && runs_wgmma(call.device);
    case Kernel::resident:
    case Kernel::short_wgmma: return dense && packed_window(call.width) <= line.window && runs_wgmma(call.device);
    case Kernel::narrow:
    case Kernel::whole: return dense && packed_window(call.width) <= line.window;
    default: return true;
  }
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
    if (line.pass && *line.pass != call.pass) continue;
    if (call.width < line.least_width || std::max(call.queries, call.keys) > line.tokens) continue;
    if (std::min(call.queries, call.keys) < line.least_tokens) continue;
    const int capability = capability_of(call.device);
    const bool general = line.kernel == Kernel::mma || line.kernel == Kernel::tiled;  // says why it does not match
    if (capability < line.capability) {
      if (general) {
        why = concat_text("it needs compute capability ", line.capability / 10, ".", line.capability % 10, "; ",
                          call.device, " has ", capability / 10, ".", capability % 10);
      }
    } else if (call.width > line.width) {
      if (general) why = concat_text("it takes head dimensions up to ", line.width, "; got ", call.width);
    } else if (shared_kib_of(call.device) < line.shared_kib) {
      if (general) {
        why = concat_text("it needs ", line.shared_kib, " KiB of shared memory a block; ", call.device, " has ",
                          shared_kib_of(call.device));
      }
    } else if (takes(line, call)) {
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

Kernel kernel_of(const AttentionCase& call) {
  const Match match = find(call);
  CAMO_ASSERT(match.line);
  return match.line->kernel;
}

bool is_chosen(const Tensor& q, const Tensor& k, const AttentionOptions& options) {
  AttentionCase call{q.device(), q.dtype(), q.size(1), k.size(1), q.size(3)};
  call.causal = options.causal;
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
