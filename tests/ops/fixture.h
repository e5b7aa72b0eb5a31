// Cases of tests/golden/math.safetensors, recorded from PyTorch in f64, and comparisons between ways to compute.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "core/safetensors.h"
#include "tests/support/test_support.h"

namespace camo::test {

using Function = std::function<Tensor(const Tensors&)>;

/// One recorded case: inputs, output, cotangent and gradients.
class Fixture {
 public:
  explicit Fixture(std::string name) : name_(std::move(name)) {}

  /// A copy of the recorded tensor CASE/NAME on the default device.
  Tensor at(const std::string& name) const {
    const Tensor& recorded = file().at(name_ + "/" + name);
    const Tensor x = empty(recorded.shape(), recorded.dtype());
    copy_into(x, recorded);
    return x;
  }

  /// fn on the recorded inputs gives the recorded output and gradients. Inputs without a recorded gradient are
  /// constants.
  void check(const std::vector<std::string>& names, const Function& fn, double tolerance = 1e-12) const {
    Tensors inputs;
    for (const std::string& name : names) {
      inputs.push_back(at("in/" + name));
      if (file().find(name_ + "/grad/" + name)) inputs.back().set_requires_grad(true);
    }
    const Tensor y = fn(inputs);
    EXPECT_TRUE(all_close(y, at("out"), tolerance)) << name_ << ": output";
    backward(y, at("dy"));
    for (size_t i = 0; i < names.size(); ++i) {
      if (!inputs[i].requires_grad()) continue;
      ASSERT_TRUE(inputs[i].grad().defined()) << name_ << ": gradient of " << names[i];
      EXPECT_TRUE(all_close(inputs[i].grad(), at("grad/" + names[i]), tolerance))
          << name_ << ": gradient of " << names[i];
    }
  }

 private:
  static const SafeTensors& file() {
    static const SafeTensors content = read_safetensors(CAMO_SOURCE_DIR "/tests/golden/math.safetensors");
    return content;
  }
  std::string name_;
};

/// Output and gradients of all inputs.
struct Gradients {
  Tensor y;
  Tensors grads;
};

inline Gradients run(const Function& fn, const Tensors& inputs, const Tensor& dy) {
  Tensors leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.detach().set_requires_grad(true));
  const Tensor y = fn(leaves);
  backward(y, dy);
  Gradients result{y.detach(), {}};
  for (const Tensor& leaf : leaves) result.grads.push_back(leaf.grad());
  return result;
}

inline Shape output_shape(const Function& fn, const Tensors& inputs) {
  const NoGrad guard;
  return fn(inputs).shape();
}

inline Tensor converted(const Tensor& x, DType dtype) {
  Tensor y = empty(x.shape(), dtype);
  copy_into(y, x);
  return y;
}

inline void expect_equal_runs(const Gradients& got, const Gradients& expected, double tolerance) {
  EXPECT_TRUE(all_close(got.y, expected.y, tolerance)) << "output";
  for (size_t i = 0; i < expected.grads.size(); ++i) {
    EXPECT_TRUE(all_close(got.grads[i], expected.grads[i], tolerance)) << "gradient of input " << i;
  }
}

/// fn gives in f32 what it gives in f64 on the same numbers, but for rounding.
inline void expect_f32_agrees(const Function& fn, const Tensors& inputs, double tolerance) {
  const Tensor dy = uniform(output_shape(fn, inputs), f32);
  Tensors narrow, wide;
  for (const Tensor& x : inputs) {
    narrow.push_back(converted(x, f32));
    wide.push_back(converted(narrow.back(), f64));
  }
  const Gradients got = run(fn, narrow, dy);
  EXPECT_EQ(got.y.dtype(), f32);
  expect_equal_runs(got, run(fn, wide, converted(dy, f64)), tolerance);
}

/// fn gives the same from inputs that are views with other strides.
inline void expect_strided_agrees(const Function& fn, const Tensors& inputs, double tolerance = 1e-13) {
  const Tensor dy = uniform(output_shape(fn, inputs), inputs[0].dtype());
  Tensors gaps, reversed;  // rows with gaps between them; axes in reverse order
  for (const Tensor& x : inputs) {
    Shape wide = x.shape(), strides = x.shape();
    wide[wide.size() - 1] += 5;
    gaps.push_back(make_view(empty(wide, x.dtype()), x.shape(), wide.contiguous_strides(), 3));
    copy_into(gaps.back(), x);
    int64_t step = 1;
    for (int i = 0; i < x.dims(); ++i) {
      strides[i] = step;
      step *= x.shape()[i];
    }
    reversed.push_back(make_view(empty({step}, x.dtype()), x.shape(), strides, 0));
    copy_into(reversed.back(), x);
  }
  const Gradients expected = run(fn, inputs, dy);
  expect_equal_runs(run(fn, gaps, dy), expected, tolerance);
  expect_equal_runs(run(fn, reversed, dy), expected, tolerance);
}

/// fn gives the same bits with one thread and with three.
inline void expect_threads_agree(const Function& fn, const Tensors& inputs) {
  const int before = num_threads();
  const Tensor dy = uniform(output_shape(fn, inputs), inputs[0].dtype());
  set_num_threads(1);
  const Gradients one = run(fn, inputs, dy);
  set_num_threads(3);
  const Gradients three = run(fn, inputs, dy);
  set_num_threads(before);
  EXPECT_TRUE(bitwise_equal(one.y, three.y)) << "output";
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(bitwise_equal(one.grads[i], three.grads[i])) << "gradient of input " << i;
  }
}

}  // namespace camo::test
