#include "data/check_dataset.h"

#include <algorithm>

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

namespace fs = std::filesystem;

class CheckDataset : public ::testing::Test {
 protected:
  Sample add(const std::string& name, const Image& image, const Image& mask) const {
    const Sample sample{name, folder_.path() / (name + ".png"), folder_.path() / (name + "_mask.png")};
    encode_png(sample.image, image);
    encode_png(sample.mask, mask);
    return sample;
  }
  static Image half_mask(int width, int height) {
    Image mask(width, height, 1);
    for (int y = 0; y < height / 2; ++y) std::fill_n(mask.row(y), width, uint8_t{255});
    return mask;
  }
  Sample good(const std::string& name, int width, int height, int start) const {
    return add(name, test::gradient_image(width, height, 3, start), half_mask(width, height));
  }

  test::TemporaryFolder folder_;
};

std::vector<std::string> kinds(const DatasetReport& report) {
  std::vector<std::string> found;
  for (const DatasetFinding& finding : report.findings) found.push_back((finding.is_error ? "!" : "") + finding.kind);
  return found;
}
using Kinds = std::vector<std::string>;

TEST_F(CheckDataset, SummarizesTheGoodPairs) {
  const Sample bad = good("c", 8, 8, 0);
  test::write_bytes(bad.mask, {});
  std::vector<int64_t> progress;
  const DatasetReport report = check_dataset({{good("a", 30, 20, 0), bad, good("b", 24, 40, 9)}, {}, {}},
                                             [&](int64_t done) { progress.push_back(done); });
  EXPECT_EQ(progress, (std::vector<int64_t>{1, 2, 3}));
  ASSERT_EQ(report.splits.size(), 1u);
  const SplitSummary& summary = report.splits[0];
  EXPECT_EQ(summary.name, "all");
  EXPECT_EQ(summary.pairs, 3);
  EXPECT_EQ(summary.good, 2);
  EXPECT_EQ(summary.min_width, 24);
  EXPECT_EQ(summary.max_width, 30);
  EXPECT_EQ(summary.min_height, 20);
  EXPECT_EQ(summary.max_height, 40);
  EXPECT_DOUBLE_EQ(summary.foreground, 0.5);
  EXPECT_EQ(kinds(report), Kinds{"!unreadable"});
  EXPECT_EQ(report.errors(), 1);
}

TEST_F(CheckDataset, FindsThePixelsThatAreThereTwice) {
  const Sample a = good("a", 30, 20, 0), b = good("b", 30, 20, 0), c = good("c", 30, 20, 50);
  EXPECT_EQ(kinds(check_dataset({{a, c}, {b}, {}})), Kinds{"!in both splits"});
  const DatasetReport within = check_dataset({{a, b, c}, {}, {}});
  EXPECT_EQ(kinds(within), Kinds{"twice"});
  EXPECT_EQ(within.errors(), 0);
  EXPECT_NE(within.findings[0].message.find("b.png: the same pixels as "), std::string::npos);
  // The same bytes in another shape are another picture.
  const Sample wide = add("wide", Image(30, 20, 3, 7), half_mask(30, 20));
  const Sample tall = add("tall", Image(20, 30, 3, 7), half_mask(20, 30));
  EXPECT_EQ(kinds(check_dataset({{wide, tall}, {}, {}})), Kinds{});
}

TEST_F(CheckDataset, LooksAtMasks) {
  const Image picture = test::gradient_image(20, 10, 3);
  Image grey = half_mask(20, 10);  // 5 % of the pixels lie between, which is not worth a note; one more is
  for (size_t i = 0; i < 10; ++i) grey.pixels[i] = 200;
  EXPECT_EQ(kinds(check_dataset({{add("a", picture, grey)}, {}, {}})), Kinds{});
  grey.pixels[10] = 1;
  EXPECT_EQ(kinds(check_dataset({{add("b", picture, grey)}, {}, {}})), Kinds{"grey mask"});
  const DatasetReport empty = check_dataset({{add("c", picture, Image(20, 10, 1))}, {}, {}});
  EXPECT_EQ(kinds(empty), Kinds{"no object"});
  EXPECT_EQ(empty.splits[0].foreground, 0);
  EXPECT_EQ(kinds(check_dataset({{add("d", picture, Image(20, 10, 1, 255))}, {}, {}})), Kinds{"all object"});
  EXPECT_EQ(kinds(check_dataset({{add("e", picture, Image(20, 10, 1, 128))}, {}, {}})),
            (Kinds{"grey mask", "no object"}));  // 128 is background
}

TEST_F(CheckDataset, ListsErrorsFirst) {
  const Sample other = add("size", test::gradient_image(20, 10, 3), half_mask(20, 11));
  Sample unusual = good("grey", 20, 10, 3);
  encode_png(unusual.image, test::gradient_image(20, 10, 1));
  Sample renamed = good("name", 20, 10, 60);
  fs::rename(renamed.image, folder_.path() / "name.jpg");
  renamed.image = folder_.path() / "name.jpg";
  const DatasetReport report = check_dataset({{unusual, renamed, other}, {}, {"x.jpg: has no mask"}});
  EXPECT_EQ(kinds(report), (Kinds{"!size mismatch", "!unpaired", "suffix", "unusual picture"}));
  EXPECT_EQ(report.errors(), 2);
  EXPECT_NE(report.findings[0].message.find("mask 20 x 11, picture 20 x 10"), std::string::npos);
  EXPECT_NE(report.findings[2].message.find("name.jpg: is a PNG by its content"), std::string::npos);
  EXPECT_NE(report.findings[3].message.find("grey.png: grey"), std::string::npos);
}

}  // namespace
}  // namespace camo
