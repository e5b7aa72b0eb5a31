#include "core/pth/pickle_machine.h"

#include <bit>
#include <utility>

namespace camo::detail {
namespace {

static_assert(std::endian::native == std::endian::little,
              "numbers in pickles are little-endian, and copied as they are");

constexpr size_t kLargestPickle = size_t{256} << 20;
constexpr size_t kMostBytes = size_t{16} << 20;  // of everything that is built
constexpr size_t kMostStacked = 100'000;         // PyTorch stacks a few thousand values at a time
constexpr size_t kMostMarks = 1'000;
constexpr size_t kLongestName = 256;
constexpr int kNewestProtocol = 5;
constexpr size_t kContainerBytes = sizeof(std::vector<PickleValue>) + 32;  // with the allocator's share
constexpr size_t kMemoBytes = sizeof(PickleValue) + 32;

}  // namespace

PickleTree::PickleTree(std::string pickle, std::string file) : pickle_(std::move(pickle)), file_(std::move(file)) {
  PickleMachine(*this).run();
}

void PickleMachine::run() {
  if (pickle_.size() > kLargestPickle) {
    refuse("the pickle must be at most ", kLargestPickle, " bytes; got ", pickle_.size());
  }
  const auto first = next<uint8_t>(), protocol = next<uint8_t>();
  if (first != 0x80 || protocol < 2 || protocol > kNewestProtocol) {
    refuse("a pickle must begin with its protocol, 2 to ", kNewestProtocol, "; got the bytes ", first, " ", protocol);
  }
  while (true) {
    instruction_ = at_;
    const auto instruction = next<uint8_t>();
    if (instruction == '.') break;
    step(instruction);
  }
  if (stack_.size() != 1 || !marks_.empty()) refuse("a pickle must leave one value; got ", stack_.size());
  tree_.root_ = stack_.back();
}

void PickleMachine::step(unsigned char instruction) {
  switch (instruction) {
    case '(':
      if (marks_.size() >= kMostMarks) refuse("containers may nest ", kMostMarks, " deep; got more");
      marks_.push_back(stack_.size());
      break;
    case 'N': push(PickleKind::none); break;
    case 0x88: push(PickleKind::boolean, 1); break;
    case 0x89: push(PickleKind::boolean, 0); break;
    case 'K': push(PickleKind::integer, next<uint8_t>()); break;
    case 'M': push(PickleKind::integer, next<uint16_t>()); break;
    case 'J': push(PickleKind::integer, static_cast<uint64_t>(int64_t{next<int32_t>()})); break;
    case 0x8a: push_long(next<uint8_t>()); break;
    case 'G': push_real(); break;
    case 'X': push_text(next<uint32_t>()); break;
    case 0x8c: push_text(next<uint8_t>()); break;
    case 0x8d: push_text(next<uint64_t>()); break;
    case 'B': push_text(next<uint32_t>(), PickleKind::other); break;
    case 'C': push_text(next<uint8_t>(), PickleKind::other); break;
    case ']': push_container(PickleKind::list, {}); break;
    case '}': push_container(PickleKind::dict, {}); break;
    case ')': push_container(PickleKind::tuple, {}); break;
    case 't': push_container(PickleKind::tuple, pop_to_mark()); break;
    case 0x85: push_tuple(1); break;
    case 0x86: push_tuple(2); break;
    case 0x87: push_tuple(3); break;
    case 'a': append_one(); break;
    case 'e': {
      const std::vector<PickleValue> items = pop_to_mark();
      extend(top(PickleKind::list, "a list"), items);
      break;
    }
    case 's': set_one(); break;
    case 'u': set_marked(); break;
    case 'q': remember(next<uint8_t>()); break;
    case 'r': remember(next<uint32_t>()); break;
    case 0x94: remember(memo_.size()); break;
    case 'h': recall(next<uint8_t>()); break;
    case 'j': recall(next<uint32_t>()); break;
    case 'c': {
      const std::string_view module = line(), name = line();
      push_global(concat_text(module, ".", name));
      break;
    }
    case 0x93: push_stack_global(); break;
    case 0x95: next<uint64_t>(); break;  // the length of a frame, for readers that buffer
    case 'Q': push_storage(); break;
    case 'R': reduce(); break;
    case 0x81: make_object(); break;
    case 'b': build(); break;
    default:
      refuse("only what state dicts need can be read; got the instruction ", instruction,
             instruction >= 0x20 && instruction < 0x7f ? concat_text(" ('", static_cast<char>(instruction), "')") : "");
  }
}

size_t PickleMachine::take(uint64_t bytes) {
  if (bytes > pickle_.size() - at_) refuse("the pickle ends within this instruction");
  at_ += bytes;
  return at_ - bytes;
}

std::string_view PickleMachine::line() {
  const std::string_view rest = std::string_view(pickle_).substr(at_, kLongestName + 1);
  const size_t end = rest.find('\n');
  if (end == std::string_view::npos) refuse("a name must end within ", kLongestName, " bytes");
  at_ += end + 1;
  return rest.substr(0, end);
}

void PickleMachine::push_text(uint64_t bytes, PickleKind kind) {
  const size_t begin = take(bytes);
  push(PickleValue{.kind = kind, .bytes = static_cast<uint32_t>(bytes), .data = begin});
}

void PickleMachine::push_long(uint64_t bytes) {
  if (bytes > sizeof(int64_t)) refuse("whole numbers must fit into 64 bits; got one of ", bytes, " bytes");
  const size_t begin = take(bytes);
  uint64_t value = 0;
  std::memcpy(&value, pickle_.data() + begin, bytes);
  if (bytes > 0 && bytes < sizeof value && (value >> (8 * bytes - 1)) != 0) value |= ~uint64_t{0} << (8 * bytes);
  push(PickleKind::integer, value);
}

void PickleMachine::push_real() {
  const auto swapped = next<uint64_t>();  // the only big-endian number
  push(PickleKind::real, __builtin_bswap64(swapped));
}

void PickleMachine::charge(size_t bytes) {
  bytes_ += bytes;
  if (bytes_ > kMostBytes) refuse("the objects must fit into ", kMostBytes >> 20, " MB; got more");
}

void PickleMachine::push(PickleValue value) {
  if (stack_.size() >= kMostStacked) refuse("at most ", kMostStacked, " values may be stacked; got more");
  stack_.push_back(value);
}

PickleValue PickleMachine::pop() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) refuse("this instruction needs a value; there is none");
  const PickleValue value = stack_.back();
  stack_.pop_back();
  return value;
}

std::vector<PickleValue> PickleMachine::pop_to_mark() {
  if (marks_.empty()) refuse("this instruction needs a mark; there is none");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<PickleValue> values(begin, stack_.end());
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return values;
}

PickleValue PickleMachine::top(PickleKind kind, const char* what) const {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back()) || stack_.back().kind != kind) {
    refuse("this instruction needs ", what, "; there is none");
  }
  return stack_.back();
}

void PickleMachine::remember(uint64_t key) {
  const PickleValue value = pop();
  push(value);
  if (memo_.insert_or_assign(key, value).second) charge(kMemoBytes);
}

void PickleMachine::recall(uint64_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) refuse("a value must be remembered before it is recalled; got number ", key);
  push(found->second);
}

void PickleMachine::push_container(PickleKind kind, std::vector<PickleValue> items) {
  charge(kContainerBytes + items.size() * sizeof(PickleValue));
  push(kind, tree_.containers_.size());
  tree_.containers_.push_back(std::move(items));
}

void PickleMachine::push_tuple(size_t count) {
  std::vector<PickleValue> items(count);
  while (count > 0) items[--count] = pop();
  push_container(PickleKind::tuple, std::move(items));
}

void PickleMachine::extend(PickleValue container, const std::vector<PickleValue>& items) {
  charge(2 * items.size() * sizeof(PickleValue));  // vectors grow by a factor of two
  std::vector<PickleValue>& own = tree_.containers_[container.data];
  own.insert(own.end(), items.begin(), items.end());
}

void PickleMachine::append_one() {
  const PickleValue item = pop();
  extend(top(PickleKind::list, "a list"), {item});
}

void PickleMachine::set_one() {
  const PickleValue value = pop(), key = pop();
  extend(top(PickleKind::dict, "a dict"), {key, value});
}

void PickleMachine::set_marked() {
  const std::vector<PickleValue> items = pop_to_mark();
  if (items.size() % 2 != 0) refuse("a dict takes keys and values in pairs; got ", items.size());
  extend(top(PickleKind::dict, "a dict"), items);
}

}  // namespace camo::detail
