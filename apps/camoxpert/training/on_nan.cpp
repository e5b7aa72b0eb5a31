#include "apps/camoxpert/training/on_nan.h"

#include <charconv>

#include "core/error.h"

namespace camo::app {

OnNan parse_on_nan(const std::string& text) {
  constexpr int64_t kRollbacks = 3;  // the same state that fails three times will fail again
  constexpr std::string_view kSkip = "skip:";
  if (text == "stop") return {};
  if (text == "rollback") return {OnNan::Action::rollback, kRollbacks};
  OnNan skip{OnNan::Action::skip, 0};
  bool good = text.starts_with(kSkip);
  if (good) {
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + kSkip.size(), end, skip.limit);
    good = parsed.ec == std::errc() && parsed.ptr == end && skip.limit > 0;
  }
  CAMO_CHECK_CODE(usage, good, "--on-nan: must be stop, rollback or skip:N with N above 0; got ", text);
  return skip;
}

}  // namespace camo::app
