// Checkpoints as `camoxpert info` and the loading of a network see them, short of building the network, and the state
// of the run as --resume does.
#include "apps/camoxpert/training/run_state.h"
#include "core/checksums.h"
#include "core/error.h"
#include "core/safetensors.h"
#include "core/safetensors_header.h"
#include "models/weights/describe.h"
#include "models/weights/state.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"
#include "tests/fuzz/tensor_files.h"

namespace camo::fuzz {
namespace {

constexpr const char* kRunState = "run_state";

bool run_checkpoint(std::span<const uint8_t> bytes) {
  try {
    const auto file = open_tensor_file(InputFile(bytes, "input"));
    verify_checksums(*file);
    const FileState state = find_state(*file);
    for (const StateEntry& entry : state.entries) {
      for (const NamedForm& form : kNameForms) from_camoxpert(form.form, entry.name);
    }
    describe_backbone(*file, state);
    describe_camoxpert(*file, state);
    read_all(*file);
    const auto run = file->metadata().find(kRunState);
    if (run != file->metadata().end()) app::to_text(app::run_state_from_text(run->second, "input"));
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// A checkpoint with a text or a tensor changed, and checksums that fit.
std::string mutate_checked(const std::string& bytes, Random& random) {
  const SafeTensorsFile file(InputFile(bytes_of(bytes), "input"));
  SafeTensors content{.tensors = {}, .metadata = file.metadata()};
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    content.tensors.emplace_back(file.tensors()[i].name, file.read(i));
  }
  const auto any = [&](auto& list) {
    return std::next(list.begin(), static_cast<std::ptrdiff_t>(random.below(list.size())));
  };
  const size_t kind = content.tensors.empty() ? 3 : random.below(8);
  if (kind == 0) content.tensors.erase(any(content.tensors));
  else if (kind == 1) any(content.tensors)->first = any(content.tensors)->first + (random.one_in(2) ? ".0" : "");
  else if (kind == 2) any(content.tensors)->first = mutate_decimal(any(content.tensors)->first, random);
  else if (!content.metadata.empty()) {
    std::string& text = any(content.metadata)->second;
    text = random.one_in(2) ? mutate_decimal(text, random) : mutate_bytes(text, random);
  }
  if (!random.one_in(8)) add_checksums(content);
  std::string out = detail::safetensors_head(content);
  for (const auto& [name, tensor] : content.tensors) {
    out.append(static_cast<const char*>(tensor.raw_data()),
               static_cast<size_t>(tensor.numel() * size_in_bytes(tensor.dtype())));
  }
  return out;
}

std::string mutate_checkpoint(const std::string& bytes, uint64_t seed) {
  if (bytes.starts_with("PK")) return mutate_pth(bytes, seed);
  Random random(seed);
  if (random.one_in(2)) return mutate_safetensors(bytes, random());
  try {
    return mutate_checked(bytes, random);
  } catch (const Error&) {  // was no such file, or its texts would be no UTF-8
    return mutate_safetensors(bytes, random());
  }
}

}  // namespace

Target checkpoint_target() { return {"checkpoint", run_checkpoint, mutate_checkpoint}; }

}  // namespace camo::fuzz
