#include "core/autocast.h"

#include "core/error.h"

namespace camo {

namespace {
thread_local bool active = false;
thread_local DType current = f32;
}  // namespace

Autocast::Autocast(DType dtype) : previous_(current), was_active_(active) {
  CAMO_CHECK(dtype == f32 || dtype == f16 || dtype == bf16, "autocast: the dtype must be bf16, f16 or f32; got ",
             dtype);
  current = dtype;
  active = was_active_ || dtype != f32;
}

Autocast::~Autocast() {
  current = previous_;
  active = was_active_;
}

bool autocast_active() { return active; }
DType autocast_dtype() { return current; }

}  // namespace camo
