#include "apps/camoxpert/system_info.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>

#include "apps/camoxpert/progress.h"
#include "core/device.h"
#include "core/parallel.h"
#ifdef CAMO_WITH_CUDA
#include <cudnn.h>

#include "core/cuda/runtime.h"
#endif

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

using Lines = std::vector<std::pair<std::string, std::string>>;

#ifdef CAMO_WITH_CUDA
/// 13000 -> "13.0", as the CUDA runtime numbers versions.
std::string cuda_version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

void add_gpus(Lines& lines) {
  int driver = 0, runtime = 0;
  CAMO_CUDA(cudaDriverGetVersion(&driver));
  CAMO_CUDA(cudaRuntimeGetVersion(&runtime));
  const size_t cudnn = cudnnGetVersion();
  lines.emplace_back("cuda", "runtime " + cuda_version(runtime) + ", driver for up to " + cuda_version(driver) +
                                 ", cuDNN " + std::to_string(cudnn / 10000) + "." + std::to_string(cudnn / 100 % 100) +
                                 "." + std::to_string(cudnn % 100));
  for (int i = 0; i < cuda_device_count(); ++i) {
    const cuda::DeviceInfo& info = cuda::device_info(Device::cuda(i));
    lines.emplace_back(Device::cuda(i).str(), info.name + ", compute capability " + std::to_string(info.major) + "." +
                                                  std::to_string(info.minor) + ", " +
                                                  std::to_string(info.multiprocessors) + " multiprocessors, " +
                                                  format_bytes(info.total_bytes));
  }
}
#else
void add_gpus(Lines&) {}
#endif

}  // namespace

int64_t physical_memory() { return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE); }

std::vector<std::pair<std::string, std::string>> system_info() {
  utsname system{};
  uname(&system);
  const std::string no_cuda = why_no_cuda();
  Lines lines{
      {"camoxpert", CAMO_VERSION " (" CAMO_BUILD_TYPE ", " + vector_instructions() + ", GCC " __VERSION__ ")"},
      {"system", std::string(system.sysname) + " " + system.release + " " + system.machine},
      {"processor", processor() + ", " + std::to_string(num_threads()) + " threads"},
      {"memory", format_bytes(physical_memory())},
  };
  if (no_cuda.empty()) add_gpus(lines);
  else lines.emplace_back("cuda", "not available: " + no_cuda);
  return lines;
}

}  // namespace camo::app
