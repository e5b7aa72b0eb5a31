#include "ops/math_mode.h"

#include <atomic>

namespace camo {

namespace {
std::atomic<bool> g_allow_tf32{false};
std::atomic<bool> g_conv_autotune{false};
std::atomic<CudaConvolution> g_cuda_convolution{CudaConvolution::automatic};
}  // namespace

bool allow_tf32() { return g_allow_tf32.load(std::memory_order_relaxed); }
void set_allow_tf32(bool allow) { g_allow_tf32.store(allow, std::memory_order_relaxed); }

bool conv_autotune() { return g_conv_autotune.load(std::memory_order_relaxed); }
void set_conv_autotune(bool on) { g_conv_autotune.store(on, std::memory_order_relaxed); }

CudaConvolution cuda_convolution() { return g_cuda_convolution.load(std::memory_order_relaxed); }
void set_cuda_convolution(CudaConvolution choice) { g_cuda_convolution.store(choice, std::memory_order_relaxed); }

}  // namespace camo
