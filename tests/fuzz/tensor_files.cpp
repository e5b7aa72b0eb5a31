// .safetensors and .pth, opened and read to the last tensor.
#include "tests/fuzz/tensor_files.h"

#include <algorithm>
#include <cstdlib>

#include "core/error.h"
#include "core/pth/zip_archive.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"
#include "tests/support/crafted_zip.h"

namespace camo::fuzz {
namespace {

using test::CraftedZip;

bool run_tensor_file(std::span<const uint8_t> bytes) {
  try {
    read_all(*open_tensor_file(InputFile(bytes, "input")));
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// A pickle with one instruction's number changed, an instruction exchanged, or a piece repeated.
std::string mutate_pickle(std::string pickle, Random& random) {
  constexpr std::string_view kInstructions =
      "(N\x88\x89KMJ\x8aGX\x8c\x8d]})te\x85\x86\x87"
      "asuqr\x94hjc\x93\x95QR\x81"
      "b.";
  if (pickle.size() < 4) return mutate_bytes(std::move(pickle), random);
  const size_t at = 2 + random.below(pickle.size() - 3);
  switch (random.below(4)) {
    case 0: {  // the next small number: an extent, a stride, an offset
      const size_t found = pickle.find('K', at);
      if (found == std::string::npos || found + 1 >= pickle.size()) break;
      const uint64_t value = random.number();
      return pickle.replace(found, 2,
                            value < 0x80000000 && random.one_in(2) ? "J" + test::raw(static_cast<uint32_t>(value))
                                                                   : "\x8a\x08" + test::raw(value));
    }
    case 1: pickle[at] = kInstructions[random.below(kInstructions.size())]; return pickle;
    case 2: {
      const std::string piece = pickle.substr(at, 1 + random.below(64));
      std::string repeated;
      for (size_t times = 1 + random.below(random.one_in(64) ? 1000 : 3); times > 0; --times) repeated += piece;
      return pickle.insert(at, repeated);
    }
    default: break;
  }
  return mutate_bytes(std::move(pickle), random);
}

}  // namespace

void read_all(const TensorFile& file) {
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const Tensor tensor = file.read(i);
    if (tensor.shape() != file.tensors()[i].shape || tensor.dtype() != file.tensors()[i].dtype) std::abort();
    if (!tensor.is_contiguous()) std::abort();
  }
}

std::string mutate_safetensors(const std::string& bytes, uint64_t seed) {
  Random random(seed);
  uint64_t length = 0;
  if (bytes.size() >= sizeof length) std::memcpy(&length, bytes.data(), sizeof length);
  if (bytes.size() < sizeof length || length > bytes.size() - sizeof length || random.one_in(8)) {
    return mutate_bytes(bytes, random);
  }
  std::string json = bytes.substr(sizeof length, length), data = bytes.substr(sizeof length + length);
  if (random.one_in(4)) data = mutate_bytes(data, random);
  else json = random.one_in(2) ? mutate_decimal(json, random) : mutate_bytes(json, random);
  return test::raw(static_cast<uint64_t>(json.size())) + json + data;
}

std::string mutate_pth(const std::string& bytes, uint64_t seed) {
  Random random(seed);
  if (random.one_in(8)) return mutate_bytes(bytes, random);
  CraftedZip zip;
  try {
    const detail::ZipArchive archive(InputFile(bytes_of(bytes), "input"));
    for (const detail::ZipEntry& entry : archive.entries()) zip.add(entry.name, archive.read(entry));
  } catch (const Error&) {
    return mutate_bytes(bytes, random);
  }
  if (zip.entries.empty()) return mutate_bytes(bytes, random);
  size_t chosen = random.below(zip.entries.size());
  const size_t kind = random.below(8);
  if (kind < 4) {  // most of what there is to get wrong is in the pickle
    for (size_t i = 0; i < zip.entries.size(); ++i) {
      if (zip.entries[i].name.ends_with("data.pkl")) chosen = i;
    }
    zip.entries[chosen].data = mutate_pickle(zip.entries[chosen].data, random);
  } else if (kind == 4) {
    zip.entries[chosen].data = mutate_bytes(zip.entries[chosen].data, random);
  } else if (kind == 5) {
    if (random.one_in(2)) zip.entries.erase(zip.entries.begin() + static_cast<std::ptrdiff_t>(chosen));
    else zip.add(zip.entries[chosen].name + (random.one_in(2) ? "" : "0"), zip.entries[chosen].data);
  }
  zip.has_zip64 = random.one_in(2);
  zip.layout();
  if (kind >= 6 && !zip.entries.empty()) {
    CraftedZip::Entry& entry = zip.entries[random.below(zip.entries.size())];
    switch (random.below(5)) {
      case 0: mutate_record(entry.local, random); break;
      case 1: mutate_record(entry.central, random); break;
      case 2: mutate_record(zip.wide, random); break;
      case 3: mutate_record(zip.locator, random); break;
      default: mutate_record(zip.end, random);
    }
  }
  return zip.str();
}

Target safetensors_target() { return {"safetensors", run_tensor_file, mutate_safetensors}; }
Target pth_target() { return {"pth", run_tensor_file, mutate_pth}; }

}  // namespace camo::fuzz
