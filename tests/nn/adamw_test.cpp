#include "nn/optim/adamw.h"

#include <cmath>

#include "core/parallel.h"
#include "nn/layers.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::uniform;

NamedTensor parameter(const std::string& name, std::vector<double> values, DType dtype = f64) {
  Tensor x = empty({static_cast<int64_t>(values.size())}, dtype);
  copy_into(x, from_vector(values, x.shape()));
  x.set_requires_grad(true);
  return {.name = name, .tensor = x};
}

void set_gradient(const NamedTensor& p, std::vector<double> values) {
  Tensor g = empty(p.tensor.shape(), p.tensor.dtype());
  copy_into(g, from_vector(values, g.shape()));
  p.tensor.set_grad(g);
}

constexpr AdamWOptions kOptions{.lr = 0.01, .weight_decay = 0.1};

/// Four steps on two parameters, recorded from torch.optim.AdamW (float64); q has lr / 10 and no gradient in step 1.
struct Recorded {
  NamedTensor p, q;
  AdamW optimizer;

  explicit Recorded(DType dtype = f64)
      : p(parameter("p", {1, -2, 0.5, 0}, dtype)),
        q(parameter("q", {3}, dtype)),
        optimizer({{.parameters = {p}}, {.parameters = {q}, .lr_scale = 0.1}}, kOptions) {}

  void step(int s) {
    set_gradient(p, {0.1 * (s + 1), -0.2, 0, 1e-9});
    q.tensor.set_grad({});
    if (s != 1) set_gradient(q, {2.0 - s});
    optimizer.step();
  }
};

const std::vector<std::vector<double>> kExpectedP{
    {0.9890000009999999, -1.9880000005, 0.4995, -0.000909090909090909},
    {0.9783591813511252, -1.9760120009995001, 0.4990005, -0.0018172727272727266},
    {0.9678008103721331, -1.9640359894985007, 0.4985014995, -0.0027245463636363628},
    {0.9572289072199184, -1.9520719540090021, 0.4980029980005, -0.0036309127263636346}};
const std::vector<double> kExpectedQ{2.998700000005, 2.998700000005, 2.997730071755602, 2.9972530315517165};

TEST(AdamW, MatchesPyTorch) {
  Recorded run;
  for (int s = 0; s < 4; ++s) {
    run.step(s);
    EXPECT_TRUE(all_close(run.p.tensor, from_vector(kExpectedP[static_cast<size_t>(s)], {4}), 1e-14)) << "step " << s;
    EXPECT_NEAR(run.q.tensor.item(), kExpectedQ[static_cast<size_t>(s)], 1e-14) << "step " << s;
  }
  const StateDict state = run.optimizer.state_dict();
  ASSERT_EQ(state.size(), 6u);
  EXPECT_EQ(state[0].first, "p.exp_avg");
  EXPECT_TRUE(all_close(state[0].second, from_vector<double>({0.09049, -0.06878, 0, 3.439e-10}, {4}), 1e-16));
  EXPECT_EQ(state[1].first, "p.exp_avg_sq");
  EXPECT_TRUE(all_close(state[1].second,
                        from_vector<double>({0.0002998000699900003, 0.00015976015996000016, 0, 3.994004e-21}, {4}),
                        1e-18));
  EXPECT_EQ(state[5].first, "q.step");
  EXPECT_EQ(state[5].second.item(), 3);
}

TEST(AdamW, MatchesPyTorchInSinglePrecision) {
  Recorded run(f32);
  for (int s = 0; s < 4; ++s) run.step(s);
  EXPECT_TRUE(all_close(run.p.tensor, from_vector(kExpectedP[3], {4}), 1e-6));
  EXPECT_NEAR(run.q.tensor.item(), kExpectedQ[3], 1e-6);
}

TEST(AdamW, LeavesParametersWithoutGradientAlone) {
  const NamedTensor p = parameter("p", {1, 2});
  AdamW optimizer({{.parameters = {p}}}, kOptions);
  const uint64_t version = p.tensor.version();
  optimizer.step();
  EXPECT_EQ(p.tensor.to_vector<double>(), (std::vector<double>{1, 2}));
  EXPECT_EQ(p.tensor.version(), version);
  EXPECT_TRUE(optimizer.state_dict().empty());
}

TEST(AdamW, DoesNotDependOnTheNumberOfThreads) {
  const Tensor start = uniform({100'003}, f32), gradient = uniform({100'003}, f32);
  const auto run = [&](int threads) {
    const int before = num_threads();
    set_num_threads(threads);
    const Tensor x = clone(start);
    x.set_grad(gradient);
    AdamW({{.parameters = {{.name = "x", .tensor = x}}}}, kOptions).step();
    set_num_threads(before);
    return x;
  };
  EXPECT_TRUE(bitwise_equal(run(1), run(3)));
}

TEST(AdamW, TakesStridedGradients) {
  const NamedTensor p = parameter("p", {1, 2}), same = parameter("p", {1, 2});
  p.tensor.set_grad(make_view(from_vector<double>({3, 0, -4}, {3}), {2}, {2}, 0));
  set_gradient(same, {3, -4});
  AdamW({{.parameters = {p}}}, kOptions).step();
  AdamW({{.parameters = {same}}}, kOptions).step();
  EXPECT_TRUE(bitwise_equal(p.tensor, same.tensor));
}

TEST(AdamW, GoesOnFromItsStateBitForBit) {
  Recorded whole, first, second;
  for (int s = 0; s < 4; ++s) whole.step(s);
  for (int s = 0; s < 2; ++s) first.step(s);
  copy_into(second.p.tensor, first.p.tensor);
  copy_into(second.q.tensor, first.q.tensor);
  second.optimizer.load_state_dict(first.optimizer.state_dict());
  for (int s = 2; s < 4; ++s) second.step(s);
  EXPECT_TRUE(bitwise_equal(second.p.tensor, whole.p.tensor));
  EXPECT_TRUE(bitwise_equal(second.q.tensor, whole.q.tensor));
}

TEST(AdamW,
     UpdatesParametersOfEverySize) {  // more than a chunk of the CUDA kernel, and sizes that are no multiple of 4
  for (const DType dtype : {f32, f64}) {
    std::vector<NamedTensor> all;
    AdamW together({{.parameters =
                         [&] {
                           for (const int64_t size : {1, 3, 8192, 8193, 30'001}) {
                             const Tensor x = uniform({size}, dtype);
                             x.set_grad(uniform({size}, dtype));
                             all.push_back({.name = std::to_string(size), .tensor = x});
                           }
                           return all;
                         }()}},
                   kOptions);
    std::vector<std::vector<double>> wanted;
    for (const NamedTensor& entry : all) {
      wanted.push_back(entry.tensor.to_vector<double>());
      const std::vector<double> gradient = entry.tensor.grad().to_vector<double>();
      for (size_t i = 0; i < gradient.size(); ++i) {  // the first step moves by lr against the gradient's sign
        const double decayed = wanted.back()[i] * (1 - kOptions.lr * kOptions.weight_decay);
        wanted.back()[i] = decayed - kOptions.lr * gradient[i] / (std::abs(gradient[i]) + kOptions.eps);
      }
    }
    together.step();
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_TRUE(all_close(all[i].tensor, from_vector(wanted[i], all[i].tensor.shape()), dtype == f64 ? 1e-13 : 1e-6))
          << all[i].name;
    }
  }
}

TEST(AdamW, ChangesNothingBehindAGuardThatIsNotFinite) {
  const NamedTensor p = parameter("p", {1, 2});
  AdamW optimizer({{.parameters = {p}}}, kOptions);
  set_gradient(p, {3, -4});
  const Tensor before = clone(p.tensor);
  optimizer.step(full({}, std::nan(""), f64));
  EXPECT_TRUE(bitwise_equal(p.tensor, before));
  optimizer.step(full({}, 5, f64));
  EXPECT_GT(test::max_difference(p.tensor, before), 1e-3);
  EXPECT_ERROR(optimizer.step(zeros({2}, f64)), "guard must be one f64 element; got f64 [2]");
}

TEST(AdamW, ZeroGradDropsGradients) {
  Recorded run;
  run.step(0);
  run.optimizer.zero_grad();
  EXPECT_FALSE(run.p.tensor.grad().defined());
  EXPECT_FALSE(run.q.tensor.grad().defined());
}

TEST(AdamW, ChecksItsState) {
  Recorded run;
  run.step(0);
  StateDict state = run.optimizer.state_dict();
  const auto changed = [&](auto change) {
    StateDict copy = state;
    change(copy);
    return copy;
  };
  AdamW& optimizer = run.optimizer;
  EXPECT_ERROR(optimizer.load_state_dict(changed([](StateDict& s) { s.emplace_back("r.step", ones({}, i64)); })),
               "1 tensors that fit no parameter; got 'r.step'");
  EXPECT_ERROR(optimizer.load_state_dict(changed([](StateDict& s) { s.push_back(s[0]); })), "got 'p.exp_avg' twice");
  EXPECT_ERROR(optimizer.load_state_dict(changed([](StateDict& s) { s.erase(s.begin()); })),
               "'p' must have exp_avg, exp_avg_sq and step");
  EXPECT_ERROR(optimizer.load_state_dict(changed([](StateDict& s) { s[1].second = zeros({5}, f64); })),
               "'p' must be [4]; got exp_avg [4], exp_avg_sq [5]");
  EXPECT_ERROR(optimizer.load_state_dict(changed([](StateDict& s) { s[2].second = zeros({}, i64); })),
               "step count of 'p' must be one positive number");
  EXPECT_EQ(optimizer.state_dict().size(), state.size());  // a refused state changes nothing
}

TEST(AdamW, ChecksItsArguments) {
  const NamedTensor p = parameter("p", {1}), again = parameter("p", {1});
  EXPECT_ERROR(AdamW({{.parameters = {p}}, {.parameters = {again}}}, {}), "belongs to one group; got 'p' twice");
  EXPECT_ERROR(AdamW({{.parameters = {p, {.name = "r", .tensor = p.tensor}}}}, {}), "got 'r' twice");
  EXPECT_ERROR(AdamW({{.parameters = {parameter("h", {1}, f16)}}}, {}), "contiguous f32 or f64; got h");
  EXPECT_ERROR(AdamW({{.parameters = {p}}}, {.lr = -1}), "lr, eps and weight_decay must not be negative");
  EXPECT_ERROR(AdamW({{.parameters = {p}}}, {.beta2 = 1}), "betas must be in [0, 1)");
  EXPECT_ERROR(AdamW(std::vector<ParameterGroup>(2)), "AdamW: needs parameters; got none; a module registers its own");
  EXPECT_ERROR(AdamW(Module{}), "AdamW: needs parameters; got none");
  const AdamW all(Linear({.in = 2, .out = 2}));
  ASSERT_EQ(all.groups().size(), 1u);
  EXPECT_EQ(all.groups()[0].parameters.size(), 2u);
  EXPECT_EQ(all.lr(), AdamWOptions{}.lr);
  EXPECT_ERROR(AdamW({{.parameters = {p}, .lr_scale = -1}}, {}), "lr_scale must not be negative; got -1");
  AdamW optimizer({{.parameters = {p}}}, {});
  EXPECT_ERROR(optimizer.set_lr(std::nan("")), "AdamW: lr must not be negative; got nan");
  EXPECT_ERROR(optimizer.set_step_counts({-1}),
               "step counts must not be negative, and 0 before a parameter's first step");
  EXPECT_ERROR(optimizer.set_step_counts({1}), "got 1");
}

TEST(AdamW, NoticesThatItsParametersWereConverted) {
  Linear layer({.in = 2, .out = 2});
  AdamW optimizer({{.parameters = layer.named_parameters()}}, {});
  const auto give_gradients = [&] {
    for (const Tensor& p : layer.parameters()) p.set_grad(full(p.shape(), 1, p.dtype(), p.device()));
  };
  give_gradients();
  optimizer.step();
  layer.to(f64);
  give_gradients();
  const StateDict before = layer.state_dict();
  EXPECT_ERROR(optimizer.step(), "the state must have dtype and device of its parameter; got f32 on ");
  EXPECT_EQ(optimizer.step_counts(), (std::vector<int64_t>{1, 1}));
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(test::bitwise_equal(layer.state_dict()[i].second, before[i].second));
  }
  optimizer.load_state_dict(optimizer.state_dict());
  optimizer.step();
  EXPECT_EQ(optimizer.step_counts(), (std::vector<int64_t>{2, 2}));
}

/// Gradients [3, 0, -4] and [12, 0]: norm 13; a third parameter has none.
struct Gradients {
  NamedTensor a = parameter("a", {0, 0, 0}), b = parameter("b", {0, 0}), c = parameter("c", {0});
  Tensors all{a.tensor, b.tensor, c.tensor};
  Gradients() {
    set_gradient(a, {3, 0, -4});
    set_gradient(b, {12, 0});
  }
};

TEST(ClipGradientNorm, MatchesPyTorch) {
  Gradients g;
  EXPECT_DOUBLE_EQ(clip_gradient_norm(g.all, 2), 13);
  EXPECT_TRUE(
      all_close(g.a.tensor.grad(), from_vector<double>({0.46153842603550577, 0, -0.615384568047341}, {3}), 1e-15));
  EXPECT_TRUE(all_close(g.b.tensor.grad(), from_vector<double>({1.846153704142023, 0}, {2}), 1e-15));
  EXPECT_FALSE(g.c.tensor.grad().defined());
}

TEST(ClipGradientNorm, LeavesSmallGradientsAlone) {
  Gradients g;
  EXPECT_DOUBLE_EQ(clip_gradient_norm(g.all, 20), 13);
  EXPECT_EQ(g.a.tensor.grad().to_vector<double>(), (std::vector<double>{3, 0, -4}));
  EXPECT_DOUBLE_EQ(gradient_norm(g.all), 13);
  EXPECT_EQ(gradient_norm({g.c.tensor}), 0);
}

TEST(ClipGradientNorm, KeepsTheNormOnTheDevice) {
  Gradients g;
  const Tensor norm = clip_gradients(g.all, 2);
  EXPECT_EQ(norm.device(), g.a.tensor.device());
  EXPECT_EQ(norm.dtype(), f64);
  EXPECT_DOUBLE_EQ(norm.item(), 13);
  EXPECT_NEAR(gradient_norm(g.all), 2, 1e-6);
  EXPECT_EQ(clip_gradients({}, 2).item(), 0);
}

TEST(ClipGradientNorm, TakesLongGradients) {
  const Tensor a = zeros({30'001}), b = zeros({8192});
  a.set_grad(full({30'001}, 2));
  b.set_grad(full({8192}, -1));
  const double norm = std::sqrt(4 * 30'001.0 + 8192);
  EXPECT_NEAR(clip_gradient_norm({a, b}, 1), norm, 1e-10 * norm);
  EXPECT_TRUE(all_close(a.grad(), full({30'001}, 2 / norm), 1e-6));
  EXPECT_TRUE(all_close(b.grad(), full({8192}, -1 / norm), 1e-6));
}

TEST(ClipGradientNorm, PassesNaNOn) {
  Gradients g;
  set_gradient(g.b, {std::nan(""), 0});
  EXPECT_TRUE(std::isnan(clip_gradient_norm(g.all, 2)));
  EXPECT_TRUE(std::isnan(g.a.tensor.grad().to_vector<double>()[0]));
}

TEST(ClipGradientNorm, DoesNotDependOnTheNumberOfThreads) {
  const Tensor x = zeros({100'003});
  x.set_grad(uniform({100'003}, f32));
  const int before = num_threads();
  set_num_threads(1);
  const double one = gradient_norm({x});
  set_num_threads(3);
  EXPECT_EQ(gradient_norm({x}), one);
  set_num_threads(before);
  EXPECT_ERROR(clip_gradient_norm({x}, -1), "max_norm must not be negative");
}

}  // namespace
}  // namespace camo
