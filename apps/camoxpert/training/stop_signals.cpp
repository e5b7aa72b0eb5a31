#include "apps/camoxpert/training/stop_signals.h"

#include <atomic>
#include <csignal>
#include <thread>

namespace camo::app {

namespace {

std::atomic<int> first_signal{0};
std::atomic<bool> caught{false};

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  return set;
}

bool is_ignored(int signal) {
  struct sigaction action {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

[[noreturn]] void receive() {
  const sigset_t set = stop_signals();
  for (;;) {
    int signal = 0, none = 0;
    if (sigwait(&set, &signal) != 0) continue;
    // nohup; a terminal that is closed sends one itself, and its shell another
    if (signal == SIGHUP && (is_ignored(signal) || first_signal == SIGHUP)) continue;
    if (caught && first_signal.compare_exchange_strong(none, signal)) continue;
    if (!caught && is_ignored(signal)) continue;
    std::signal(signal, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    std::raise(signal);
  }
}

}  // namespace

void receive_stop_signals() {
  [[maybe_unused]] static const bool started = [] {
    const sigset_t set = stop_signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);  // for this thread and those that it starts
    std::thread(receive).detach();
    return true;
  }();
}

StopSignals::StopSignals() {
  receive_stop_signals();
  first_signal = 0;
  caught = true;
  std::signal(SIGPIPE, SIG_IGN);  // `train | tee` lives on when tee is gone: show() in progress.h
}
StopSignals::~StopSignals() { caught = false; }

int StopSignals::received() { return first_signal; }

}  // namespace camo::app
