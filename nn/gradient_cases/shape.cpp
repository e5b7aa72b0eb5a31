#include "nn/gradcheck.h"
#include "nn/gradient_cases/inputs.h"
#include "ops/elementwise.h"
#include "ops/expert_rows.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

using gradient_cases::draw;
using gradient_cases::draw_distinct;
using gradient_cases::strided;

/// A list of cases to which one-input cases are added in short form.
struct CaseList {
  std::vector<GradientCase> cases;

  void add(const char* op, const char* variant, const Shape& shape, std::function<Tensor(const Tensor&)> fn) {
    cases.push_back({op, variant, [fn](const Tensors& in) -> Tensors { return {fn(in[0])}; },
                     [shape] { return Tensors{draw(shape, 10)}; }});
  }
  void add_strided(const char* op, const Shape& shape, std::function<Tensor(const Tensor&)> fn) {
    cases.push_back({op, "strided", [fn](const Tensors& in) -> Tensors { return {fn(in[0])}; },
                     [shape] { return Tensors{strided(draw(shape, 11))}; }});
  }
  void add_many(const char* op, const char* variant, TensorFunction fn, std::function<Tensors()> inputs) {
    cases.push_back({op, variant, std::move(fn), std::move(inputs)});
  }
};

Tensor index_of(const std::vector<int64_t>& values, const Shape& shape) { return from_vector(values, shape); }
Tensor index_of(const std::vector<int64_t>& values) { return index_of(values, {static_cast<int64_t>(values.size())}); }

void add_views(CaseList& list) {
  list.add("reshape", "merge", {3, 5, 2}, [](const Tensor& x) { return reshape(x, {15, -1}); });
  list.add("reshape", "to a scalar", {1, 1}, [](const Tensor& x) { return reshape(x, {}); });
  list.add("reshape", "unsqueeze and squeeze", {3, 1, 5}, [](const Tensor& x) { return squeeze(unsqueeze(x, -1), 1); });
  list.add("reshape", "flatten", {2, 3, 5}, [](const Tensor& x) { return flatten(x, 1); });
  list.add("reshape", "empty", {0, 6}, [](const Tensor& x) { return reshape(x, {2, 0, 3}); });
  list.add_strided("reshape", {3, 4, 5}, [](const Tensor& x) { return reshape(x, {5, 12}); });

  list.add("permute", "channels first", {2, 3, 5, 2}, [](const Tensor& x) { return permute(x, {0, 3, 1, 2}); });
  list.add("permute", "scalar", {}, [](const Tensor& x) { return permute(x, {}); });
  list.add("permute", "transpose", {3, 5}, [](const Tensor& x) { return transpose(x, 0, 1); });
  list.add("permute", "ones", {1, 1, 1}, [](const Tensor& x) { return permute(x, {2, 0, 1}); });
  list.add("permute", "empty", {3, 0}, [](const Tensor& x) { return permute(x, {1, 0}); });
  list.add_strided("permute", {3, 4, 5}, [](const Tensor& x) { return permute(x, {-1, 0, 1}); });

  list.add("expand", "ones", {3, 1, 5}, [](const Tensor& x) { return expand(x, {3, 4, 5}); });
  list.add("expand", "leading axes", {5}, [](const Tensor& x) { return expand(x, {2, 3, 5}); });
  list.add("expand", "scalar", {}, [](const Tensor& x) { return expand(x, {3, 2}); });
  list.add("expand", "gate", {2, 1, 1, 3}, [](const Tensor& x) { return expand(x, {2, 3, 4, 3}); });
  list.add("expand", "to nothing", {1, 3}, [](const Tensor& x) { return expand(x, {0, 3}); });
  list.add_strided("expand", {3, 1, 2}, [](const Tensor& x) { return expand(x, {2, 3, 4, 2}); });

  list.add("contiguous", "transposed", {3, 5}, [](const Tensor& x) { return contiguous(transpose(x, 0, 1)); });
  list.add("contiguous", "expanded", {3, 1}, [](const Tensor& x) { return contiguous(expand(x, {3, 4})); });
  list.add("contiguous", "sliced", {5, 7}, [](const Tensor& x) { return contiguous(slice(x, 1, 1, 6)); });
  list.add("contiguous", "every second", {7, 3}, [](const Tensor& x) { return contiguous(slice(x, 0, 0, 7, 2)); });
  list.add_strided("contiguous", {3, 4, 5}, [](const Tensor& x) { return contiguous(x); });
}

void add_parts(CaseList& list) {
  list.add("slice", "middle", {3, 7, 2}, [](const Tensor& x) { return slice(x, 1, 2, -1); });
  list.add("slice", "every third", {8, 3}, [](const Tensor& x) { return slice(x, 0, 1, 8, 3); });
  list.add("slice", "used twice", {5, 3}, [](const Tensor& x) { return slice(x, 0, 0, 3) * slice(x, 0, 2, 5); });
  list.add("slice", "one element", {1}, [](const Tensor& x) { return slice(x, 0, 0, 1); });
  list.add("slice", "nothing", {3, 5}, [](const Tensor& x) { return slice(x, 1, 2, 2); });
  list.add_strided("slice", {3, 4, 5}, [](const Tensor& x) { return slice(x, -1, 1, 5, 2); });

  list.add("select", "first axis", {3, 5}, [](const Tensor& x) { return select(x, 0, 1); });
  list.add("select", "last, from the end", {3, 5, 2}, [](const Tensor& x) { return select(x, -1, -1); });
  list.add("select", "to a scalar", {5}, [](const Tensor& x) { return select(x, 0, 3); });
  list.add("select", "used twice", {3, 4}, [](const Tensor& x) { return select(x, 0, 0) * select(x, 0, 2); });
  list.add("select", "empty", {3, 0}, [](const Tensor& x) { return select(x, 0, 1); });
  list.add_strided("select", {3, 4, 5}, [](const Tensor& x) { return select(x, 1, 2); });

  const auto all_parts = [](const char* variant, const Shape& shape, std::vector<int64_t> sizes, int axis) {
    return GradientCase{"split", variant, [sizes, axis](const Tensors& in) { return split(in[0], sizes, axis); },
                        [shape] { return Tensors{draw(shape, 12)}; }};
  };
  list.cases.push_back(all_parts("last axis", {3, 7}, {2, 4, 1}, -1));
  list.cases.push_back(all_parts("first axis", {5, 3}, {2, 3}, 0));
  list.cases.push_back(all_parts("an empty part", {2, 4, 3}, {1, 0, 3}, 1));
  list.cases.push_back(all_parts("one part", {1, 3}, {1}, 0));
  const auto product = [](int axis) {
    return [axis](const Tensor& x) {
      const Tensors parts = unstack(x, axis);
      return parts[0] * parts[1];
    };
  };
  list.add("unstack", "first axis", {2, 3}, product(0));
  list.add("unstack", "middle axis", {2, 3, 2}, product(1));
  list.add("unstack", "last axis", {3, 2}, product(-1));
  list.add("unstack", "to scalars", {4}, product(0));
  list.add("unstack", "an unused part", {2, 3}, [](const Tensor& x) { return unstack(x, 1)[1]; });
  list.add("split", "an unused part", {3, 6}, [](const Tensor& x) { return split(x, {1, 2, 3}, 1)[1]; });
  list.add("split", "chunk", {2, 7}, [](const Tensor& x) {
    const Tensors parts = chunk(x, 3, 1);
    return parts[0] * parts[1] + parts[2];
  });
  list.add_strided("split", {3, 4, 4}, [](const Tensor& x) {
    const Tensors parts = split(x, {2, 2}, 2);
    return parts[0] * parts[1];
  });
}

void add_joins(CaseList& list) {
  const auto join = [](int axis) { return [axis](const Tensors& in) -> Tensors { return {concat(in, axis)}; }; };
  list.add_many("concat", "last axis", join(-1), [] {
    return Tensors{draw({2, 3, 2}, 13), draw({2, 3, 5}, 14), draw({2, 3, 1}, 15)};
  });
  list.add_many("concat", "first axis", join(0), [] { return Tensors{draw({2, 5}, 13), draw({3, 5}, 14)}; });
  list.add_many("concat", "one part", join(1), [] { return Tensors{draw({3, 5}, 13)}; });
  list.add_many("concat", "an empty part", join(1), [] { return Tensors{draw({3, 0}, 13), draw({3, 2}, 14)}; });
  list.add_many("concat", "strided", join(1), [] {
    return Tensors{strided(draw({3, 2, 4}, 13)), draw({3, 3, 4}, 14)};
  });
  list.add_many(
      "concat", "stack", [](const Tensors& in) -> Tensors { return {stack(in, -1)}; },
      [] {
        return Tensors{draw({3, 5}, 13), draw({3, 5}, 14)};
      });
  list.add_many(
      "concat", "a part twice",
      [](const Tensors& in) -> Tensors {
        return {concat({in[0], in[0]}, 0)};
      },
      [] {
        return Tensors{draw({3, 5}, 13)};
      });

  list.add("pad", "last axis", {3, 5}, [](const Tensor& x) { return pad(x, 1, 1, 2); });
  list.add("pad", "map", {2, 3, 2, 3}, [](const Tensor& x) { return pad(pad(x, 1, 1, 0), 2, 0, 3); });
  list.add("pad", "one element", {1}, [](const Tensor& x) { return pad(x, 0, 2, 2); });
  list.add("pad", "by nothing", {3}, [](const Tensor& x) { return pad(x, 0, 0, 0); });
  list.add("pad", "empty", {0, 2}, [](const Tensor& x) { return pad(x, 0, 1, 1); });
  list.add_strided("pad", {3, 4}, [](const Tensor& x) { return pad(x, 0, 1, 1); });

  list.add("flip", "last axis", {3, 5}, [](const Tensor& x) { return flip(x, {-1}); });
  list.add("flip", "two axes", {3, 5, 2}, [](const Tensor& x) { return flip(x, {0, 1}); });
  list.add("flip", "no axes", {3}, [](const Tensor& x) { return flip(x, {}); });
  list.add("flip", "one element", {1, 1}, [](const Tensor& x) { return flip(x, {0}); });
  list.add("flip", "empty", {0, 3}, [](const Tensor& x) { return flip(x, {0}); });
  list.add_strided("flip", {3, 4, 5}, [](const Tensor& x) { return flip(x, {0, 2}); });

  list.add("rot90", "one turn", {2, 3, 5, 2}, [](const Tensor& x) { return rot90(x, 1); });
  list.add("rot90", "two turns", {1, 3, 5, 1}, [](const Tensor& x) { return rot90(x, 2); });
  list.add("rot90", "three turns", {2, 4, 3, 2}, [](const Tensor& x) { return rot90(x, 3); });
  list.add("rot90", "backwards", {1, 2, 3, 2}, [](const Tensor& x) { return rot90(x, -5); });
  list.add("rot90", "empty", {0, 2, 3, 1}, [](const Tensor& x) { return rot90(x, 1); });
  list.add_strided("rot90", {2, 3, 4, 2}, [](const Tensor& x) { return rot90(x, 1); });
}

void add_indexing(CaseList& list) {
  const auto pairs = [] { return index_of({2, 0, 1, 1, 2, 2}, {3, 2}); };
  list.add("gather", "last axis", {3, 3}, [=](const Tensor& x) { return gather(x, 1, pairs()); });
  list.add("gather", "fewer rows", {4, 3}, [=](const Tensor& x) { return gather(x, -1, pairs()); });
  list.add("gather", "first axis", {3, 4}, [=](const Tensor& x) { return gather(x, 0, pairs()); });
  list.add("gather", "vector", {3}, [](const Tensor& x) { return gather(x, 0, index_of({1, 1, 0, 2, 1})); });
  list.add("gather", "nothing", {3, 2}, [](const Tensor& x) { return gather(x, 1, index_of({}, {3, 0})); });
  list.add_strided("gather", {3, 3}, [=](const Tensor& x) { return gather(x, 1, pairs()); });

  list.add("scatter_add", "last axis", {3, 2}, [=](const Tensor& x) { return scatter_add(x, 1, pairs(), 4); });
  list.add("scatter_add", "first axis", {3, 2}, [=](const Tensor& x) { return scatter_add(x, 0, pairs(), 3); });
  list.add("scatter_add", "vector", {5}, [](const Tensor& x) {
    return scatter_add(x, 0, index_of({1, 1, 0, 2, 1}), 3);
  });
  list.add("scatter_add", "one element", {1}, [](const Tensor& x) { return scatter_add(x, 0, index_of({0}), 1); });
  list.add("scatter_add", "empty", {0}, [](const Tensor& x) { return scatter_add(x, 0, index_of({}), 2); });
  list.add_strided("scatter_add", {3, 2}, [=](const Tensor& x) { return scatter_add(x, 1, pairs(), 3); });

  list.add("index_select", "rows", {3, 5}, [](const Tensor& x) { return index_select(x, 0, index_of({2, 0, 2})); });
  list.add("index_select", "last axis", {3, 5}, [](const Tensor& x) { return index_select(x, -1, index_of({4, 1})); });
  list.add("index_select", "middle", {2, 3, 4}, [](const Tensor& x) { return index_select(x, 1, index_of({1, 1})); });
  list.add("index_select", "one element", {1}, [](const Tensor& x) { return index_select(x, 0, index_of({0})); });
  list.add("index_select", "nothing", {3, 2}, [](const Tensor& x) { return index_select(x, 0, index_of({})); });
  list.add_strided("index_select", {3, 4, 5}, [](const Tensor& x) { return index_select(x, 0, index_of({2, 1})); });

  const auto add_at = [](int axis, std::vector<int64_t> places) {
    return [=](const Tensors& in) -> Tensors { return {index_add(in[0], axis, index_of(places), in[1])}; };
  };
  list.add_many("index_add", "rows", add_at(0, {2, 0, 2}), [] { return Tensors{draw({3, 5}, 16), draw({3, 5}, 17)}; });
  list.add_many("index_add", "last axis", add_at(-1, {1, 4}), [] {
    return Tensors{draw({3, 5}, 16), draw({3, 2}, 17)};
  });
  list.add_many("index_add", "middle", add_at(1, {1, 1, 0, 1}), [] {
    return Tensors{draw({2, 3, 4}, 16), draw({2, 4, 4}, 17)};
  });
  list.add_many("index_add", "one element", add_at(0, {0}), [] { return Tensors{draw({1}, 16), draw({1}, 17)}; });
  list.add_many("index_add", "nothing", add_at(0, {}), [] { return Tensors{draw({2, 3}, 16), draw({0, 3}, 17)}; });
  list.add_many("index_add", "strided", add_at(0, {2, 1}), [] {
    return Tensors{strided(draw({3, 4}, 16)), strided(draw({2, 4}, 17))};
  });
}

/// Two slots an image; images choose among the parts as the experts of a mixture are chosen.
std::vector<RowPlace> places_of(int64_t images) {
  const std::vector<RowPlace> all{{0, 0}, {2, 0}, {1, 0}, {0, 1}, {2, 1}, {0, 2}};
  return {all.begin(), all.begin() + 2 * images};
}

void add_expert_rows(CaseList& list) {
  const auto dispatch = [](int64_t images, std::vector<int64_t> sizes) -> TensorFunction {
    return [=](const Tensors& in) { return dispatch_rows(in[0], places_of(images), sizes); };
  };
  const auto x = [](const Shape& shape) { return [shape] { return Tensors{draw(shape, 18)}; }; };
  list.add_many("dispatch_rows", "three images", dispatch(3, {3, 1, 2}), x({3, 2, 3, 1}));
  list.add_many("dispatch_rows", "one image", dispatch(1, {1, 0, 1}), x({1, 5}));
  list.add_many("dispatch_rows", "two images", dispatch(2, {2, 1, 1}), x({2, 4}));
  list.add_many("dispatch_rows", "vector", dispatch(3, {3, 1, 2}), x({3}));
  list.add_many("dispatch_rows", "empty rows", dispatch(3, {3, 1, 2}), x({3, 0}));
  list.add_many("dispatch_rows", "no images", dispatch(0, {0, 0}), x({0, 3}));
  list.add_many("dispatch_rows", "strided", dispatch(3, {3, 1, 2}), [] { return Tensors{strided(draw({3, 4}, 18))}; });

  const auto combine = [](int64_t images) -> TensorFunction {
    return [=](const Tensors& in) -> Tensors {
      return {combine_rows({in.begin(), in.end() - 1}, places_of(images), in.back())};
    };
  };
  const auto parts = [](const Shape& row, const std::vector<int64_t>& sizes, int64_t images) {
    return [=] {
      Tensors inputs;
      for (const int64_t size : sizes) {
        Shape shape = row;
        shape.insert(0, size);
        inputs.push_back(draw(shape, 19 + inputs.size()));
      }
      inputs.push_back(draw({images, 2}, 23));
      return inputs;
    };
  };
  list.add_many("combine_rows", "three images", combine(3), parts({2, 3, 1}, {3, 1, 2}, 3));
  list.add_many("combine_rows", "one image", combine(1), parts({5}, {1, 0, 1}, 1));
  list.add_many("combine_rows", "two images", combine(2), parts({4}, {2, 1, 1}, 2));
  list.add_many("combine_rows", "vector", combine(3), parts({}, {3, 1, 2}, 3));
  list.add_many("combine_rows", "empty rows", combine(3), parts({0}, {3, 1, 2}, 3));
  list.add_many("combine_rows", "no images", combine(0), parts({3}, {0, 0}, 0));
  list.add_many("combine_rows", "strided", combine(2), [] {
    return Tensors{strided(draw({2, 3}, 19)), draw({1, 3}, 20), draw({1, 3}, 21), strided(draw({2, 2}, 23))};
  });
}

void add_top_k(CaseList& list) {
  const auto add = [&](const char* variant, const Shape& shape, int64_t k, bool with_gaps = false) {
    list.cases.push_back({"top_k", variant, [k](const Tensors& in) -> Tensors { return {top_k(in[0], k).values}; },
                          [=] {
                            const Tensor x = draw_distinct(shape);
                            return Tensors{with_gaps ? strided(x) : x};
                          }});
  };
  add("two of five", {3, 5}, 2);
  add("all", {2, 7}, 7);
  add("none", {3, 4}, 0);
  add("one element", {1}, 1);
  add("three axes", {2, 3, 5}, 3);
  add("no rows", {0, 4}, 2);
  add("strided", {4, 5}, 2, true);
}

}  // namespace

std::vector<GradientCase> shape_gradient_cases() {
  CaseList list;
  add_views(list);
  add_parts(list);
  add_joins(list);
  add_indexing(list);
  add_expert_rows(list);
  add_top_k(list);
  return std::move(list.cases);
}

}  // namespace camo
