#include "apps/camoxpert/bad_images.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <limits>

#include "apps/camoxpert/progress.h"

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
      .add_option(
          "--on-bad-image", text,
          "error: unreadable and unpaired pictures end the run, which names them all; skip:N: up to N are left out")
      ->capture_default_str();
}

void BadImages::check() const {
  if (!too_many()) return;
  const size_t count = messages_.size();
  std::string text = fmt::format("{} of the pictures can't be used", count);
  if (limit_ > 0) text += fmt::format(", and --on-bad-image skip:{0} leaves out {0} at most", limit_);
  text += ":";
  for (size_t i = 0; i < std::min(count, kNamedInFull); ++i) text += "\n  " + messages_[i];
  if (count > kNamedInFull)
    text += fmt::format("\n  and {} more; camoxpert check-data lists all of a data set", count - kNamedInFull);
  fail(ErrorCode::data, text, "\nmend or remove these files, or leave them out with --on-bad-image skip:", count);
}

void BadImages::report() const {
  for (const std::string& message : messages_) fmt::print("left out: {}\n", message);
  if (!messages_.empty()) fmt::print("{} pictures left out\n", messages_.size());
}

void check_all(const std::vector<Sample>& samples, int64_t limit, std::vector<std::string> messages) {
  BadImages bad(std::numeric_limits<int64_t>::max(), std::move(messages));
  Progress progress("looking for bad pictures", static_cast<int64_t>(samples.size()), "pairs");
  TolerantReader<bool> reader(samples.size(), bad, [&](size_t i) {
    load_sample(samples[i]);
    return true;
  });
  while (!reader.next(8 * static_cast<size_t>(num_threads())).empty())
    progress.update(static_cast<int64_t>(reader.position()));
  progress.finish();
  BadImages(limit, bad.messages()).check();
}

}  // namespace camo::app
