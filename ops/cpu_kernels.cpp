#include "ops/cpu_kernels.h"

#include <atomic>

namespace camo {

namespace {
std::atomic<CpuKernels> g_cpu_kernels{CpuKernels::fast};
}  // namespace

CpuKernels cpu_kernels() { return g_cpu_kernels.load(std::memory_order_relaxed); }
void set_cpu_kernels(CpuKernels choice) { g_cpu_kernels.store(choice, std::memory_order_relaxed); }

}  // namespace camo
