#include "core/checksums.h"

#include "core/crc32c.h"
#include "core/random.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

TEST(Crc32c, PublishedValues) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c("123456789", 9), 0xE3069283u);
  std::string bytes(32, '\0');
  EXPECT_EQ(crc32c(bytes.data(), bytes.size()), 0x8A9136AAu);
  bytes.assign(32, '\xFF');
  EXPECT_EQ(crc32c(bytes.data(), bytes.size()), 0x62A8AB43u);
  EXPECT_EQ(crc32c("", 0), 0u);
}

TEST(Crc32c, ContinuesAnywhere) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += static_cast<char>(i * 7);
  const uint32_t whole = crc32c(text.data(), text.size());
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const uint32_t head = crc32c(text.data(), cut);
    ASSERT_EQ(crc32c(text.data() + cut, text.size() - cut, head), whole) << cut;
  }
}

SafeTensors example() {
  SafeTensors file;
  file.tensors = {{"a", random_uniform({3, 4}, -1, 1, f32, cpu)},
                  {"b", from_vector<int64_t>({1, 2}, {2}, cpu)},
                  {"c", zeros({0}, f32, cpu)}};
  file.metadata = {{"epoch", "3"}, {"note", "x"}};
  return file;
}

TEST(Checksums, SurviveTheFile) {
  const test::TemporaryFolder folder;
  SafeTensors file = example();
  EXPECT_FALSE(verify_checksums(file, "plain"));
  add_checksums(file);
  write_safetensors(folder.path() / "f", file);
  EXPECT_TRUE(verify_checksums(read_safetensors(folder.path() / "f"), "f"));
}

TEST(Checksums, NamesMustBeText) {
  SafeTensors file = example();
  file.tensors[0].first = "a\xff";
  EXPECT_ERROR(add_checksums(file), "add_checksums: names must be UTF-8; ");
}

TEST(Checksums, EveryChangeIsNamed) {
  SafeTensors file = example();
  add_checksums(file);
  const auto damaged = [&](auto change) {
    SafeTensors copy = file;
    for (auto& [name, tensor] : copy.tensors) tensor = clone(tensor);
    change(copy);
    return copy;
  };
  EXPECT_ERROR(verify_checksums(damaged([](SafeTensors& f) { f.tensors[0].second.data<float>()[5] += 1e-6f; }), "f"),
               "f: tensor 'a' does not have the checksum");
  EXPECT_ERROR(
      verify_checksums(damaged([](SafeTensors& f) {
                         f.tensors[0].second = from_vector<float>(f.tensors[0].second.to_vector<float>(), {4, 3}, cpu);
                       }),
                       "f"),
      "tensor 'a'");
  EXPECT_ERROR(verify_checksums(damaged([](SafeTensors& f) { f.tensors[1].first = "d"; }), "f"), "tensor 'd'");
  EXPECT_ERROR(verify_checksums(damaged([](SafeTensors& f) { f.tensors.pop_back(); }), "f"),
               "one checksum for each of its 2 tensors; got 3");
  EXPECT_ERROR(verify_checksums(damaged([](SafeTensors& f) { f.metadata["epoch"] = "4"; }), "f"), "the metadata");
  EXPECT_ERROR(verify_checksums(damaged([](SafeTensors& f) { f.metadata.erase("checksums"); }), "f"), "must have both");
}

}  // namespace
}  // namespace camo
