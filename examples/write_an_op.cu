// An operation of its own, with CPU and CUDA code and a hand-written gradient, and a layer on it. One source for both
// builds: without nvcc this file compiles as plain C++. docs/WRITE_A_LAYER.md explains it.
//   example_write_an_op [cpu|cuda:N]
#include <cmath>
#include <cstdio>
#include <string>
#include <type_traits>

#include "core/autograd.h"
#include "core/parallel.h"
#include "nn/gradcheck.h"
#include "nn/gradient_cases/inputs.h"
#include "nn/layers.h"
#include "ops/ops.h"
#ifdef __CUDACC__
#include "core/cuda/kernels.cuh"
#endif

using camo::Tensor;
using camo::Tensors;

namespace {

// [doc: composition]
/// x * sigmoid(beta x) with one beta a channel (arXiv:1710.05941).    x: [..., C], beta: [C] -> [..., C]
Tensor swish_composed(const Tensor& x, const Tensor& beta) { return x * sigmoid(x * beta); }
// [doc end]

// [doc: element]
/// What a number is computed in: the 16-bit types in float.
template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// y[i] = x[i] s, s = 1 / (1 + exp(-beta x[i])). x and y are rows of `channels` without gaps.
template <class T>
struct SwishForward {
  const T* x;     // [rows, channels]
  const T* beta;  // [channels]
  int64_t channels;
  T* y;  // [rows, channels]

  CAMO_HOST_DEVICE void operator()(int64_t i) const {
    const auto v = camo::convert<Compute<T>>(x[i]), b = camo::convert<Compute<T>>(beta[i % channels]);
    y[i] = camo::convert<T>(v / (1 + std::exp(-b * v)));
  }
};

/// dx = dy s (1 + beta x (1 - s)); dbeta = sum over rows of dy x^2 s (1 - s), whose terms are left to sum_to().
template <class T>
struct SwishBackward {
  const T *dy, *x, *beta;
  int64_t channels;
  T* dx;
  Compute<T>* terms;  // [rows, channels]

  CAMO_HOST_DEVICE void operator()(int64_t i) const {
    const auto v = camo::convert<Compute<T>>(x[i]), b = camo::convert<Compute<T>>(beta[i % channels]);
    const auto g = camo::convert<Compute<T>>(dy[i]), s = 1 / (1 + std::exp(-b * v));
    dx[i] = camo::convert<T>(g * s * (1 + b * v * (1 - s)));
    terms[i] = g * v * v * s * (1 - s);
  }
};
// [doc end]

// [doc: devices]
/// Calls body.template operator()<T>() with the element type of a floating dtype.
template <class Body>
void dispatch(camo::DType dtype, Body&& body) {
  if (dtype == camo::f16) return body.template operator()<camo::Half>();
  if (dtype == camo::bf16) return body.template operator()<camo::BFloat16>();
  camo::dispatch_floating(dtype, "swish", body);  // throws for whole numbers
}

/// Calls element(i) for all i in [0, n): a loop over all cores, or a kernel.
template <class Element>
void for_each([[maybe_unused]] camo::Device device, int64_t n, const Element& element) {
#ifdef __CUDACC__
  if (device.is_cuda()) return camo::cuda::for_each(device, n, "swish", element);
#endif
  constexpr int64_t kGrain = 4096;  // elements for which a thread is worth waking
  camo::parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) element(i);
  });
}
// [doc end]

// [doc: node]
struct SwishNode final : camo::Node {
  SwishNode() : Node("swish") {}
  camo::Saved x{this, "x"}, beta{this, "beta"};  // contiguous, of one dtype

  Tensors backward(const Tensors& dy) override {
    const Tensor g = contiguous(dy[0]), dx = empty_like(*x);
    const Tensor terms = empty(x->shape(), x->dtype() == camo::f64 ? camo::f64 : camo::f32, x->device());
    dispatch(x->dtype(), [&]<class T>() {
      for_each(x->device(), x->numel(),
               SwishBackward<T>{g.data<T>(), x->data<T>(), beta->data<T>(), beta->numel(), dx.data<T>(),
                                terms.data<Compute<T>>()});
    });
    return {dx, needs(1) ? to(sum_to(terms, beta->shape()), beta->dtype()) : Tensor()};
  }
};
// [doc end]

// [doc: operation]
/// swish_composed in one pass that keeps nothing but its operands. Any floating dtypes; beta is rounded to x's. Throws
/// when beta is not [C], or elsewhere.
Tensor swish(const Tensor& x, const Tensor& beta) {
  CAMO_CHECK(x.dims() >= 1 && beta.shape() == camo::Shape{x.size(-1)},
             "swish: beta must be [C], C the last dimension of x; got beta ", beta.shape(), ", x ", x.shape());
  CAMO_CHECK(x.device() == beta.device(), "swish: operands must be on one device; got ", x.device(), " and ",
             beta.device(), "; move one with to(x, device)");
  const Tensor in = contiguous(x), b = contiguous(to(beta, x.dtype()));  // recorded: gradients find their way back
  const Tensor y = empty_like(in);
  dispatch(in.dtype(), [&]<class T>() {
    for_each(in.device(), in.numel(), SwishForward<T>{in.data<T>(), b.data<T>(), b.numel(), y.data<T>()});
  });
  if (auto* node = camo::record<SwishNode>(y, {in, b})) {
    node->x = in;
    node->beta = b;
  }
  return y;
}
// [doc end]

// [doc: layer]
/// Swish with a learned slope for each channel. Key: beta [C].
class Swish : public camo::Module {
 public:
  explicit Swish(int64_t channels) : beta_(param("beta", camo::ones({channels}))) {}
  Tensor operator()(const Tensor& x) const { return swish(x, beta_); }

 private:
  Tensor beta_;
};
// [doc end]

// [doc: cases]
std::vector<camo::GradientCase> swish_gradient_cases() {
  using namespace camo::gradient_cases;  // draw, strided, sliced: the same inputs in every run
  const camo::TensorFunction apply = [](const Tensors& in) -> Tensors { return {swish(in[0], in[1])}; };
  std::vector<camo::GradientCase> cases;
  const std::pair<const char*, camo::Shape> shapes[] = {
      {"one element", {1}}, {"one channel", {4, 1}}, {"odd sizes", {3, 5}}, {"map", {2, 3, 2, 4}}, {"empty", {0, 3}}};
  for (const auto& [variant, shape] : shapes) {
    cases.push_back({"swish", variant, apply, [shape] {
                       return Tensors{draw(shape, 1, -3, 3), draw({shape.back()}, 2)};
                     }});
  }
  cases.push_back({"swish", "strided", apply, [] { return Tensors{strided(draw({2, 3, 5}, 3)), sliced({5}, 4)}; }});
  return cases;
}
// [doc end]

int failures = 0;
void expect(bool holds, const std::string& what) {
  if (!holds) ++failures;
  std::printf("%s %s\n", holds ? "ok    " : "FAILED", what.c_str());
}

void check_gradients() {
  // [doc: gradcheck]
  for (const camo::GradientCase& test : swish_gradient_cases()) {
    const camo::GradcheckResult result = camo::gradcheck(test.fn, test.inputs(), test.options);
    expect(result.ok, test.op + " (" + test.variant + ") " + result.message);
  }
  // [doc end]
}

/// Largest |a - b|, where each of them lives.
double difference(const Tensor& a, const Tensor& b) { return max(abs(a.detach() - b.detach())).item(); }

void compare_with_composition() {
  // [doc: oracle]
  const Tensor x = camo::random_uniform({2, 7, 6, 5}, -4, 4, camo::f64).set_requires_grad(true);
  const Tensor beta = camo::random_uniform({5}, -2, 2, camo::f64).set_requires_grad(true);
  const Tensor dy = camo::random_uniform(x.shape(), -1, 1, camo::f64);
  const Tensor composed = swish_composed(x, beta);
  backward(composed, dy);
  const Tensor dx = x.grad(), dbeta = beta.grad();
  x.set_grad({});
  beta.set_grad({});
  const Tensor y = swish(x, beta);
  backward(y, dy);
  expect(difference(y, composed) < 1e-14, "values are those of the composition");
  expect(difference(x.grad(), dx) < 1e-14 && difference(beta.grad(), dbeta) < 1e-13, "and so are gradients");
  // [doc end]
}

void check_dtypes_and_errors() {
  // [doc: dtypes]
  const Tensor x = to(camo::random_uniform({64, 3}, -1, 1), camo::bf16).set_requires_grad(true);  // as under Autocast
  const Tensor beta = camo::full({3}, 0.75).set_requires_grad(true);                              // stays f32
  const Tensor wide = to(x.detach(), camo::f64).set_requires_grad(true), slope = camo::full({3}, 0.75, camo::f64);
  const Tensor y = swish(x, beta), exact = swish(wide, slope.set_requires_grad(true));
  backward(y, camo::ones(y.shape(), camo::bf16));
  backward(exact, camo::ones(y.shape(), camo::f64));
  constexpr double kRounding = 0x1p-8;  // of bf16, relative
  expect(difference(to(y, camo::f64), exact) < kRounding, "16-bit values are rounded once");
  expect(x.grad().dtype() == camo::bf16 && difference(to(x.grad(), camo::f64), wide.grad()) < kRounding, "dx, too");
  expect(beta.grad().dtype() == camo::f32 &&
             difference(to(beta.grad(), camo::f64), slope.grad()) < kRounding * max(slope.grad()).item(),
         "and dbeta, after its sum");
  // [doc end]
  // [doc: error]
  std::string message;
  try {
    swish(camo::zeros({8, 196, 96}), camo::ones({64}));
  } catch (const camo::Error& error) {
    message = error.what();
  }
  expect(message == "swish: beta must be [C], C the last dimension of x; got beta [64], x [8, 196, 96]", message);
  // [doc end]
}

/// Bytes that stay allocated between a forward and its backward.
template <class Fn>
int64_t kept_bytes(Fn fn) {
  const int64_t before = camo::memory_stats(camo::default_device()).live_bytes;
  const Tensor y = fn();
  return camo::memory_stats(camo::default_device()).live_bytes - before;
}

void compare_memory() {
  const Tensor x = camo::random_uniform({4, 64, 64, 32}).set_requires_grad(true);
  const Tensor beta = camo::ones({32}).set_requires_grad(true);
  const int64_t size = x.numel() * 4;
  const double composed = static_cast<double>(kept_bytes([&] { return swish_composed(x, beta); })) / size;
  const double fused = static_cast<double>(kept_bytes([&] { return swish(x, beta); })) / size;
  std::printf("kept until backward, in sizes of x: %.0f by the composition, %.0f by the operation\n", composed, fused);
  expect(fused == 1 && composed > fused, "the operation keeps its result and nothing more");
}

void use_in_network() {
  // [doc: network]
  camo::Sequential network;
  network.add<camo::Linear>(camo::LinearSpec{.in = 4, .out = 6}).add<Swish>(6).add<camo::LayerNorm>(6);
  network.to(camo::default_device(), camo::f64);
  const camo::GradcheckResult result =
      camo::gradcheck(network, [&](const Tensors& in) { return Tensors{network(in[0])}; },
                      {camo::random_uniform({3, 4}, -1, 1, camo::f64)});
  // [doc end]
  expect(result.ok, "input, weights and beta of a network " + result.message);
  expect(network.named_parameters()[2].name == "1.beta", "its key is 1.beta");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    camo::set_default_device(camo::parse_device(argc > 1 ? argv[1] : "cpu"));
  } catch (const camo::Error& error) {
    std::printf("%s\n", error.what());
    return 77;  // ctest: skipped
  }
  check_gradients();
  compare_with_composition();
  check_dtypes_and_errors();
  compare_memory();
  use_in_network();
  return failures == 0 ? 0 : 1;
}
