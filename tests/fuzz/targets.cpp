#include "tests/fuzz/targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "apps/camoxpert/training/train_options.h"
#include "core/tensor_file.h"
#include "data/image.h"
#include "models/weights/describe.h"
#include "models/weights/state.h"

namespace camo::fuzz {
namespace {

/// Reads every tensor of a file of either format, one at a time.
void read_all(const TensorFile& file) {
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const Tensor tensor = file.read(i);
    if (tensor.shape() != file.tensors()[i].shape || tensor.dtype() != file.tensors()[i].dtype) std::abort();
    if (!tensor.is_contiguous()) std::abort();
  }
}

bool run_tensor_file(std::span<const uint8_t> bytes) {
  const MemoryFile file(bytes);
  try {
    read_all(*open_tensor_file(file.path()));
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// As `camoxpert info` and the loading of a network see a file, short of building the network.
bool run_checkpoint(std::span<const uint8_t> bytes) {
  const MemoryFile memory(bytes);
  try {
    const auto file = open_tensor_file(memory.path());
    const FileState state = find_state(*file);
    for (const StateEntry& entry : state.entries) {
      for (const NamedForm& form : kNameForms) from_camoxpert(form.form, entry.name);
    }
    describe_backbone(*file, state);
    describe_camoxpert(*file, state);
    read_all(*file);
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// The flags of `camoxpert train`, declared once: declaring takes longer than reading a file.
struct ConfigurationReader {
  CLI::App app;
  app::TrainOptions options;

  ConfigurationReader() {
    app.require_subcommand(1);
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    app.set_config("--config", "", "")->expected(1);
    app.fallthrough();
    options.add_to(*app.add_subcommand("train", ""));
  }
};

bool run_configuration(std::span<const uint8_t> bytes) {
  static ConfigurationReader reader;
  const MemoryFile file(bytes);
  reader.options = {};
  try {
    reader.app.parse(std::vector<std::string>{file.path(), "--config", "train"});  // from the back, as CLI11 wants it
    reader.options.check();
    return true;
  } catch (const CLI::Error&) {
    return false;
  } catch (const Error&) {
    return false;
  }
}

uint32_t big_endian(std::span<const uint8_t> bytes, size_t at, size_t count) {
  uint32_t value = 0;
  for (size_t i = 0; i < count && at + i < bytes.size(); ++i) value = value << 8 | bytes[at + i];
  return value;
}

/// Pictures that say they are large take seconds to decode, as they may: fuzzing would do nothing else.
bool says_it_is_large(std::span<const uint8_t> bytes) {
  constexpr uint64_t kPixels = 1 << 18;
  const auto large = [](uint64_t width, uint64_t height) { return width * height > kPixels; };
  if (bytes.size() > 24 && bytes[0] == 0x89) return large(big_endian(bytes, 16, 4), big_endian(bytes, 20, 4));
  if (bytes.size() > 26 && bytes[0] == 'B') return false;  // stored pixels, as large as the file
  for (size_t at = 2; at + 9 < bytes.size(); ++at) {       // any frame header that a decoder could meet
    if (bytes[at] == 0xff && (bytes[at + 1] & 0xf0) == 0xc0 &&
        large(big_endian(bytes, at + 7, 2), big_endian(bytes, at + 5, 2))) {
      return true;
    }
  }
  return false;
}

bool run_picture(std::span<const uint8_t> bytes) {
  if (says_it_is_large(bytes)) return false;
  try {
    for (const int channels : {1, 3}) {
      const Image image = decode_image(bytes, channels, "input");
      const auto pixels = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
      if (image.pixels.size() != pixels * static_cast<size_t>(channels)) std::abort();
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

constexpr std::array<Target, 5> kTargets{{{"safetensors", run_tensor_file, mutate_safetensors},
                                          {"pth", run_tensor_file, mutate_pth},
                                          {"checkpoint", run_checkpoint, mutate_safetensors},
                                          {"configuration", run_configuration, nullptr},
                                          {"picture", run_picture, nullptr}}};

}  // namespace

const std::array<Target, 5>& targets() { return kTargets; }

const Target& target(std::string_view name) {
  const auto* found = std::ranges::find(kTargets, name, &Target::name);
  if (found == kTargets.end()) std::abort();
  return *found;
}

MemoryFile::MemoryFile(std::span<const uint8_t> bytes) : descriptor_(::memfd_create("fuzz", MFD_CLOEXEC)) {
  if (descriptor_ < 0) std::abort();
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = ::write(descriptor_, bytes.data() + done, bytes.size() - done);
    if (count <= 0) std::abort();
    done += static_cast<size_t>(count);
  }
  path_ = "/proc/self/fd/" + std::to_string(descriptor_);
}

MemoryFile::~MemoryFile() { ::close(descriptor_); }

}  // namespace camo::fuzz
