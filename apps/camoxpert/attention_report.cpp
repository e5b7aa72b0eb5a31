#include "apps/camoxpert/attention_report.h"

#include <fmt/core.h>

#include <algorithm>

#include "ops/attention.h"

namespace camo::app {

std::array<StageAttention, 4> attention_stages(const CamoXpertSpec& network, int64_t img_size, Device device,
                                               DType dtype) {
  const AttentionBackend backend = network.use_flash_attention ? AttentionBackend::automatic : AttentionBackend::math;
  std::array<StageAttention, 4> stages;
  for (size_t s = 0; s < 4; ++s) {
    StageAttention& stage = stages[s];
    const int64_t side = img_size / (int64_t{4} << s);
    stage.tokens = side * side;
    stage.heads = network.attention_heads;
    stage.width = edgenext_spec(network.backbone).dims[s] / stage.heads;
    stage.kernel = attention_kernel_name(device, dtype, stage.tokens, stage.tokens, stage.width, backend);
    stage.why_math = why_math_attention(device, dtype, stage.tokens, stage.tokens, stage.width, backend);
  }
  return stages;
}

std::vector<std::string> attention_report(const CamoXpertSpec& network, int64_t img_size, Device device, DType dtype) {
  const auto stages = attention_stages(network, img_size, device, dtype);
  const auto flash =
      std::count_if(stages.begin(), stages.end(), [](const auto& stage) { return stage.why_math.empty(); });
  std::vector<std::string> lines;
  if (flash == 4) {
    lines.emplace_back("flash on");
  } else if (flash > 0) {
    lines.emplace_back("flash on, in some stages");
  } else if (!network.use_flash_attention) {
    lines.emplace_back("flash off: the network was made with use_flash_attention = false");
  } else if (attention_backend() == AttentionBackend::math) {
    lines.emplace_back("flash off: --no-flash-attention, --sdpa-backend math or CAMO_SDPA_BACKEND=math");
  } else {
    lines.emplace_back("flash off: " + stages[0].why_math);
  }
  for (size_t s = 0; s < 4; ++s) {
    const StageAttention& stage = stages[s];
    lines.push_back(fmt::format("stage {}: {} tokens, {} heads of {}: {}{}", s + 1, stage.tokens, stage.heads,
                                stage.width, stage.kernel, stage.why_math.empty() ? "" : " (" + stage.why_math + ")"));
  }
  return lines;
}

}  // namespace camo::app
