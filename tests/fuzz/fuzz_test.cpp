// Without libFuzzer: the corpora are replayed, and files mutated by structure are refused by a typed error or read
// well, in little memory. scripts/fuzz.sh searches for new inputs. CAMO_FUZZ_FILES sets the number of mutated files.
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "core/pth/pth.h"
#include "core/safetensors.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"
#include "tests/support/test_support.h"

namespace camo::fuzz {
namespace {

std::vector<std::filesystem::path> corpus(std::string_view name) {
  std::vector<std::filesystem::path> files;
  const auto folder = std::filesystem::path(CAMO_SOURCE_DIR) / "tests" / "fuzz" / "corpus" / name;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

class Corpus : public ::testing::TestWithParam<Target> {};

TEST_P(Corpus, IsReplayed) {
  int accepted = 0;
  const auto files = corpus(GetParam().name);
  for (const auto& file : files) {
    SCOPED_TRACE(file.string());
    EXPECT_NO_THROW(accepted += GetParam().run(bytes_of(read_bytes(file))));
  }
  EXPECT_GT(accepted, 0) << "a corpus without a good file leads nowhere";
}

INSTANTIATE_TEST_SUITE_P(Targets, Corpus,
                         ::testing::Values(safetensors_target(), pth_target(), checkpoint_target(),
                                           configuration_target(), picture_target()),
                         [](const auto& c) { return std::string(c.param.name); });

/// What was accepted survives a way through both writers.
void expect_round_trip(const std::string& bytes, const test::TemporaryFolder& folder) {
  const auto file = open_tensor_file(InputFile(bytes_of(bytes), "input"));
  SafeTensors content;
  PthDict dict;
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const std::string name = "tensor" + std::to_string(i);
    content.tensors.emplace_back(name, file->read(i));
    dict.emplace_back(name, PthValue{content.tensors.back().second});
  }
  write_safetensors(folder.path() / "a.safetensors", content);
  write_pth(folder.path() / "a.pth", dict);
  for (const char* name : {"a.safetensors", "a.pth"}) {
    const auto back = open_tensor_file(folder.path() / name);
    ASSERT_EQ(back->tensors().size(), content.tensors.size());
    for (size_t i = 0; i < content.tensors.size(); ++i) {
      ASSERT_TRUE(test::bitwise_equal(back->read(i), content.tensors[i].second)) << name << " " << i;
    }
  }
}

TEST(MutatedFiles, AreRefusedOrReadWell) {
  const char* asked = std::getenv("CAMO_FUZZ_FILES");
  const uint64_t count = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 4000;
  constexpr uint64_t kRoundTripEvery = 50;  // two files are written for each
  const test::TemporaryFolder folder;
  uint64_t accepted = 0, refused = 0;
  size_t largest = 0;
  const int64_t before = peak_bytes();
  for (const Target& which : {pth_target(), safetensors_target()}) {
    std::vector<std::string> seeds;
    for (const auto& file : corpus(which.name)) {
      std::string bytes = read_bytes(file);
      if (which.run(bytes_of(bytes))) seeds.push_back(std::move(bytes));
    }
    for (uint64_t i = 0; i < count / 2; ++i) {
      std::string bytes = seeds[i % seeds.size()];
      for (uint64_t change = 0; change <= i % 3; ++change) bytes = which.mutate(bytes, 3 * i + change);
      largest = std::max(largest, bytes.size());
      bool good = false;
      ASSERT_NO_THROW(good = which.run(bytes_of(bytes))) << which.name << ", file " << i;
      ++(good ? accepted : refused);
      if (good && accepted % kRoundTripEvery == 0) {
        ASSERT_NO_FATAL_FAILURE(expect_round_trip(bytes, folder)) << i;
      }
    }
  }
  std::printf("%llu mutated files: %llu refused, %llu read, peak +%.1f MB, largest file %zu bytes\n",
              static_cast<unsigned long long>(count), static_cast<unsigned long long>(refused),
              static_cast<unsigned long long>(accepted), static_cast<double>(peak_bytes() - before) / 1e6, largest);
  EXPECT_GT(accepted, count / 20);
  EXPECT_GT(refused, count / 20);
#ifndef __SANITIZE_ADDRESS__
  EXPECT_LT(peak_bytes() - before, static_cast<int64_t>(2 * largest) + (int64_t{64} << 20));
#endif
}

}  // namespace
}  // namespace camo::fuzz
