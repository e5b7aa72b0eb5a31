#include "apps/camoxpert/bad_images.h"

#include <fmt/core.h>

#include <charconv>

namespace camo::app {

int64_t parse_on_bad_image(const std::string& text) {
  constexpr std::string_view kSkip = "skip:";
  if (text == "error") return 0;
  int64_t count = 0;
  if (text.starts_with(kSkip)) {
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + kSkip.size(), end, count);
    if (parsed.ec == std::errc() && parsed.ptr == end && count >= 1) return count;
  }
  fail(ErrorCode::usage, "--on-bad-image: must be error or skip:N with N at least 1; got ", text);
}

CLI::Option* add_on_bad_image(CLI::App& command, std::string& text) {
  return command
      .add_option("--on-bad-image", text,
                  "error: the first unreadable or unpaired picture ends the run; skip:N: up to N are left out")
      ->capture_default_str();
}

void BadImages::check() const {
  if (!too_many()) return;
  std::string all;
  for (const std::string& message : messages_) all += "\n  " + message;
  if (limit_ == 0) {
    fail(ErrorCode::data, messages_.size(),
         " of the pictures can't be used; --on-bad-image skip:N leaves out up to N:", all);
  }
  fail(ErrorCode::data, messages_.size(), " of the pictures can't be used, and --on-bad-image skip:", limit_,
       " leaves out ", limit_, " at most:", all);
}

void BadImages::report() const {
  for (const std::string& message : messages_) fmt::print("left out: {}\n", message);
  if (!messages_.empty()) fmt::print("{} pictures left out\n", messages_.size());
}

}  // namespace camo::app
