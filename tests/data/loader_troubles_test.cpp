// Loaders of files that can't be read, and on machines that lack threads or memory.
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "loader_fixture.h"

namespace camo {
namespace {

class LoaderTroubles : public Loader {};

TEST_F(LoaderTroubles, ABadFileReachesTheCallerByName) {
  options_.shuffle = false;
  damage(4);
  for (int workers : {0, 2}) {
    DataLoader loader(samples_, with_workers(workers));
    EXPECT_EQ(loader.next()->indices.front(), 0);
    EXPECT_ERROR(loader.next(), "s04.jpg: not a JPEG, PNG or BMP picture");
    EXPECT_EQ(loader.next()->indices.front(), 6);
  }
  damage(5);
  DataLoader loader(samples_, options_);
  loader.next();
  EXPECT_ERROR(loader.next(), "\n" + samples_[5].image.string() + ": not a JPEG");  // after the first
}

TEST_F(LoaderTroubles, BadFilesAreReplacedUpToALimit) {
  options_.shuffle = false;
  options_.max_bad_images = 2;
  damage(4);
  damage(5);
  for (int workers : {0, 3}) {
    std::vector<std::string> messages;
    LoaderOptions options = with_workers(workers);
    options.on_bad_image = [&](const std::string& message) { messages.push_back(message); };
    DataLoader loader(samples_, options);
    for (int64_t epoch : {0, 1}) {
      loader.start_epoch(epoch);
      const auto batches = rest_of_epoch(loader);
      EXPECT_EQ(batches[1].indices, (std::vector<int64_t>{3, 6, 6}));
    }
    ASSERT_EQ(messages.size(), 2u);
    EXPECT_NE(messages[0].find("s04.jpg"), std::string::npos);
  }
  damage(9);
  DataLoader loader(samples_, with_workers(2));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(loader.next().has_value());
  EXPECT_ERROR(loader.next(), "after 2 other bad images, which is as many as may be skipped");
}

TEST_F(LoaderTroubles, ABadFileStaysReplaced) {
  options_.shuffle = false;
  options_.max_bad_images = 1;
  const Sample& sample = samples_[4];
  const Image picture = decode_image(sample.image, 3);
  damage(4);
  DataLoader loader(samples_, options_);
  const auto before = rest_of_epoch(loader);
  encode_jpeg(sample.image, picture);
  loader.start_epoch(0);
  expect_equal(rest_of_epoch(loader), before);
}

TEST_F(LoaderTroubles, StrongSetReplacesBadFilesToo) {
  options_.shuffle = false;
  options_.augment = AugmentationSet::strong;
  damage(4);
  for (int workers : {0, 2}) {
    DataLoader strict(samples_, with_workers(workers));
    strict.next();
    EXPECT_ERROR(strict.next(), "s04.jpg: not a JPEG, PNG or BMP picture");
    EXPECT_EQ(strict.next()->indices.front(), 6);
    LoaderOptions options = with_workers(workers);
    options.max_bad_images = 1;
    DataLoader tolerant(samples_, options);
    tolerant.next();
    EXPECT_EQ(tolerant.next()->indices, (std::vector<int64_t>{3, 5, 5}));
  }
}

TEST_F(LoaderTroubles, AllFilesBad) {
  options_.max_bad_images = 100;
  for (int i = 0; i < kCount; ++i) damage(i);
  DataLoader loader(samples_, options_);
  EXPECT_ERROR(loader.next(), "none of the 11 samples can be read");
}

TEST_F(LoaderTroubles, SizeMismatchIsABadImage) {
  encode_png(samples_[0].mask, Image(3, 3, 1));
  options_.shuffle = false;
  DataLoader loader(samples_, options_);
  EXPECT_ERROR(loader.next(), "a mask must have its picture's size");
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they need address space of their own
/// While one lives, the process can't take more than so much address space beyond what it has.
class LittleMemory {
 public:
  explicit LittleMemory(rlim_t bytes) {
    getrlimit(RLIMIT_AS, &before_);
    int64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit tight = before_;
    tight.rlim_cur = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE)) + bytes;
    setrlimit(RLIMIT_AS, &tight);
  }
  ~LittleMemory() { setrlimit(RLIMIT_AS, &before_); }
  LittleMemory(const LittleMemory&) = delete;
  LittleMemory& operator=(const LittleMemory&) = delete;

 private:
  rlimit before_{};
};

TEST_F(LoaderTroubles, SaysWhenThereAreNoThreadsForItsWorkers) {
  {
    const LittleMemory little(rlim_t{128} << 20);  // stacks are 8 MiB each
    EXPECT_ERROR(DataLoader(samples_, with_workers(256)),
                 " of 256 (Resource temporarily unavailable); use fewer workers");
  }
  EXPECT_TRUE(DataLoader(samples_, with_workers(2)).next().has_value());
}

TEST_F(LoaderTroubles, TooLittleMemoryIsNoBadImage) {
  std::string jpeg = detail::encode_jpeg_bytes(Image(8, 8, 3), 90, false);
  const size_t extents = jpeg.find("\xff\xc0") + 5;
  for (const size_t at : {extents, extents + 2}) jpeg[at] = '\x3f';  // 16136 x 16136: 745 MiB of pixels
  test::write_bytes(samples_[10].image, test::to_bytes(jpeg));
  options_.shuffle = false;
  options_.max_bad_images = 5;
  for (int workers : {0, 2}) {
    const LittleMemory little(rlim_t{256} << 20);
    DataLoader loader(samples_, with_workers(workers));
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(loader.next().has_value());
    EXPECT_ERROR(loader.next(), "s10.jpg: can't be loaded; std::bad_alloc");
  }
}
#endif

}  // namespace
}  // namespace camo
