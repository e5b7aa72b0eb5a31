// Progress on a terminal (one line that is rewritten) or in a log (a plain line now and then).
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace camo::app {

/// Writes to standard output at once. A full disk or a pipe whose reader is gone (`| tee` after Ctrl-C) loses the text
/// and is no reason to lose hours of work as well.
void show(std::string_view text);

class Progress {
 public:
  /// `title` stands in front: "epoch 3/40". `unit` is what is counted: "steps", "images".
  Progress(std::string title, int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of `total`; `note` is shown behind the bar, rate and remaining time.
  void update(int64_t done, const std::string& note = {});
  /// Ends the line; nothing is shown any more.
  void finish();
  double seconds() const;

 private:
  using Clock = std::chrono::steady_clock;
  std::string line(int64_t done, const std::string& note) const;

  std::string title_, unit_;
  int64_t total_;
  bool terminal_;
  bool line_open_ = false;
  Clock::time_point start_, last_shown_;
};

/// "1:23:45", "4:05" or "12 s".
std::string format_duration(double seconds);
/// "1.5 GiB", "512 MiB", "3 KiB".
std::string format_bytes(int64_t bytes);

}  // namespace camo::app
