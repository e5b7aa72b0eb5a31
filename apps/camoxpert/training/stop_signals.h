// SIGINT, SIGTERM and SIGHUP (the terminal was closed) ask a run to stop; the second one ends the process at once.
#pragma once

namespace camo::app {

/// To be called first in main(): from then on a thread of its own receives these signals, and no other one started
/// later is interrupted. A handler would run on whatever thread computes; where a library has something else in the
/// stack pointer for a moment, the kernel writes the handler's frame over it (seen: over the heap). Outside of
/// StopSignals the signals have their usual effect.
void receive_stop_signals();

/// Catches the first of these signals within its scope, of which there is at most one. SIGPIPE is ignored from then on.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that came, or 0.
  static int received();
};

/// Thrown once the run's state is saved.
struct StoppedBySignal {
  int signal = 0;
};
inline constexpr int kStoppedExitCode = 75;  // EX_TEMPFAIL: try again

}  // namespace camo::app
