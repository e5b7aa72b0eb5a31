#include "data/dataset.h"

#include <sys/fsuid.h>
#include <unistd.h>

#include <algorithm>

#include "test_images.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

namespace fs = std::filesystem;
using test::write_bytes;

const std::vector<uint8_t>& any_png() {
  static const std::vector<uint8_t> bytes = test::to_bytes(detail::encode_png_bytes(Image(4, 4, 1)));
  return bytes;
}

// Finding samples looks at names only.
void touch(const fs::path& path) { write_bytes(path, any_png()); }

void touch_pair(const fs::path& images, const fs::path& masks, const std::string& stem) {
  touch(images / (stem + ".jpg"));
  touch(masks / (stem + ".png"));
}

std::vector<std::string> names(const Dataset& dataset) {
  std::vector<std::string> found;
  for (const Sample& sample : dataset.samples) found.push_back(sample.name);
  return found;
}

using Names = std::vector<std::string>;

TEST(FindDataset, EveryPairOfFolderNames) {
  for (const auto& [images, masks] : std::vector<std::pair<std::string, std::string>>{{"Imgs", "GT"},
                                                                                      {"Image", "GT_Object"},
                                                                                      {"image", "mask"},
                                                                                      {"Image", "Mask"},
                                                                                      {"im", "gt"},
                                                                                      {"IMGS", "gt"},
                                                                                      {"Image", "GT"},
                                                                                      {"images", "masks"}}) {
    const test::TemporaryFolder root;
    touch_pair(root.path() / images, root.path() / masks, "b");
    touch_pair(root.path() / images, root.path() / masks, "a");
    for (Split split : {Split::train, Split::test, Split::all})
      EXPECT_EQ(names(find_dataset(root.path().string(), split)), (Names{"a", "b"})) << images;
  }
}

TEST(FindDataset, PairsByStemWhateverTheSuffix) {
  const test::TemporaryFolder root;
  touch(root.path() / "Imgs/a.JPEG");
  touch(root.path() / "Imgs/b.Png");
  touch(root.path() / "Imgs/c.bmp");
  touch(root.path() / "Imgs/Thumbs.db");
  touch(root.path() / "Imgs/._a.jpg");
  touch(root.path() / "GT/c.jpg");
  touch(root.path() / "GT/b.BMP");
  touch(root.path() / "GT/a.png");
  const Dataset dataset = find_dataset(root.path().string(), Split::all);
  ASSERT_EQ(names(dataset), (Names{"a", "b", "c"}));
  for (const Sample& sample : dataset.samples) EXPECT_EQ(sample.image.stem(), sample.mask.stem());
}

// In the folder: training set {x, y}, test set {z}.
void expect_splits(const fs::path& root) {
  EXPECT_EQ(names(find_dataset(root.string(), Split::train)), (Names{"x", "y"}));
  EXPECT_EQ(names(find_dataset(root.string(), Split::test)), (Names{"z"}));
  EXPECT_EQ(find_dataset(root.string(), Split::all).samples.size(), 3u);
}

TEST(FindDataset, SplitFoldersInAnyCase) {
  for (const auto& [train, test] : std::vector<std::pair<std::string, std::string>>{
           {"Train", "Test"}, {"train", "test"}, {"TrainDataset", "TestDataset"}, {"TrainValDataset", "TestDataset"}}) {
    const test::TemporaryFolder root;
    const fs::path t = root.path() / train, v = root.path() / test;
    touch_pair(t / "Image", t / "GT_Object", "x");
    touch_pair(t / "Image", t / "GT_Object", "y");
    touch_pair(v / "Imgs", v / "GT", "z");
    expect_splits(root.path());
  }
}

TEST(FindDataset, TrainAndTrainGt) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "Train", root.path() / "TrainGT", "x");
  touch_pair(root.path() / "Train", root.path() / "TrainGT", "y");
  touch_pair(root.path() / "Test", root.path() / "TestGT", "z");
  expect_splits(root.path());
}

TEST(FindDataset, CamoSharesOneMaskFolder) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "Images/Train", root.path() / "GT", "x");
  touch_pair(root.path() / "Images/Train", root.path() / "GT", "y");
  touch_pair(root.path() / "Images/Test", root.path() / "GT", "z");
  expect_splits(root.path());
}

TEST(FindDataset, TestDatasetWithSeveralSets) {
  const test::TemporaryFolder root;
  const fs::path sets = root.path() / "TestDataset";
  touch_pair(sets / "NC4K/Imgs", sets / "NC4K/GT", "1");
  touch_pair(sets / "CAMO/Imgs", sets / "CAMO/GT", "1");
  EXPECT_EQ(names(find_dataset(root.path().string(), Split::test)), (Names{"CAMO/1", "NC4K/1"}));
  EXPECT_EQ(names(find_dataset(sets.string(), Split::test)), (Names{"CAMO/1", "NC4K/1"}));
  EXPECT_EQ(names(find_dataset((sets / "NC4K").string(), Split::test)), (Names{"1"}));
}

TEST(FindDataset, JoinedWithPlus) {
  const test::TemporaryFolder root;
  const fs::path camo = root.path() / "CAMO/train", cod = root.path() / "COD10K";
  touch_pair(camo / "Imgs", camo / "GT", "a");
  touch_pair(cod / "Imgs", cod / "GT", "a");
  const Dataset dataset = find_dataset(camo.string() + "+" + cod.string() + "/", Split::train);
  EXPECT_EQ(names(dataset), (Names{"CAMO/a", "COD10K/a"}));
  ASSERT_EQ(dataset.sources.size(), 2u);
  EXPECT_EQ(dataset.sources[0].count, 1);
  EXPECT_ERROR(find_dataset(camo.string() + "+", Split::train), "folders joined with '+' must not be empty");
  EXPECT_ERROR(find_dataset(camo.string() + "+" + (root.path() / "CAMO").string(), Split::train),
               "twice; give it once");
}

TEST(FindDataset, EqualLabelsAreNumbered) {
  const test::TemporaryFolder root;
  for (const char* part : {"one", "two"})
    touch_pair(root.path() / part / "CAMO/Imgs", root.path() / part / "CAMO/GT", "a");
  const std::string both = (root.path() / "one/CAMO").string() + "+" + (root.path() / "two/CAMO").string();
  EXPECT_EQ(names(find_dataset(both, Split::all)), (Names{"CAMO/a", "CAMO_2/a"}));
  touch_pair(root.path() / "CAMO_2/Imgs", root.path() / "CAMO_2/GT", "a");
  EXPECT_EQ(names(find_dataset(both + "+" + (root.path() / "CAMO_2").string(), Split::all)),
            (Names{"CAMO/a", "CAMO_2/a", "CAMO_2_2/a"}));
}

TEST(FindDataset, APlusMayBePartOfAName) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "a+b/Imgs", root.path() / "a+b/GT", "x");
  EXPECT_EQ(names(find_dataset((root.path() / "a+b").string(), Split::all)), Names{"x"});
}

TEST(FindDataset, LinksThatLeadNowhereAreNoFolders) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "Imgs", root.path() / "GT", "a");
  fs::create_symlink("loop", root.path() / "loop");
  fs::create_symlink("b.jpg", root.path() / "Imgs/b.jpg");
  touch(root.path() / "GT/b.png");
  const Dataset found = find_dataset(root.path().string(), Split::all);
  EXPECT_EQ(names(found), (Names{"a", "b"}));
  EXPECT_ERROR(load_sample(found.samples[1]), "b.jpg: ");
}

TEST(FindDataset, FoldersThatCannotBeListed) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "Imgs", root.path() / "GT", "a");
  fs::permissions(root.path(), fs::perms{0755});
  fs::permissions(root.path() / "Imgs", fs::perms::none);
  // Root may list everything: this thread looks at files as nobody does.
  const auto before = setfsuid(geteuid() == 0 ? 65534 : geteuid());
  EXPECT_ERROR(find_dataset(root.path().string(), Split::all), "Imgs: can't list the folder (Permission denied)");
  setfsuid(static_cast<uid_t>(before));
  fs::permissions(root.path() / "Imgs", fs::perms::owner_all);
}

TEST(FindDataset, NothingThere) {
  const test::TemporaryFolder root;
  EXPECT_ERROR(find_dataset((root.path() / "none").string(), Split::all), "none: no such folder");
  EXPECT_ERROR(find_dataset(root.path().string(), Split::all), "the folder is empty; understood are: Imgs+GT");
  touch(root.path() / "a.jpg");
  EXPECT_ERROR(find_dataset((root.path() / "a.jpg").string(), Split::all), "a folder is wanted; this is a file");
  EXPECT_ERROR(find_dataset(root.path().string(), Split::all),
               "no pictures and masks found in this folder; understood");
  fs::create_directories(root.path() / "Imgs");
  fs::create_directories(root.path() / "GT");
  EXPECT_ERROR(find_dataset(root.path().string(), Split::all), "Imgs: no picture in this folder");
}

TEST(FindDataset, SplitThatIsNotThere) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "train/Imgs", root.path() / "train/GT", "a");
  EXPECT_ERROR(find_dataset(root.path().string(), Split::test),
               "has no folder for testing beside the one for training");
}

TEST(FindDataset, PicturesWithoutMasksAreNamedUpToFive) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "Imgs", root.path() / "GT", "ok");
  for (const char* stem : {"a", "b", "c", "d", "e", "f"}) touch(root.path() / "Imgs" / (std::string(stem) + ".jpg"));
  EXPECT_ERROR(find_dataset(root.path().string(), Split::all),
               "6 of 7 have none: a.jpg, b.jpg, c.jpg, d.jpg, e.jpg, ...; add the masks or remove the pictures");
}

TEST(FindDataset, MasksWithoutPictures) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "Imgs", root.path() / "GT", "ok");
  touch(root.path() / "GT/alone.png");
  EXPECT_ERROR(find_dataset(root.path().string(), Split::all), "1 of 2 have none: alone.png; add the pictures");
}

TEST(FindDataset, CollectsWhatHasNoPartner) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "Imgs", root.path() / "GT", "ok");
  touch(root.path() / "Imgs/bare.jpg");
  touch(root.path() / "GT/alone.png");
  const Dataset found = find_dataset(root.path().string(), Split::all, Unpaired::collect);
  EXPECT_EQ(names(found), Names{"ok"});
  ASSERT_EQ(found.unpaired.size(), 2u);
  EXPECT_NE(found.unpaired[0].find("bare.jpg: has no mask of the same name"), std::string::npos);
  EXPECT_NE(found.unpaired[1].find("alone.png: has no picture of the same name"), std::string::npos);
}

TEST(FindSplits, TestSamplesAreThoseThatAreNotForTraining) {
  const test::TemporaryFolder root;
  const auto folder = [&](const std::string& name) { return (root.path() / name).string(); };
  touch_pair(root.path() / "a/Train/Imgs", root.path() / "a/Train/GT", "t");
  touch_pair(root.path() / "a/Test/Imgs", root.path() / "a/Test/GT", "e");
  touch_pair(root.path() / "b/Imgs", root.path() / "b/GT", "x");
  const DatasetSplits both = find_splits(folder("a"));
  EXPECT_EQ(both.train.size(), 1u);
  ASSERT_EQ(both.test.size(), 1u);
  EXPECT_EQ(both.test[0].image.stem(), "e");
  EXPECT_TRUE(find_splits(folder("b")).test.empty());
  EXPECT_EQ(find_splits(folder("b"), folder("a")).test[0].image.stem(), "e");
  EXPECT_TRUE(find_splits(folder("a/Test")).test.empty());
  EXPECT_ERROR(find_splits(folder("c")), "no such folder");
}

TEST(FindSplits, JoinedFoldersMayHoldOneSplitEach) {
  const test::TemporaryFolder root;
  const auto folder = [&](const std::string& name) { return (root.path() / name).string(); };
  touch_pair(root.path() / "both/Train/Imgs", root.path() / "both/Train/GT", "t");
  touch_pair(root.path() / "both/Test/Imgs", root.path() / "both/Test/GT", "e");
  touch_pair(root.path() / "late/Test/Imgs", root.path() / "late/Test/GT", "l");
  touch_pair(root.path() / "early/Train/Imgs", root.path() / "early/Train/GT", "y");
  touch_pair(root.path() / "plain/Imgs", root.path() / "plain/GT", "p");
  const auto stems = [](const std::vector<Sample>& samples) {
    Names found;
    for (const Sample& sample : samples) found.push_back(sample.image.stem());
    return found;
  };
  const DatasetSplits with_late = find_splits(folder("both") + "+" + folder("late"));
  EXPECT_EQ(stems(with_late.train), Names{"t"});
  EXPECT_EQ(stems(with_late.test), (Names{"e", "l"}));
  const DatasetSplits all =
      find_splits(folder("early") + "+" + folder("both") + "+" + folder("late") + "+" + folder("plain"));
  EXPECT_EQ(stems(all.train), (Names{"y", "t", "p"}));
  EXPECT_EQ(stems(all.test), (Names{"e", "l"}));
}

TEST(FindSplits, CollectsWhatHasNoPartnerInBothFolders) {
  const test::TemporaryFolder root;
  for (const char* set : {"a", "b"}) {
    touch_pair(root.path() / set / "Imgs", root.path() / set / "GT", "ok");
    touch(root.path() / set / "Imgs" / (std::string(set) + ".jpg"));
  }
  const std::string a = (root.path() / "a").string(), b = (root.path() / "b").string();
  const std::vector<std::string> unpaired = find_splits(a, b, Unpaired::collect).unpaired;
  ASSERT_EQ(unpaired.size(), 2u);
  EXPECT_NE(unpaired[0].find("a.jpg: has no mask"), std::string::npos);
  EXPECT_NE(unpaired[1].find("b.jpg: has no mask"), std::string::npos);
}

TEST(FindDataset, DuplicateStems) {
  const test::TemporaryFolder root;
  touch_pair(root.path() / "Imgs", root.path() / "GT", "a");
  touch(root.path() / "Imgs/a.png");
  EXPECT_ERROR(find_dataset(root.path().string(), Split::all),
               "file names must differ in more than the suffix; got a.jpg and a.png");
}

TEST(LoadSample, NamesEachBadFile) {
  const test::TemporaryFolder root;
  const Sample sample{"i", root.path() / "i.png", root.path() / "m.png"};
  encode_png(sample.image, Image(8, 6, 3));
  write_bytes(sample.mask, {});
  EXPECT_ERROR(load_sample(sample), "m.png: the image file is empty (0 bytes)");
  fs::remove(sample.image);
  EXPECT_ERROR(load_sample(sample), "i.png: no such image");
  EXPECT_ERROR(load_sample(sample), "\n  and " + sample.mask.string() + ": the image file is empty (0 bytes)");
}

TEST(LoadSample, SizesMustAgree) {
  const test::TemporaryFolder root;
  encode_png(root.path() / "i.png", Image(8, 6, 3));
  encode_png(root.path() / "m.png", Image(8, 5, 1));
  EXPECT_ERROR(load_sample({"i", root.path() / "i.png", root.path() / "m.png"}),
               "m.png: a mask must have its picture's size; got mask 8 x 5, picture 8 x 6");
  encode_png(root.path() / "m.png", Image(8, 6, 1, 255));
  const LoadedSample loaded = load_sample({"i", root.path() / "i.png", root.path() / "m.png"});
  EXPECT_EQ(loaded.image.channels, 3);
  EXPECT_EQ(loaded.mask, Image(8, 6, 1, 255));
}

}  // namespace
}  // namespace camo
