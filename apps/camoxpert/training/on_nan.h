// --on-nan: what to do about a step whose loss or gradient is not finite.
#pragma once

#include <cstdint>
#include <string>

namespace camo::app {

struct OnNan {
  enum class Action {
    stop,      // save the state of before the step, and end
    skip,      // leave the step out, up to `limit` times a run
    rollback,  // weights, optimizer and average of the last checkpoint, and on with the next pictures
  };
  Action action = Action::stop;
  int64_t limit = 0;  // of skips in a run; of rollbacks before a checkpoint holds new steps
};

/// "stop", "skip:N" or "rollback". Throws ErrorCode::usage.
OnNan parse_on_nan(const std::string& text);

}  // namespace camo::app
