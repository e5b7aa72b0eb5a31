#include "apps/camoxpert/system_info.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>

#include "apps/camoxpert/progress.h"
#include "core/device.h"
#include "core/parallel.h"

namespace camo::app {

namespace {

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string vector_instructions() {
#if defined(__AVX512F__)
  return "AVX-512";
#elif defined(__AVX2__)
  return "AVX2";
#else
  return "SSE2";
#endif
}

}  // namespace

int64_t physical_memory() { return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE); }

std::vector<std::pair<std::string, std::string>> system_info() {
  utsname system{};
  uname(&system);
  const std::string no_cuda = why_no_cuda();
  return {
      {"camoxpert", CAMO_VERSION " (" CAMO_BUILD_TYPE ", " + vector_instructions() + ", GCC " __VERSION__ ")"},
      {"system", std::string(system.sysname) + " " + system.release + " " + system.machine},
      {"processor", processor() + ", " + std::to_string(num_threads()) + " threads"},
      {"memory", format_bytes(physical_memory())},
      {"cuda", no_cuda.empty() ? "available" : "not available: " + no_cuda},
  };
}

}  // namespace camo::app
