// Numeric gradient checks in double precision.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "nn/module.h"

namespace camo {

struct GradcheckOptions {
  double relative_tolerance = 1e-5;
  double absolute_tolerance = 1e-7;
  double step = 1e-6;    // central differences: (f(x + step) - f(x - step)) / (2 * step)
  uint64_t seed = 0;     // of the random projection of the outputs
  int64_t elements = 0;  // of a tensor that are moved, evenly spread and the first among them; 0: all
};

/// What a check found. `message` is empty on success, else names the worst element: input, index, both values, and the
/// slopes on both sides where these differ (a kink).
struct GradcheckResult {
  bool ok = false;
  double worst_error = 0;  // largest |analytic - numeric| / (absolute_tolerance / relative_tolerance + |numeric|)
  std::string message;
};

using TensorFunction = std::function<Tensors(const Tensors&)>;

/// Compares the gradients of fn's outputs, projected with random weights, with central differences, for every element
/// (or options.elements) of every f64 input (inputs of other dtypes are passed through). Also checks that two backward
/// runs agree bit for bit, that a zero cotangent gives zero gradients, and that every f64 input gets a gradient.
/// Floating outputs without a graph take part, so that a cut graph shows as a wrong gradient; whole-number outputs are
/// ignored. Inputs may be strided views; they are perturbed in place and put back, and leaves that share their memory
/// get the gradients. Throws when an input is f32 or 16-bit, or when two elements share memory (stride 0, or one tensor
/// passed twice).
GradcheckResult gradcheck(const TensorFunction& fn, const Tensors& inputs, const GradcheckOptions& options = {});

/// The same for a module's forward pass: its parameters (f64) are checked besides the inputs, by name; frozen ones are
/// left out. Fails, too, when the graph reaches a tensor that wants a gradient and is neither: one that the module
/// forgot to register.
GradcheckResult gradcheck(Module& module, const TensorFunction& forward, const Tensors& inputs,
                          const GradcheckOptions& options = {});

/// One registered check: an operation on one shape.
struct GradientCase {
  std::string op;       // the operation's name, as in its Node
  std::string variant;  // "odd sizes", "strided", ...
  TensorFunction fn;
  std::function<Tensors()> inputs;  // fresh inputs; f64 ones are checked
  GradcheckOptions options = {};
};

/// All registered checks: every differentiable operation on at least five shapes. One function a family, in
/// nn/gradient_cases/.
std::vector<GradientCase> all_gradient_cases();
std::vector<GradientCase> elementwise_gradient_cases();
std::vector<GradientCase> reduce_gradient_cases();
std::vector<GradientCase> shape_gradient_cases();
std::vector<GradientCase> matmul_gradient_cases();  // matmul, linear, attention, softmax
std::vector<GradientCase> conv_gradient_cases();    // convolution, pools, resize
std::vector<GradientCase> norm_gradient_cases();    // normalisations, dropout, losses

}  // namespace camo
