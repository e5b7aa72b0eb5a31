// What happens to pictures that can't be used: --on-bad-image error or skip:N.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "data/dataset.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace camo::app {

/// The number of pictures that may be left out: 0 for "error", N for "skip:N" (N at least 1). Throws ErrorCode::usage.
int64_t parse_on_bad_image(const std::string& text);

/// Declares --on-bad-image.
CLI::Option* add_on_bad_image(CLI::App& command, std::string& text);

/// Pictures that were left out, in the order in which they were met, and how many more may be.
class BadImages {
 public:
  static constexpr size_t kNamedInFull = 50;  // thousands would hide what is said before them

  explicit BadImages(int64_t limit, std::vector<std::string> messages = {})
      : limit_(limit), messages_(std::move(messages)) {}

  void add(const std::string& message) { messages_.push_back(message); }
  const std::vector<std::string>& messages() const { return messages_; }
  bool too_many() const { return static_cast<int64_t>(messages_.size()) > limit_; }
  /// Throws ErrorCode::data when there are more than the limit. Names each; of more than kNamedInFull, the first ones.
  void check() const;
  /// Prints "left out: ..." for each, and how many; nothing when there are none.
  void report() const;

 private:
  int64_t limit_;
  std::vector<std::string> messages_;
};

/// Reads items 0 .. total - 1 in order, a batch at a time on all cores, and leaves out those whose reading throws
/// ErrorCode::data. Once there are too many of them, it reads the rest just to name every bad one, and throws as
/// BadImages::check() does.
template <class Item>
class TolerantReader {
 public:
  TolerantReader(size_t total, BadImages& bad, std::function<Item(size_t)> read)
      : total_(total), bad_(bad), read_(std::move(read)) {}

  /// The next `count` good items with their numbers; fewer at the end, none after it.
  std::vector<std::pair<size_t, Item>> next(size_t count) {
    std::vector<std::pair<size_t, Item>> found;
    while (!bad_.too_many() && found.size() < count && position_ < total_)
      read(std::min(count - found.size(), total_ - position_), &found);
    if (bad_.too_many()) {
      found.clear();
      while (position_ < total_) read(std::min<size_t>(total_ - position_, 64), nullptr);
      bad_.check();
    }
    return found;
  }
  /// Items read so far, good and bad.
  size_t position() const { return position_; }

 private:
  // The next `count` items, good and bad. Without `found` the good ones are dropped at once.
  void read(size_t count, std::vector<std::pair<size_t, Item>>* found) {
    std::vector<std::optional<Item>> items(count);
    std::vector<std::optional<std::string>> messages(count);
    parallel_for(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        try {
          Item item = read_(position_ + i);
          if (found != nullptr) items[i] = std::move(item);
        } catch (const Error& error) {
          if (error.code() != ErrorCode::data) throw;
          messages[i] = error.what();
        }
      }
    });
    for (size_t i = 0; i < count; ++i) {
      if (items[i]) found->emplace_back(position_ + i, std::move(*items[i]));
      else if (messages[i]) bad_.add(*messages[i]);
    }
    position_ += count;
  }

  size_t total_, position_ = 0;
  BadImages& bad_;
  std::function<Item(size_t)> read_;
};

/// Decodes all samples, on all cores. Throws as BadImages::check() does when those that can't be used, with `messages`
/// of others, are more than the limit.
void check_all(const std::vector<Sample>& samples, int64_t limit, std::vector<std::string> messages);

}  // namespace camo::app
