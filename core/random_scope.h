// Random numbers drawn twice.
#pragma once

#include "core/random.h"

namespace camo {

/// What default_generator() hands out within the scope it hands out again after it.
class KeepRandomState {
 public:
  KeepRandomState() : state_(default_generator().state()) {}
  ~KeepRandomState() { default_generator().set_state(state_); }
  KeepRandomState(const KeepRandomState&) = delete;
  KeepRandomState& operator=(const KeepRandomState&) = delete;

 private:
  RandomKey state_;
};

}  // namespace camo
