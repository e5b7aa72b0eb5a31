// best_score_name() of validation.h; flags are checked without all that validation needs.
#include "apps/camoxpert/training/validation.h"
#include "core/error.h"

namespace camo::app {

std::string best_score_name(const std::string& best_by) {
  if (best_by == "iou") return "iou";
  if (best_by == "s-measure") return "sm";
  fail(ErrorCode::usage, "--best-by: must be iou or s-measure; got ", best_by);
}

}  // namespace camo::app
