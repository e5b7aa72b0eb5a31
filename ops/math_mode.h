// Numerical and tuning choices that hold for all matrix products, convolutions and attention on CUDA.
#pragma once

namespace camo {

/// Whether products of f32 numbers may run on tensor cores with inputs rounded to TF32 (10 bits of significand instead
/// of 23; sums stay f32). Attention then rounds to as many bits, in most calls (docs/ATTENTION.md). It should not
/// change between the forward and the backward pass of a graph. Default off.
bool allow_tf32();
void set_allow_tf32(bool allow);
/// Sets it while this lives.
class Tf32Scope {
 public:
  explicit Tf32Scope(bool allow) : before_(allow_tf32()) { set_allow_tf32(allow); }
  ~Tf32Scope() { set_allow_tf32(before_); }
  Tf32Scope(const Tf32Scope&) = delete;
  Tf32Scope& operator=(const Tf32Scope&) = delete;

 private:
  bool before_;
};

/// Whether convolutions time the candidates of cuDNN at the first call with a shape and keep the fastest, instead of
/// taking the one that cuDNN's heuristics put first. The choice, and so the last bits of results, may then differ from
/// run to run. Default off.
bool conv_autotune();
void set_conv_autotune(bool on);

/// Which implementation conv2d uses on CUDA. Others than automatic are for tests and measurements; where one does not
/// cover a problem, automatic is used.
enum class CudaConvolution {
  automatic,
  cudnn,
  depthwise,  // the kernels for one output channel a group
  patches,    // windows that do not overlap: a permutation and a matrix product
  direct,     // plain loops, any problem: what runs where no engine of cuDNN does
};
CudaConvolution cuda_convolution();
void set_cuda_convolution(CudaConvolution choice);

}  // namespace camo
