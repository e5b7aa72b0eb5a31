// Files on disk and in memory, and the ways to read a tensor.
#include "core/tensor_file.h"

#include <cstring>
#include <fstream>
#include <sstream>

#include "core/pth/pth.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

std::string read_bytes(const std::filesystem::path& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST(InputFile, BytesInMemoryStandForAFile) {
  const std::string text = "0123456789";
  InputFile first(bytes_of(text), "a name");
  const InputFile file = std::move(first);
  EXPECT_EQ(file.name(), "a name");
  EXPECT_EQ(file.bytes(), 10);
  char part[4] = {};
  file.read(part, 3, 7);
  EXPECT_STREQ(part, "789");
  file.read(nullptr, 0, 10);
  EXPECT_ERROR(file.read(part, 4, 7), "a name: ends at byte 10; got 4 bytes to read at byte 7");
  EXPECT_ERROR(file.read(part, 2, ~uint64_t{0}), "a name: ends at byte 10");
}

TEST(InputFile, HandsItsFileOn) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "file";
  std::ofstream(path, std::ios::binary) << "content";
  std::unique_ptr<InputFile> first = std::make_unique<InputFile>(path);
  const InputFile file = std::move(*first);
  first.reset();
  char text[8] = {};
  file.read(text, 7, 0);
  EXPECT_STREQ(text, "content");
}

TEST(TensorFile, EveryWayOfReadingGivesTheSame) {
  for (const char* name : {"every_kind.pth", "every_kind_protocol4.pth", "every_kind.safetensors", "training.pth"}) {
    const auto path = test::golden_file(std::string("pth/") + name);
    const std::string bytes = read_bytes(path);
    const auto memory = open_tensor_file(InputFile(bytes_of(bytes), "in memory"));
    const auto disk = open_tensor_file(path);
    EXPECT_EQ(memory->path(), "in memory");
    EXPECT_EQ(disk->path(), path);
    ASSERT_EQ(memory->tensors().size(), disk->tensors().size());
    ASSERT_FALSE(disk->tensors().empty());
    for (size_t i = 0; i < disk->tensors().size(); ++i) {
      const TensorInfo& info = disk->tensors()[i];
      SCOPED_TRACE(std::string(name) + " " + info.name);
      const Tensor expected = disk->read(i);
      EXPECT_TRUE(test::bitwise_equal(memory->read(i), expected));
      const Tensor target = empty(info.shape, info.dtype, cpu);
      const uint64_t version = target.version();
      disk->read_into(i, target);
      EXPECT_TRUE(test::bitwise_equal(target, expected));
      EXPECT_GT(target.version(), version);
      std::string pieces;
      disk->read_pieces(i, [&](std::span<const std::byte> piece) {
        pieces.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      });
      ASSERT_EQ(pieces.size(), info.bytes());
      EXPECT_EQ(std::memcmp(pieces.data(), expected.raw_data(), pieces.size()), 0);
    }
  }
}

TEST(TensorFile, LargeTensorsComeInPieces) {
  const test::TemporaryFolder folder;
  const Tensor large = random_uniform({300, 1000}, -1, 1, f32, cpu);
  write_safetensors(folder.path() / "a.safetensors", {.tensors = {{"large", large}}, .metadata = {}});
  const auto file = open_tensor_file(folder.path() / "a.safetensors");
  std::string all;
  int pieces = 0;
  file->read_pieces(0, [&](std::span<const std::byte> piece) {
    all.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    ++pieces;
  });
  EXPECT_GT(pieces, 1);
  ASSERT_EQ(all.size(), file->tensors()[0].bytes());
  EXPECT_EQ(std::memcmp(all.data(), large.raw_data(), all.size()), 0);
}

}  // namespace
}  // namespace camo
