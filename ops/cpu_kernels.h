// The choice between the fast and the plain CPU implementations.
#pragma once

namespace camo {

/// fast: the library or the vectorised loops where there are some; plain: the readable loops (the oracle).
enum class CpuKernels { fast, plain };
CpuKernels cpu_kernels();
/// For tests and measurements. Applies to all operations with a fast CPU path; default fast.
void set_cpu_kernels(CpuKernels choice);

}  // namespace camo
