// Products of matrices in CUDA memory, on cuBLASLt. Only builds with CUDA have gemm_cuda().
#pragma once

#include <cstdint>

#include "core/device.h"
#include "core/dtype.h"

namespace camo::detail {

/// A batch of matrices in device memory, in two levels. Element (i, j) of matrix (o, b) is
/// data[o * outer_stride + b * inner_stride + i * ld + j], or ... + j * ld + i when transposed. A stride of 0 repeats.
struct CudaMatrix {
  void* data = nullptr;
  int64_t ld = 1;  // at least the length of what is contiguous
  bool transposed = false;
  int64_t outer_stride = 0;
  int64_t inner_stride = 0;
};

enum class GemmEpilogue {
  none,
  bias,  // c[i, j] = (a b)[i, j] + bias[j]
};

/// c [rows, cols] = a [rows, depth] b [depth, cols], or c += a b, for each of outer * inner matrices.
struct CudaGemm {
  Device device;
  DType dtype = DType::f32;  // of a and b: f32, f64, f16 or bf16; sums are kept in f32 (f64 for f64)
  DType out = DType::f32;    // of c and bias: dtype, or f32
  int64_t rows = 0, cols = 0, depth = 0;
  CudaMatrix a, b, c;  // c is not transposed
  int64_t outer = 1, inner = 1;
  bool accumulate = false;
  GemmEpilogue epilogue = GemmEpilogue::none;  // with one matrix only
  void* bias = nullptr;                        // aligned to 16 bytes
};

/// Runs on the compute stream of the device. f32 uses TF32 where allow_tf32(). False, and nothing done, when cuBLASLt
/// has no kernel with this epilogue; without an epilogue there always is one. Extents are at least 1.
bool gemm_cuda(const CudaGemm& gemm);

/// Plans kept for the shapes seen so far, of all devices.
int64_t gemm_cuda_plan_count();

}  // namespace camo::detail
