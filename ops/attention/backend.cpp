// The choice between flash and math as users make it, and the reasons to tell them.
#include <atomic>
#include <cstdlib>

#include "ops/attention/flash.h"

namespace camo {
namespace {

std::atomic<AttentionBackend> chosen{AttentionBackend::automatic};

}  // namespace

void set_attention_backend(AttentionBackend backend) { chosen = backend; }

AttentionBackend attention_backend() {
  if (chosen != AttentionBackend::automatic) return chosen;
  const char* text = std::getenv("CAMO_SDPA_BACKEND");
  if (!text) return AttentionBackend::automatic;
  const std::string value = text;
  if (value == "flash") return AttentionBackend::flash;
  if (value == "math") return AttentionBackend::math;
  CAMO_CHECK_CODE(usage, value.empty() || value == "auto", "CAMO_SDPA_BACKEND: must be auto, flash or math; got ",
                  value);
  return AttentionBackend::automatic;
}

std::string why_math_attention(Device device, DType dtype, int64_t queries, int64_t keys, int64_t width,
                               AttentionBackend backend) {
  const flash::AttentionCase call{device, dtype, queries, keys, width};
  if (flash::choose(call, backend).flash) return "";
  if (backend == AttentionBackend::automatic) backend = attention_backend();
  if (backend == AttentionBackend::math) return "math was asked for";
  const flash::AttentionChoice choice = flash::choose(call, AttentionBackend::flash);
  return choice.flash ? "math is faster at this size" : choice.why_not;
}

}  // namespace camo
