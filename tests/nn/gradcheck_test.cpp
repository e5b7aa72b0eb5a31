// A check that cannot fail is worthless: gradcheck against operations whose gradients are wrong on purpose.
#include "nn/gradcheck.h"

#include <cmath>

#include "core/autograd.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::uniform;

enum class Fault {
  none,
  one_element,       // element 3 is 1e-3 too large
  one_wrong_sign,    // element 0 has the other sign
  nondeterministic,  // the last bit differs between runs
  ignores_zero,      // adds 1e-300 whatever dy is
  not_a_number,      // element 1 is NaN
  drops_input,       // the second input gets no gradient
};

struct ProductNode final : Node {
  explicit ProductNode(Fault f) : Node("test_product"), fault(f) {}
  Saved a{this, "a"}, b{this, "b"};
  Fault fault;
  int runs = 0;

  Tensors backward(const Tensors& dy) override {
    const auto g = dy[0].to_vector<double>(), va = a->to_vector<double>(), vb = b->to_vector<double>();
    std::vector<double> da(g.size()), db(g.size());
    for (size_t i = 0; i < g.size(); ++i) {
      da[i] = g[i] * vb[i];
      db[i] = g[i] * va[i];
    }
    if (fault == Fault::one_element) db[3] *= 1 + 1e-3;
    if (fault == Fault::one_wrong_sign) da[0] = -da[0];
    if (fault == Fault::nondeterministic && runs++ % 2 == 1) da[2] = std::nextafter(da[2], 10.0);
    if (fault == Fault::ignores_zero) db[1] += 1e-300;
    if (fault == Fault::not_a_number) da[1] *= std::nan("");
    Tensors result{from_vector(da, a->shape()), from_vector(db, b->shape())};
    if (fault == Fault::drops_input) result[1] = {};
    return result;
  }
};

/// a * b element by element.
Tensor product(const Tensor& a, const Tensor& b, Fault fault = Fault::none) {
  const auto va = a.to_vector<double>(), vb = b.to_vector<double>();
  std::vector<double> values(va.size());
  for (size_t i = 0; i < va.size(); ++i) values[i] = va[i] * vb[i];
  Tensor y = from_vector(values, a.shape());
  if (auto* node = record<ProductNode>(y, {a, b}, fault)) node->a = a, node->b = b;
  return y;
}

GradcheckResult check_fault(Fault fault) {
  return gradcheck([fault](const Tensors& in) { return Tensors{product(in[0], in[1], fault)}; },
                   {uniform({2, 3}, f64, 0.5, 1), uniform({2, 3}, f64, 0.5, 1)});
}

void expect_failure(const GradcheckResult& result, const std::string& text) {
  EXPECT_FALSE(result.ok);
  EXPECT_GT(result.worst_error, 1e-5);
  EXPECT_NE(result.message.find(text), std::string::npos) << result.message;
}

TEST(Gradcheck, AcceptsARightGradient) {
  const GradcheckResult result = check_fault(Fault::none);
  EXPECT_TRUE(result.ok) << result.message;
  EXPECT_TRUE(result.message.empty());
  EXPECT_LT(result.worst_error, 1e-8);
}

TEST(Gradcheck, FindsOneElementThatIsOffByAThousandth) {
  const GradcheckResult result = check_fault(Fault::one_element);
  expect_failure(result, "input 1, element [1, 0] of [2, 3]: analytic gradient ");
  EXPECT_NEAR(result.worst_error, 1e-3, 5e-5);
}

TEST(Gradcheck, FindsAWrongSign) { expect_failure(check_fault(Fault::one_wrong_sign), "input 0, element [0, 0]"); }

TEST(Gradcheck, MovesAsManyElementsAsAskedFor) {
  int runs = 0;
  const auto check = [&](int64_t elements) {
    runs = 0;
    const TensorFunction fn = [&](const Tensors& in) {
      ++runs;
      return Tensors{product(in[0], in[1], Fault::one_element)};
    };
    return gradcheck(fn, {uniform({2, 3}, f64, 0.5, 1), uniform({2, 3}, f64, 0.5, 1)}, {.elements = elements});
  };
  EXPECT_TRUE(check(1).ok);   // element 0
  EXPECT_EQ(runs, 2 + 4);     // two without a move, then each of one element of two inputs up and down
  EXPECT_FALSE(check(2).ok);  // 0 and 3, which is wrong
  EXPECT_EQ(runs, 2 + 8);
  check(100);
  EXPECT_EQ(runs, 2 + 24);
}

TEST(Gradcheck, FindsARunThatDiffersInTheLastBit) {
  expect_failure(check_fault(Fault::nondeterministic), "input 0: two backward runs differ");
}

TEST(Gradcheck, FindsAGradientOfAZeroCotangent) {
  expect_failure(check_fault(Fault::ignores_zero),
                 "input 1, element [0, 1]: a zero cotangent must give a zero gradient");
}

TEST(Gradcheck, FindsNaN) {
  const GradcheckResult result = check_fault(Fault::not_a_number);
  EXPECT_FALSE(result.ok);
  EXPECT_NE(result.message.find("input 0"), std::string::npos) << result.message;
}

TEST(Gradcheck, FindsAnInputWithoutGradient) {
  expect_failure(check_fault(Fault::drops_input),
                 "input 1: got no gradient: the graph is cut, or no output depends on");
}

TEST(Gradcheck, FindsACutGraph) {
  const Tensors inputs{uniform({3}), uniform({3})};
  expect_failure(gradcheck([](const Tensors& in) { return Tensors{product(in[0].detach(), in[1].detach())}; }, inputs),
                 "no output depends on any input");
  // One output with a graph does not hide another one without.
  expect_failure(gradcheck(
                     [](const Tensors& in) {
                       return Tensors{product(in[0], in[1]), product(in[0].detach(), in[1].detach())};
                     },
                     inputs),
                 "analytic gradient");
}

TEST(Gradcheck, FindsAForwardThatChanges) {
  double calls = 0;
  const auto fn = [&](const Tensors& in) { return Tensors{product(in[0], full({3}, ++calls, f64))}; };
  expect_failure(gradcheck(fn, {uniform({3})}), "output 0: two forward runs on the same inputs differ; if it draws");
}

TEST(Gradcheck, ProjectsEveryOutput) {
  for (int broken : {0, 1}) {
    const auto fn = [broken](const Tensors& in) {
      return Tensors{product(in[0], in[1], broken == 0 ? Fault::one_element : Fault::none),
                     product(in[1], in[0], broken == 1 ? Fault::one_element : Fault::none)};
    };
    EXPECT_FALSE(gradcheck(fn, {uniform({2, 2}, f64, 0.5, 1), uniform({2, 2}, f64, 0.5, 1)}).ok);
  }
}

TEST(Gradcheck, PassesOtherDtypesThroughAndIgnoresWholeNumberOutputs) {
  const auto fn = [](const Tensors& in) {
    EXPECT_EQ(in[0].dtype(), i64);
    return Tensors{product(in[1], in[1]), in[0]};
  };
  const GradcheckResult result = gradcheck(fn, {zeros({2}, i64), uniform({2})});
  EXPECT_TRUE(result.ok) << result.message;
}

TEST(Gradcheck, PerturbsStridedViewsInPlaceAndPutsThemBack) {
  const Tensor base = uniform({4, 6}, f64, 0.5, 1);
  const Tensor before = clone(base);
  const Tensor columns = make_view(base, {3, 2}, {2, 12}, 1);  // every second column of rows 0 and 2, transposed
  const auto fn = [](Fault fault) {
    return [fault](const Tensors& in) { return Tensors{product(in[0], in[1], fault)}; };
  };
  const GradcheckResult result = gradcheck(fn(Fault::none), {columns, uniform({3, 2})});
  EXPECT_TRUE(result.ok) << result.message;
  expect_failure(gradcheck(fn(Fault::one_element), {uniform({3, 2}, f64, 0.5, 1), columns}),
                 "input 1, element [1, 1] of [3, 2]");
  EXPECT_TRUE(test::bitwise_equal(base, before));
  EXPECT_FALSE(columns.grad().defined());
  EXPECT_FALSE(columns.requires_grad());
}

TEST(Gradcheck, PutsElementsBackWhenTheFunctionThrows) {
  const Tensor x = uniform({2});
  const Tensor before = clone(x);
  const auto fn = [&](const Tensors& in) {
    if (test::max_difference(in[0], before) > 0) fail(ErrorCode::general, "moved");
    return Tensors{product(in[0], in[0])};
  };
  EXPECT_ERROR(gradcheck(fn, {x}), "moved");
  EXPECT_TRUE(test::bitwise_equal(x, before));
}

TEST(Gradcheck, HandlesEmptyInputsAndScalars) {
  const auto fn = [](const Tensors& in) { return Tensors{product(in[0], in[0])}; };
  EXPECT_TRUE(gradcheck(fn, {zeros({0, 3}, f64)}).ok);
  EXPECT_TRUE(gradcheck(fn, {full({}, 0.5, f64)}).ok);
}

TEST(Gradcheck, RefusesInputsItCannotCheck) {
  const auto fn = [](const Tensors& in) { return Tensors{product(in[0], in[0])}; };
  EXPECT_ERROR(gradcheck(fn, {zeros({2}, f32)}), "floating inputs must be f64; got input 0 f32 [2]");
  EXPECT_ERROR(gradcheck(fn, {zeros({2}, i64)}), "nothing to check");
  const Tensor x = uniform({3});
  EXPECT_ERROR(gradcheck(fn, {make_view(x, {2, 3}, {0, 1}, 0)}), "each element needs memory of its own");
  EXPECT_ERROR(gradcheck(fn, {x, x}), "got input 0 and input 1 sharing an element");
  EXPECT_ERROR(gradcheck(fn, {x}, {.step = 0}), "relative_tolerance and step must be positive");
  EXPECT_ERROR(gradcheck(fn, {x}, {.elements = -1}), "elements must be positive, or 0 for all; got -1");
}

class Scale : public Module {
 public:
  explicit Scale(Fault fault) : fault_(fault), factor_(param("factor", uniform({2, 2}, f64, 0.5, 1))) {}
  Tensor operator()(const Tensor& x) const { return product(x, factor_, fault_); }

 private:
  Fault fault_;
  Tensor factor_;
};

TEST(Gradcheck, ChecksTheParametersOfAModuleByName) {
  const auto check = [](Scale& scale) {
    return gradcheck(scale, [&](const Tensors& in) { return Tensors{scale(in[0])}; }, {uniform({2, 2}, f64, 0.5, 1)});
  };
  Scale right(Fault::none), wrong(Fault::one_element);
  const GradcheckResult result = check(right);
  EXPECT_TRUE(result.ok) << result.message;
  EXPECT_FALSE(right.parameters()[0].grad().defined());
  expect_failure(check(wrong), "parameter factor, element [1, 1]");
  wrong.freeze();
  EXPECT_TRUE(check(wrong).ok);  // frozen parameters are not checked
  wrong.to(f32);
  EXPECT_ERROR(check(wrong), "parameters must be f64; got factor f32");
}

/// Uses a parameter, and a tensor of which Module does not know.
struct Forgetful : Module {
  Tensor scale = param("scale", uniform({3})), shift = uniform({3});
  Tensor operator()(const Tensor& x) const { return product(product(x, scale), shift); }
};

TEST(Gradcheck, FindsWhatAModuleForgotToRegister) {
  Forgetful module;
  module.to(f64);
  const auto forward = [&](const Tensors& in) { return Tensors{module(in[0])}; };
  EXPECT_TRUE(gradcheck(module, forward, {uniform({3})}).ok);  // a constant
  module.shift.set_requires_grad(true);
  expect_failure(gradcheck(module, forward, {uniform({3})}),
                 "gradcheck: test_product uses a tensor, f64 [3], that wants a gradient and is neither an input nor a "
                 "parameter of the module; register it with param(), or its layer with child()");
  EXPECT_TRUE(gradcheck(forward, {uniform({3})}).ok);  // a function may use what it likes
}

/// |x|, with the gradient of x >= 0 at 0.
struct MagnitudeNode final : Node {
  MagnitudeNode() : Node("test_magnitude") {}
  Saved x{this, "x"};
  Tensors backward(const Tensors& dy) override {
    auto dx = dy[0].to_vector<double>();
    const auto values = x->to_vector<double>();
    for (size_t i = 0; i < dx.size(); ++i) dx[i] *= values[i] >= 0 ? 1 : -1;
    return {from_vector(dx, x->shape())};
  }
};

Tensor magnitude(const Tensor& x) {
  auto values = x.to_vector<double>();
  for (double& value : values) value = std::abs(value);
  const Tensor y = from_vector(values, x.shape());
  if (auto* node = record<MagnitudeNode>(y, {x})) node->x = x;
  return y;
}

TEST(Gradcheck, SaysWhereThereIsNoDerivative) {
  const auto fn = [](const Tensors& in) { return Tensors{magnitude(in[0])}; };
  EXPECT_TRUE(gradcheck(fn, {from_vector<double>({-1, 2, 1e-3}, {3})}).ok);
  expect_failure(gradcheck(fn, {from_vector<double>({-1, 0, 1}, {3})}), "input 0, element [1] of [3]");
  expect_failure(gradcheck(fn, {from_vector<double>({-1, 0, 1}, {3})}), "a point without a derivative");
  EXPECT_EQ(check_fault(Fault::one_element).message.find("without a derivative"), std::string::npos);  // smooth, wrong
}

}  // namespace
}  // namespace camo
