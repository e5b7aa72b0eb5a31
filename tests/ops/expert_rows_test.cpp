#include "ops/expert_rows.h"

#include "core/parallel.h"
#include "ops/ops.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::all_close;
using test::bitwise_equal;
using test::uniform;

const std::vector<RowPlace> kPlaces{{0, 0}, {2, 0}, {1, 0}, {0, 1}, {2, 1}, {0, 2}};  // three images, two slots

TEST(DispatchRows, CopiesEachImageToItsParts) {
  const Tensor x = uniform({3, 2, 5});
  const Tensors parts = dispatch_rows(x, kPlaces, {3, 1, 2});
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].storage(), x.storage());  // all images in order: a view
  EXPECT_TRUE(bitwise_equal(parts[0], x));
  EXPECT_TRUE(bitwise_equal(parts[1], slice(x, 0, 1, 2)));
  EXPECT_TRUE(bitwise_equal(parts[2], concat({slice(x, 0, 0, 1), slice(x, 0, 2, 3)}, 0)));
}

TEST(CombineRows, SumsTheWeightedRowsOfEachImage) {
  const Tensors parts{uniform({3, 7, 13}), uniform({1, 7, 13}), uniform({2, 7, 13})};
  const Tensor weights = uniform({3, 2});
  const Tensor y = combine_rows(parts, kPlaces, weights);
  for (int64_t b = 0; b < 3; ++b) {
    Tensor wanted = zeros({7, 13}, f64);
    for (int64_t s = 0; s < 2; ++s) {
      const RowPlace& place = kPlaces[static_cast<size_t>(2 * b + s)];
      wanted =
          wanted + select(parts[static_cast<size_t>(place.part)], 0, place.row) * select(select(weights, 0, b), 0, s);
    }
    EXPECT_TRUE(all_close(select(y, 0, b), wanted, 1e-15)) << "image " << b;
  }
}

TEST(CombineRows, LongRowsDoNotDependOnTheNumberOfThreads) {
  const Tensors values{uniform({3, 9001}, f32), uniform({1, 9001}, f32), uniform({2, 9001}, f32), uniform({3, 2}, f32)};
  const auto run = [&](int threads) {
    const int before = num_threads();
    set_num_threads(threads);
    Tensors inputs;
    for (const Tensor& value : values) inputs.push_back(value.detach().set_requires_grad(true));
    Tensors results{combine_rows({inputs[0], inputs[1], inputs[2]}, kPlaces, inputs[3])};
    backward(sum(square(results[0])));
    for (const Tensor& input : inputs) results.push_back(input.grad());
    set_num_threads(before);
    return results;
  };
  const Tensors one = run(1), three = run(3);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(bitwise_equal(one[i], three[i])) << "result " << i;
}

TEST(ExpertRows, CheckTheirPlaces) {
  const Tensor x = uniform({3, 2});
  EXPECT_ERROR(dispatch_rows(x, {{0, 0}, {0, 1}}, {2}), "every image needs as many slots; got 2 places for 3 images");
  EXPECT_ERROR(dispatch_rows(x, {{0, 0}, {0, 1}, {0, 1}}, {3}), "got row 1 of part 0 twice");
  EXPECT_ERROR(dispatch_rows(x, {{0, 0}, {0, 1}, {1, 0}}, {3}), "must lie within the parts; got row 0 of part 1");
  EXPECT_ERROR(dispatch_rows(x, {{0, 0}, {0, 1}, {0, 2}}, {4}), "got 4 rows and 3 places");
  const std::vector<RowPlace> places{{0, 0}, {0, 1}, {0, 2}};
  EXPECT_ERROR(combine_rows({x}, places, uniform({3})), "weights must be [images, slots]; got [3]");
  EXPECT_ERROR(combine_rows({x}, places, uniform({1, 2})), "weights must be [images, slots]; got [1, 2] for 3 slots");
  EXPECT_ERROR(combine_rows({x}, places, uniform({3, 1}, f32)), "weights must have the parts' dtype and device");
  EXPECT_ERROR(combine_rows({x, uniform({1, 3})}, places, uniform({3, 1})), "parts must agree in all but the number");
}

TEST(CombineChosen, HasTheBitsOfCombineRows) {
  for (const DType dtype : {f32, f64}) {
    // Two slots an image; part 3 is chosen by none, and parts 1 and 2 have rows that nobody asks for.
    const Tensors parts{uniform({3, 7, 13}, dtype), uniform({3, 7, 13}, dtype), uniform({3, 7, 13}, dtype),
                        uniform({3, 7, 13}, dtype)};
    const Tensor weights = uniform({3, 2}, dtype);
    const Tensor indices = from_vector<int64_t>({0, 2, 1, 0, 2, 0}, {3, 2});
    const Tensor rows = from_vector<int64_t>({0, 0, 0, 1, 1, 2}, {3, 2});
    const Tensor y = combine_chosen(parts, indices, rows, weights);
    const Tensor wanted = combine_rows(
        {parts[0], contiguous(slice(parts[1], 0, 0, 1)), contiguous(slice(parts[2], 0, 0, 2))}, kPlaces, weights);
    EXPECT_TRUE(bitwise_equal(y, wanted)) << name(dtype);
  }
  EXPECT_EQ(combine_chosen({uniform({2, 0})}, zeros({2, 1}, i64), zeros({2, 1}, i64), uniform({2, 1})).shape(),
            Shape({2, 0}));
}

TEST(CombineChosen, ChecksItsArguments) {
  const Tensor part = uniform({2, 3}), weights = uniform({2, 1}), none = zeros({2, 1}, i64);
  const auto at = [](int64_t value) { return full({2, 1}, static_cast<double>(value), i64); };
  EXPECT_ERROR(combine_chosen({}, none, none, weights), "needs 1 to 64 parts; got 0");
  EXPECT_ERROR(combine_chosen({part, uniform({1, 3})}, none, none, weights), "parts must be of one shape");
  EXPECT_ERROR(combine_chosen({make_view(part, {2, 3}, {1, 2}, 0)}, none, none, weights),
               "parts must be contiguous; got shape [2, 3], strides [1, 2]; convert with contiguous()");
  EXPECT_ERROR(combine_chosen({part}, make_view(none, {2, 1}, {0, 1}, 0), none, weights),
               "indices, rows and weights must be contiguous; got shape [2, 1], strides [0, 1]");
  EXPECT_ERROR(combine_chosen({part}, none, zeros({2, 2}, i64), weights),
               "must be [images, slots]; got [2, 1], [2, 2]");
  EXPECT_ERROR(combine_chosen({part}, none, none, uniform({2, 1}, f32)),
               "weights of the parts' dtype; got i64, i64 and");
  EXPECT_ERROR(combine_chosen({part}, none, none, uniform({1, 2, 2}).detach()), "must be [images, slots]");
  EXPECT_ERROR(combine_chosen({part.detach().set_requires_grad(true)}, none, none, weights), "has no gradient");
  EXPECT_ERROR(combine_chosen({zeros({0, 3}, f64)}, none, none, weights),
               "rows must lie within the 0 rows of a part; got 2 of them");
  // On a GPU a bad index is found when the host waits for the kernel: reading the result does.
  const bool late = part.is_cuda();
  EXPECT_ERROR(combine_chosen({part}, at(1), none, weights).to_vector<double>(),
               late ? "combine_chosen: indices must lie within the extent 1; got 1"
                    : "combine_chosen: indices must lie within the 1 parts; got 1");
  EXPECT_ERROR(combine_chosen({part}, none, at(-1), weights).to_vector<double>(),
               late ? "combine_chosen: indices must lie within the extent 2; got -1"
                    : "combine_chosen: rows must lie within the 2 rows of a part; got -1");
  EXPECT_EQ((part + 1).to_vector<double>().size(), 6u);  // the device still works
}

TEST(CombineChosen, TakesMoreImagesThanALaunch) {
  const int64_t images = 70001;
  const Tensor part = uniform({3, 5}), weights = uniform({images, 1}), zero = zeros({images, 1}, i64);
  std::vector<int64_t> chosen;
  for (int64_t b = 0; b < images; ++b) chosen.push_back(b * b % 3);
  const Tensor rows = from_vector(chosen, {images, 1});
  const Tensor wanted = index_select(part, 0, reshape(rows, {images})) * weights;
  EXPECT_TRUE(all_close(combine_chosen({part}, zero, rows, weights), wanted, 1e-15));
}

}  // namespace
}  // namespace camo
