// libFuzzer's side of one target: CAMO_FUZZ_TARGET names its function. Empty in other builds.
#ifdef CAMO_FUZZ_TARGET

#include <algorithm>
#include <cstring>

#include "tests/fuzz/targets.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {
const camo::fuzz::Target kTarget = camo::fuzz::CAMO_FUZZ_TARGET();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kTarget.run({data, size});
  return 0;
}

/// Half of the changes are libFuzzer's, which follow coverage; half keep the structure.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  if (seed % 2 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const std::string mutated = kTarget.mutate({reinterpret_cast<const char*>(data), size}, seed);
  const size_t kept = std::min(mutated.size(), max_size);
  std::memcpy(data, mutated.data(), kept);
  return kept;
}

#endif
