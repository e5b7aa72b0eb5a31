// The stack machine that pickles are programs for.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/pth/pickle_tree.h"

namespace camo::detail {

/// Runs the pickle of a tree and fills the tree.
class PickleMachine {
 public:
  explicit PickleMachine(PickleTree& tree) : tree_(tree), pickle_(tree.pickle_) {}
  void run();

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(ErrorCode::checkpoint, tree_.file_, ": pickle, at byte ", instruction_, ": ", parts...);
  }

  // --- the bytes ---
  /// The offset of the next bytes, which are then behind.
  size_t take(uint64_t bytes);
  template <class T>
  T next() {
    T value{};
    std::memcpy(&value, pickle_.data() + take(sizeof value), sizeof value);
    return value;
  }
  std::string_view line();
  void push_text(uint64_t bytes, PickleKind kind = PickleKind::text);
  void push_long(uint64_t bytes);
  void push_real();

  // --- the stack ---
  void charge(size_t bytes);
  void push(PickleValue value);
  void push(PickleKind kind, uint64_t data = 0) { push(PickleValue{.kind = kind, .data = data}); }
  PickleValue pop();
  std::vector<PickleValue> pop_to_mark();
  /// The value under what is popped next; it must be of this kind.
  PickleValue top(PickleKind kind, const char* what) const;
  void remember(uint64_t key);
  void recall(uint64_t key);

  // --- containers ---
  void push_container(PickleKind kind, std::vector<PickleValue> items);
  void push_tuple(size_t count);
  void extend(PickleValue container, const std::vector<PickleValue>& items);
  void append_one();
  void set_one();
  void set_marked();

  // --- what needs a name (pickle_names.cpp) ---
  void push_global(const std::string& name);
  void push_stack_global();
  void push_storage();
  void reduce();
  void make_object();
  void build();
  void push_tensor(const std::vector<PickleValue>& arguments);
  uint64_t whole(const PickleValue& value, const char* what) const;
  std::vector<PickleValue> pop_arguments();

  void step(unsigned char instruction);

  PickleTree& tree_;
  const std::string& pickle_;
  size_t at_ = 0, instruction_ = 0;  // offsets: of the next byte, of the instruction that runs
  size_t bytes_ = 0;                 // of everything that was built
  std::vector<PickleValue> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint64_t, PickleValue> memo_;
  std::unordered_map<std::string_view, uint64_t> storage_of_key_;
};

}  // namespace camo::detail
