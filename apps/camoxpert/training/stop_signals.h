// SIGINT and SIGTERM ask a run to stop; the second one ends the process at once.
#pragma once

#include <csignal>

namespace camo::app {

/// Catches both signals within its scope, of which there is at most one.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// The signal that came, or 0.
  static int received();

 private:
  struct sigaction old_interrupt_ {
  }, old_terminate_{};
};

/// Thrown once the run's state is saved.
struct StoppedBySignal {
  int signal = 0;
};
inline constexpr int kStoppedExitCode = 75;  // EX_TEMPFAIL: try again

}  // namespace camo::app
