// Random numbers drawn twice.
#pragma once

#include "core/random.h"

namespace camo {

/// default_generator() starts from `state` within the scope (default: goes on from its own), and after it, however the
/// scope ends, hands out what it would have without it.
class RandomScope {
 public:
  RandomScope() : before_(default_generator().state()) {}
  explicit RandomScope(RandomKey state) : RandomScope() { default_generator().set_state(state); }
  ~RandomScope() { default_generator().set_state(before_); }
  RandomScope(const RandomScope&) = delete;
  RandomScope& operator=(const RandomScope&) = delete;

 private:
  RandomKey before_;
};

}  // namespace camo
