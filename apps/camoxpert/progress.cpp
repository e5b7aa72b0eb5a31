#include "apps/camoxpert/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace camo::app {

namespace {

constexpr double kTerminalInterval = 0.1, kLogInterval = 10;  // seconds between updates

}  // namespace

void show(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  std::clearerr(stdout);
}

Progress::Progress(std::string title, int64_t total, std::string unit)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(total),
      terminal_(isatty(STDOUT_FILENO) != 0),
      start_(Clock::now()),
      last_shown_(start_) {}

Progress::~Progress() { finish(); }

double Progress::seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

std::string Progress::line(int64_t done, const std::string& note) const {
  const double elapsed = std::max(seconds(), 1e-9);
  const double rate = static_cast<double>(done) / elapsed;
  std::string bar;
  if (terminal_) {
    constexpr int64_t kWidth = 24;
    const int64_t filled = total_ > 0 ? std::min(kWidth, kWidth * done / total_) : 0;
    bar = fmt::format(" [{}{}]", std::string(static_cast<size_t>(filled), '#'),
                      std::string(static_cast<size_t>(kWidth - filled), '.'));
  }
  const double remaining = rate > 0 ? static_cast<double>(total_ - done) / rate : 0;
  return fmt::format("{}{} {}/{}  {:.1f} {}/s  ETA {}{}{}", title_, bar, done, total_, rate, unit_,
                     format_duration(remaining), note.empty() ? "" : "  ", note);
}

void Progress::update(int64_t done, const std::string& note) {
  const auto now = Clock::now();
  const double since = std::chrono::duration<double>(now - last_shown_).count();
  if (since < (terminal_ ? kTerminalInterval : kLogInterval) && !(terminal_ && done == total_)) return;
  last_shown_ = now;
  if (terminal_) {
    show("\r\033[K" + line(done, note));
    line_open_ = true;
  } else {
    show(line(done, note) + "\n");
  }
}

void Progress::finish() {
  if (line_open_) {
    show("\r\033[K");
    line_open_ = false;
  }
}

std::string format_duration(double seconds) {
  const auto whole = int64_t{std::lround(std::max(0.0, seconds))};
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string format_bytes(int64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB"};
  auto value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 3) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, unit == 0 || value >= 100 ? 0 : 1, units[unit]);
}

}  // namespace camo::app
