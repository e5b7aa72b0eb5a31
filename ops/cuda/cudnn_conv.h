// Convolutions by cuDNN: plans chosen by its heuristics for a problem, kept in a cache of each thread.
//
// Engines that are not deterministic, that lose precision (FFT, Winograd, sums in 16 bits) or that round f32 inputs
// while allow_tf32() is off are never used.
#pragma once

#include <string>

#include "core/tensor.h"
#include "ops/detail/conv_problem.h"

namespace camo::cuda {

enum class ConvPass { forward, backward_data, backward_weight };

/// Runs one pass on contiguous tensors: y from x, weight and the bias (or none); dx from dy and weight; dweight from x
/// and dy. The pass's own result is written. False when cuDNN has no engine for the problem: nothing is done then, and
/// cudnn_refusal() says why.
bool cudnn_conv(ConvPass pass, const detail::ConvProblem& problem, const Tensor& x, const Tensor& weight,
                const Tensor& bias, const Tensor& y);
/// cuDNN's reason for the last refusal on this thread.
const std::string& cudnn_refusal();

/// Bytes of workspace that a plan may have.
inline constexpr int64_t kConvWorkspace = int64_t{256} << 20;

}  // namespace camo::cuda
