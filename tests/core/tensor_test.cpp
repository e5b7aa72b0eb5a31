#include "core/tensor.h"

#include <cmath>
#include <limits>

#include "core/additions.h"
#include "core/parallel.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

static_assert(!std::is_constructible_v<bool, Tensor>, "if (greater(x, 0)) would ask whether a tensor exists");
static_assert(HostElement<double> && !HostElement<int> && !HostElement<bool>);

TEST(Tensor, KnowsShapeStridesAndDtype) {
  const Tensor x = zeros({2, 3, 4}, f64);
  EXPECT_EQ(x.shape(), (Shape{2, 3, 4}));
  EXPECT_EQ(x.strides(), (Shape{12, 4, 1}));
  EXPECT_EQ(x.size(-1), 4);
  EXPECT_EQ(x.numel(), 24);
  EXPECT_EQ(x.dtype(), f64);
  EXPECT_TRUE(x.is_contiguous());
}

TEST(Tensor, ScalarHasOneElement) {
  const Tensor x = full({}, 2.5);
  EXPECT_EQ(x.dims(), 0);
  EXPECT_EQ(x.numel(), 1);
  EXPECT_EQ(x.item(), 2.5);
}

TEST(Tensor, EmptyTensorIsContiguousAndCopies) {
  const Tensor x = zeros({2, 0, 3});
  EXPECT_TRUE(x.is_contiguous());
  EXPECT_TRUE(clone(x).to_vector<float>().empty());
}

TEST(Tensor, ContiguityIgnoresAxesOfExtentOne) {
  const Tensor x = zeros({4, 6});
  EXPECT_TRUE(make_view(x, {1, 4, 6}, {999, 6, 1}, 0).is_contiguous());
  EXPECT_FALSE(make_view(x, {6, 4}, {1, 6}, 0).is_contiguous());
  EXPECT_FALSE(make_view(x, {4, 3}, {6, 1}, 0).is_contiguous());
}

TEST(Tensor, CopiesBetweenAnyStrides) {
  const Tensor x = from_vector<double>({0, 1, 2, 3, 4, 5}, {2, 3});
  const Tensor transposed = make_view(x, {3, 2}, {1, 3}, 0);
  EXPECT_EQ(transposed.to_vector<double>(), (std::vector<double>{0, 3, 1, 4, 2, 5}));
  const Tensor target = zeros({2, 3}, f64);
  copy_into(make_view(target, {3, 2}, {1, 3}, 0), transposed);
  EXPECT_EQ(target.to_vector<double>(), x.to_vector<double>());
}

TEST(Tensor, AddsIntoAView) {
  const Tensor x = ones({3, 4}, f32);
  const Tensor middle = make_view(x, {3, 2}, {4, 1}, 1);
  add_into(middle, full({3, 2}, 2));
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{1, 3, 3, 1, 1, 3, 3, 1, 1, 3, 3, 1}));
}

TEST(Tensor, AddsSixteenBitIntoF32) {
  for (const DType dtype : {bf16, f16}) {
    const Tensor x = ones({2, 3}, f32);
    add_into(make_view(x, {2, 2}, {3, 1}, 1), full({2, 2}, 0.5, dtype));
    EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{1, 1.5, 1.5, 1, 1.5, 1.5}));
    EXPECT_ERROR(add_into(full({2, 3}, 0.5, dtype), x), "but for 16 bit added to f32");
  }
}

TEST(Tensor, AddsManyAtOnce) {
  Tensors targets, sources, expected;
  for (const DType dtype : {f32, bf16, f64, f16}) {
    for (const int64_t size : {1, 0, 7, 4096, 20001}) {
      targets.push_back(full({size}, 2, dtype));
      sources.push_back(full({size}, 0.5 * static_cast<double>(expected.size()), dtype));
      expected.push_back(full({size}, 2 + 0.5 * static_cast<double>(expected.size()), dtype));
    }
  }
  targets.push_back(zeros({3}, f32, cpu));
  sources.push_back(ones({3}, f32, cpu));
  expected.push_back(ones({3}, f32, cpu));
  const uint64_t version = targets[0].version();
  Additions additions;
  for (size_t i = 0; i < targets.size(); ++i) additions.add(targets[i], sources[i]);
  additions.finish();
  additions.finish();  // nothing is left
  for (size_t i = 0; i < targets.size(); ++i) EXPECT_TRUE(test::bitwise_equal(targets[i], expected[i])) << i;
  EXPECT_GT(targets[0].version(), version);
}

TEST(Tensor, AddsManyToOneInOrder) {
  const Tensor x = full({3}, 1, f16);
  Additions additions;
  for (const double added : {2048.0, 1.0, -2048.0}) additions.add(x, full({3}, added, f16));  // 2049 is rounded to 2048
  additions.finish();
  EXPECT_EQ(x.to_vector<float>(), (std::vector<float>{0, 0, 0}));
  additions.add(make_view(zeros({3, 2}, f32), {3}, {2}, 0), ones({3}, f32));  // strided: at once
  EXPECT_ERROR(additions.add(x, ones({4}, f16)), "add_into: shapes");
}

TEST(Tensor, JoinsTheNumbersOfManyTensors) {
  const auto expect_joined = []<class T>(DType dtype) {
    const Tensor matrix = from_vector<T>({1, 2, 3, 4, 5, 6}, {2, 3});
    const Tensor transposed = make_view(matrix, {3, 2}, {1, 3}, 0);
    const Tensor ends = from_vector<T>({-T{0}, INFINITY}, {2});
    const Tensor all = joined({full({}, 7, dtype), transposed, empty({0}, dtype), ends});
    EXPECT_EQ(all.to_vector<T>(), (std::vector<T>{7, 1, 4, 2, 5, 3, 6, 0, INFINITY}));
    EXPECT_TRUE(std::signbit(all.to_vector<T>()[7]));
  };
  expect_joined.operator()<float>(f32);
  expect_joined.operator()<double>(f64);
  Tensors many;
  for (int i = 0; i < 500; ++i) many.push_back(full({i % 7}, i, f32));
  const std::vector<float> values = joined(many).to_vector<float>();
  size_t at = 0;
  for (int i = 0; i < 500; ++i) {
    for (int k = 0; k < i % 7; ++k) ASSERT_EQ(values[at++], static_cast<float>(i)) << i;
  }
  EXPECT_EQ(at, values.size());
  EXPECT_ERROR(joined({}), "joined: needs at least one tensor");
  EXPECT_ERROR(joined({zeros({1}, f32), zeros({1}, f64)}), "must have one dtype and device; got f32 on ");
}

TEST(Tensor, FillOfAViewLeavesTheRest) {
  const Tensor x = zeros({2, 3}, i64);
  fill(make_view(x, {2}, {3}, 1), 7);
  EXPECT_EQ(x.to_vector<int64_t>(), (std::vector<int64_t>{0, 7, 0, 0, 7, 0}));
}

TEST(Tensor, ConvertsEveryDtypePair) {
  const std::vector<DType> all{f32, f64, f16, bf16, i64, u8, boolean};
  for (DType from : all) {
    for (DType to : all) {
      const Tensor source = full({3}, 1, from);
      const Tensor target = zeros({3}, to);
      copy_into(target, source);
      EXPECT_EQ(target.to_vector<double>(), (std::vector<double>{1, 1, 1})) << name(from) << " to " << name(to);
    }
  }
}

TEST(Tensor, LargeCopiesRunOnAllThreads) {
  const Tensor x = test::uniform({300, 70, 11}, f32);
  const Tensor permuted = make_view(x, {11, 300, 70}, {1, 770, 11}, 0);
  const std::vector<float> values = x.to_vector<float>(), copied = clone(permuted).to_vector<float>();
  for (size_t i : {0, 5, 10}) {
    for (size_t j : {0, 299}) EXPECT_EQ(copied[(i * 300 + j) * 70 + 69], values[j * 770 + 69 * 11 + i]);
  }
}

TEST(Tensor, ErrorsSayWhatCame) {
  const Tensor x = zeros({2, 3});
  EXPECT_ERROR(Tensor().shape(), "tensor: is undefined");
  EXPECT_ERROR(x.data<double>(), "data of dtype f32 was read as f64");
  EXPECT_ERROR(x.item(), "one element; got shape [2, 3]");
  EXPECT_ERROR(x.size(2), "axis must be in [-2, 1]; got 2");
  EXPECT_ERROR(zeros({}).size(0), "size: the tensor has no axes, its shape is []; got axis 0");
  EXPECT_ERROR(x.set_grad(zeros({3}, f64)), "the tensor's shape [2, 3] and dtype f32; got [3] f64");
  EXPECT_ERROR(copy_into(x, zeros({3, 2})), "shapes must be equal; got [2, 3] and [3, 2]");
  EXPECT_ERROR(add_into(x, zeros({2, 3}, f64)), "shapes, dtypes and devices must be equal");
  EXPECT_ERROR(empty({-1, 2}), "must not be negative; got [-1, 2]");
  EXPECT_ERROR(empty({int64_t{1} << 40, int64_t{1} << 40}), "too many elements");
  EXPECT_ERROR(empty({INT64_MAX}, u8), "too many elements");
  EXPECT_ERROR(from_vector<float>({1, 2}, {3}), "has 3 elements; got 2 values");
  EXPECT_ERROR(zeros({2}, i64).set_requires_grad(true), "only floating tensors");
  EXPECT_ERROR((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), "at most 8 dimensions");
  EXPECT_ERROR(broadcast_shapes({2, 3}, {4, 3}, "add"), "add: shapes must broadcast; got [2, 3] and [4, 3]");
}

TEST(Tensor, TargetsWhoseElementsShareMemoryAreRefused) {
  const Tensor one = zeros({1}, f64), expanded = make_view(one, {3}, {0}, 0), source = ones({3}, f64);
  EXPECT_ERROR(copy_into(expanded, source), "copy: the elements of the target must not share memory; got shape [3], ");
  EXPECT_ERROR(add_into(expanded, source), "add_into: the elements of the target must not share memory");
  EXPECT_EQ(one.item(), 0);
  fill(expanded, 2);  // one value: no question of order
  EXPECT_EQ(one.item(), 2);
}

TEST(Tensor, SourcesMayOverlapTheTarget) {
  const auto rising = [] { return from_vector<double>({0, 1, 2, 3, 4, 5, 6, 7, 8}, {3, 3}); };
  const auto values = [](const Tensor& x) { return x.to_vector<double>(); };
  Tensor x = rising();
  copy_into(x, make_view(x, {3, 3}, {1, 3}, 0));
  EXPECT_EQ(values(x), (std::vector<double>{0, 3, 6, 1, 4, 7, 2, 5, 8}));
  x = rising();
  add_into(x, make_view(x, {3, 3}, {1, 3}, 0));
  EXPECT_EQ(values(x), (std::vector<double>{0, 4, 8, 4, 8, 12, 8, 12, 16}));
  x = rising();
  copy_into(make_view(x, {8}, {1}, 1), make_view(x, {8}, {1}, 0));
  EXPECT_EQ(values(x), (std::vector<double>{0, 0, 1, 2, 3, 4, 5, 6, 7}));
  add_into(x, x);
  EXPECT_EQ(values(x), (std::vector<double>{0, 0, 2, 4, 6, 8, 10, 12, 14}));
}

TEST(Tensor, ValuesMustFitIntoWholeNumbers) {
  for (const double value : {300.0, -1.0, std::nan("")}) {
    EXPECT_ERROR(full({1}, value, u8), "fill: the value must fit into u8; got ");
  }
  for (const double value : {0x1p63, -1e300, std::nan("")}) {
    EXPECT_ERROR(full({1}, value, i64), "fill: the value must fit into i64; got ");
  }
  EXPECT_EQ(full({1}, -0x1p63, i64).to_vector<int64_t>()[0], std::numeric_limits<int64_t>::min());
  EXPECT_EQ(full({1}, 255.9, u8).item(), 255);
}

TEST(Tensor, OutOfMemoryIsAnErrorOfItsOwn) {
  try {
    empty({int64_t{1} << 46}, f32, default_device());
    FAIL() << "256 TiB were allocated";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::out_of_memory);
    EXPECT_EQ(error.exit_code(), 5);
    EXPECT_NE(std::string(error.what()).find("lower --batch-size"), std::string::npos) << error.what();
  }
}

TEST(Tensor, MemoryIsCountedAndReturned) {
  const int64_t before = memory_stats(default_device()).live_bytes;
  reset_peak_memory(default_device());
  {
    const Tensor x = zeros({1000, 100});
    EXPECT_GE(memory_stats(default_device()).live_bytes, before + 400000);
    const Tensor view = make_view(x, {10}, {1}, 0);
    EXPECT_LT(memory_stats(default_device()).live_bytes, before + 600000);
  }
  EXPECT_EQ(memory_stats(default_device()).live_bytes, before);
  EXPECT_GE(memory_stats(default_device()).peak_bytes, before + 400000);
  release_cached_memory(default_device());
  EXPECT_EQ(memory_stats(default_device()).cached_bytes, 0);
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(Half(1.0f).bits, 0x3c00);
  EXPECT_EQ(Half(-2.0f).bits, 0xc000);
  EXPECT_EQ(Half(65504.0f).bits, 0x7bff);
  EXPECT_EQ(Half(65519.0f).bits, 0x7bff);
  EXPECT_EQ(Half(65520.0f).bits, 0x7c00);
  EXPECT_EQ(Half(0x1p-24f).bits, 1);
  EXPECT_EQ(Half(0x1p-25f).bits, 0);              // a tie goes to the even 0
  EXPECT_EQ(Half(1.0f + 0x1p-11f).bits, 0x3c00);  // a tie goes to the even 1
  EXPECT_EQ(Half(1.0f + 0x3p-11f).bits, 0x3c02);
  EXPECT_TRUE(std::isnan(static_cast<float>(Half(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Half, EveryValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    Half half;
    half.bits = static_cast<uint16_t>(bits);
    const float value = static_cast<float>(half);
    if (!std::isnan(value)) {
      ASSERT_EQ(Half(value).bits, bits);
    }
    BFloat16 bfloat;
    bfloat.bits = static_cast<uint16_t>(bits);
    const float wide = static_cast<float>(bfloat);
    if (!std::isnan(wide)) {
      ASSERT_EQ(BFloat16(wide).bits, bits);
    }
  }
}

TEST(BFloat16, RoundsToNearestEven) {
  EXPECT_EQ(BFloat16(1.0f).bits, 0x3f80);
  EXPECT_EQ(BFloat16(1.0f + 0x1p-8f).bits, 0x3f80);
  EXPECT_EQ(BFloat16(1.0f + 0x3p-8f).bits, 0x3f82);
  EXPECT_TRUE(std::isinf(static_cast<float>(BFloat16(std::numeric_limits<float>::max()))));
}

TEST(Device, ParsesNames) {
  EXPECT_EQ(parse_device("cpu"), cpu);
  EXPECT_ERROR(parse_device("gpu"), "must be auto, cpu, cuda or cuda:N; got 'gpu'");
  EXPECT_ERROR(parse_device("cuda:x"), "must be auto, cpu, cuda or cuda:N");
  if (!why_no_cuda().empty()) {
    EXPECT_EQ(parse_device("auto"), cpu);
    EXPECT_ERROR(parse_device("cuda:0"), "can't be used");
    EXPECT_ERROR(empty({1}, f32, Device::cuda()), "can't be used");
  }
}

TEST(Error, CarriesCodeAndContext) {
  const Error error = Error(ErrorCode::data, "png: is truncated").with_context("while reading a.png");
  EXPECT_EQ(error.exit_code(), 3);
  EXPECT_STREQ(error.what(), "png: is truncated\n  while reading a.png");
}

}  // namespace
}  // namespace camo
