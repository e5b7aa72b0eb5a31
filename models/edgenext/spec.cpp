#include "models/edgenext/spec.h"

#include <string>

#include "core/error.h"

namespace camo {

const EdgeNeXtSpec& edgenext_spec(std::string_view name) {
  std::string known;
  for (const EdgeNeXtSpec& spec : kEdgeNeXtVariants) {
    if (spec.name == name) return spec;
    known += (known.empty() ? "" : ", ") + std::string(spec.name);
  }
  fail(ErrorCode::usage, "backbone: unknown name \"", name, "\"; choose one of ", known);
}

}  // namespace camo
