#include "ops/matmul.h"

#include "nn/gradcheck.h"
#include "nn/gradient_cases/inputs.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/softmax.h"

namespace camo {

namespace {

using gradient_cases::beside;
using gradient_cases::draw;
using gradient_cases::sliced;
using gradient_cases::strided;

/// The last two axes swapped in memory.
Tensor transposed(const Shape& shape, uint64_t stream = 0) {
  Shape order = shape;
  const int last = shape.size() - 1;
  std::swap(order[last - 1], order[last]);
  Shape strides = order.contiguous_strides();
  std::swap(strides[last - 1], strides[last]);
  return make_view(draw(order, stream), shape, strides, 0);
}

void add_matmul(std::vector<GradientCase>& cases) {
  const TensorFunction apply = [](const Tensors& in) -> Tensors { return {matmul(in[0], in[1])}; };
  const std::tuple<const char*, Shape, Shape> shapes[] = {
      {"size 1", {1, 1}, {1, 1}},
      {"odd sizes", {5, 3}, {3, 7}},
      {"batches", {2, 3, 2, 5}, {2, 3, 5, 3}},
      {"broadcast leading axes", {2, 1, 3, 4}, {3, 4, 2}},
      {"many times one", {3, 2, 4}, {4, 5}},
      {"one times many", {2, 4}, {3, 4, 5}},
      {"no inner extent", {3, 0}, {0, 2}},
      {"empty batch", {0, 2, 3}, {3, 4}},
  };
  for (const auto& [variant, a, b] : shapes) {
    cases.push_back({"matmul", variant, apply, [a = a, b = b] { return Tensors{draw(a, 1), draw(b, 2)}; }});
  }
  cases.push_back({"matmul", "sliced rows", apply, [] { return Tensors{sliced({2, 3, 4}, 1), sliced({2, 4, 5}, 2)}; }});
  cases.push_back({"matmul", "transposed", apply, [] {
                     return Tensors{transposed({2, 3, 4}, 1), transposed({2, 4, 5}, 2)};
                   }});
  cases.push_back({"matmul", "strided", apply, [] {
                     return Tensors{strided(draw({2, 3, 4}, 1)), strided(draw({4, 3}, 2))};
                   }});
}

void add_linear(std::vector<GradientCase>& cases) {
  const TensorFunction apply = [](const Tensors& in) -> Tensors {
    return {linear(in[0], in[1], in.size() > 2 ? in[2] : Tensor())};
  };
  const std::tuple<const char*, Shape, int64_t> shapes[] = {
      {"size 1", {1, 1}, 1}, {"odd sizes", {7, 3}, 5},   {"map", {2, 3, 2, 4}, 3},
      {"vector", {5}, 3},    {"empty batch", {0, 3}, 2}, {"no inputs", {3, 0}, 2},
  };
  for (const auto& [variant, x, out] : shapes) {
    cases.push_back({"linear", variant, apply, [x = x, out = out] {
                       return Tensors{draw(x, 1), draw({out, x.back()}, 2), draw({out}, 3)};
                     }});
  }
  cases.push_back({"linear", "no bias", apply, [] { return Tensors{draw({3, 2, 5}, 1), draw({4, 5}, 2)}; }});
  cases.push_back({"linear", "sliced rows", apply, [] {
                     return Tensors{sliced({2, 3, 4}, 1), sliced({3, 4}, 2), sliced({3}, 3)};
                   }});
  cases.push_back({"linear", "strided", apply, [] {
                     return Tensors{strided(draw({2, 3, 4}, 1)), strided(draw({3, 4}, 2)), strided(draw({3}, 3))};
                   }});
}

void add_softmax(std::vector<GradientCase>& cases) {
  for (const bool is_log : {false, true}) {
    const char* op = is_log ? "log_softmax" : "softmax";
    const auto along = [is_log](int axis) -> TensorFunction {
      return [is_log, axis](const Tensors& in) -> Tensors {
        return {is_log ? log_softmax(in[0], axis) : softmax(in[0], axis)};
      };
    };
    const std::tuple<const char*, Shape, int> shapes[] = {
        {"size 1", {1}, 0},       {"last axis", {3, 5, 7}, -1}, {"first axis", {5, 3, 2}, 0},
        {"middle", {3, 7, 5}, 1}, {"empty rows", {0, 4}, -1},   {"empty axis", {3, 0}, 1},
    };
    for (const auto& [variant, shape, axis] : shapes) {
      cases.push_back({op, variant, along(axis), [shape = shape] { return Tensors{draw(shape, 4, -3, 3)}; }});
    }
    cases.push_back({op, "strided", along(1), [] { return Tensors{strided(draw({3, 5, 4}, 4, -3, 3))}; }});
    cases.push_back({op, "sliced", along(-1), [] { return Tensors{sliced({3, 5, 4}, 4)}; }});
    cases.push_back({op, "sliced, middle", along(1), [] { return Tensors{sliced({3, 5, 4}, 4)}; }});
  }
}

struct AttentionShapes {
  int64_t batch, queries, keys, heads, width;
};

/// By math and by flash, where that computes in f64.
void add_attention_case(std::vector<GradientCase>& cases, const std::string& variant, const AttentionShapes& n,
                        const AttentionOptions& options = {}) {
  for (const AttentionBackend backend : {AttentionBackend::math, AttentionBackend::flash}) {
    const bool is_flash = backend == AttentionBackend::flash;
    cases.push_back({"scaled_dot_product_attention", is_flash ? variant + ", flash" : variant,
                     [=](const Tensors& in) -> Tensors {
                       AttentionOptions here = options;
                       here.backend = in[0].is_cuda() ? AttentionBackend::math : backend;
                       if (here.mask.defined()) here.mask = beside(in[0], here.mask);
                       return {scaled_dot_product_attention(in[0], in[1], in[2], here)};
                     },
                     [n] {
                       return Tensors{draw({n.batch, n.queries, n.heads, n.width}, 5),
                                      draw({n.batch, n.keys, n.heads, n.width}, 6),
                                      draw({n.batch, n.keys, n.heads, n.width}, 7)};
                     }});
  }
}

void add_attention(std::vector<GradientCase>& cases) {
  add_attention_case(cases, "size 1", {1, 1, 1, 1, 1});
  add_attention_case(cases, "odd sizes", {2, 3, 5, 3, 3});
  add_attention_case(cases, "two blocks of queries", {1, 67, 2, 1, 1});
  add_attention_case(cases, "no keys", {1, 3, 0, 2, 2});
  add_attention_case(cases, "no queries", {1, 0, 3, 2, 2});
  add_attention_case(cases, "scale", {1, 3, 4, 2, 3}, {.scale = 0.7});
  add_attention_case(cases, "causal", {1, 5, 5, 2, 3}, {.causal = true});
  add_attention_case(cases, "causal, fewer keys", {1, 5, 3, 1, 3}, {.causal = true});
  add_attention_case(cases, "causal, more keys", {1, 3, 5, 1, 3}, {.causal = true});
  add_attention_case(cases, "dropout", {2, 4, 5, 2, 3}, {.dropout = 0.4, .dropout_key = {11, 3}});
  const Tensor hidden =
      to(from_vector<uint8_t>({1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1}, {3, 4}), boolean);  // the middle row sees no key
  add_attention_case(cases, "bool mask with a hidden row", {2, 3, 4, 2, 3}, {.mask = hidden});
  add_attention_case(cases, "additive mask a head", {2, 3, 4, 2, 3}, {.mask = draw({1, 2, 1, 4}, 8)});
  add_attention_case(cases, "mask, causal and dropout", {1, 3, 4, 2, 3},
                     {.mask = hidden, .dropout = 0.3, .dropout_key = {5, 1}, .causal = true});
  const TensorFunction apply = [](const Tensors& in) -> Tensors {
    return {scaled_dot_product_attention(in[0], in[1], in[2])};
  };
  cases.push_back({"scaled_dot_product_attention", "sliced", apply, [] {
                     return Tensors{sliced({2, 3, 2, 4}, 5), sliced({2, 5, 2, 4}, 6), sliced({2, 5, 2, 4}, 7)};
                   }});
  cases.push_back(
      {"scaled_dot_product_attention", "strided", apply, [] {
         return Tensors{strided(draw({2, 3, 2, 3}, 5)), strided(draw({2, 4, 2, 3}, 6)), strided(draw({2, 4, 2, 3}, 7))};
       }});
}

}  // namespace

std::vector<GradientCase> matmul_gradient_cases() {
  std::vector<GradientCase> cases;
  add_matmul(cases);
  add_linear(cases);
  add_softmax(cases);
  add_attention(cases);
  return cases;
}

}  // namespace camo
