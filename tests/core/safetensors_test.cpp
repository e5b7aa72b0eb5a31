#include "core/safetensors.h"

#include <cstring>
#include <fstream>
#include <sstream>

#include "core/atomic_file.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::bitwise_equal;
using test::TemporaryFolder;

std::string length_field(uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

size_t file_count(const std::filesystem::path& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

class SafeTensorsFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& bytes) const {
    const auto path = folder_.path() / "crafted.safetensors";
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  /// A file with this header and as many data bytes.
  std::filesystem::path with_header(const std::string& json, size_t data_bytes) const {
    return write(length_field(json.size()) + json + std::string(data_bytes, '\0'));
  }

  TemporaryFolder folder_;
};

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST_F(SafeTensorsFile, RoundTripsEveryDtypeEmptyTensorsAndScalars) {
  SafeTensors content;
  for (DType dtype : {f32, f64, f16, bf16, i64, u8, boolean}) {
    Tensor x = empty({2, 3}, dtype);
    copy_into(x, from_vector<double>({0, 1, 2, 3, 100, 0}, {2, 3}));
    content.tensors.emplace_back("x." + std::string(name(dtype)), x);
  }
  content.tensors.emplace_back("empty", zeros({3, 0, 2}));
  content.tensors.emplace_back("scalar", full({}, 7, i64));
  content.metadata = {{"format", "pt"}, {"quote \" and \n", "ü"}};
  const auto path = folder_.path() / "all.safetensors";
  write_safetensors(path, content);

  const SafeTensors back = read_safetensors(path);
  EXPECT_EQ(back.metadata, content.metadata);
  ASSERT_EQ(back.tensors.size(), content.tensors.size());
  for (size_t i = 0; i < content.tensors.size(); ++i) {
    EXPECT_EQ(back.tensors[i].first, content.tensors[i].first);
    EXPECT_TRUE(bitwise_equal(back.tensors[i].second, content.tensors[i].second)) << content.tensors[i].first;
  }
  EXPECT_EQ(file_count(folder_.path()), 1u);  // no temporary file stays
}

TEST_F(SafeTensorsFile, WritesTheBytesOfTheFormat) {
  const auto path = folder_.path() / "bytes.safetensors";
  write_safetensors(path,
                    {.tensors = {{"b", from_vector<uint8_t>({1, 2, 3}, {3})}, {"a", from_vector<uint8_t>({4}, {})}},
                     .metadata = {{"z", "1"}, {"k", "2"}}});
  std::string json = R"({"__metadata__":{"k":"2","z":"1"},"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                     R"("a":{"dtype":"U8","shape":[],"data_offsets":[3,4]}})";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(read_bytes(path), length_field(json.size()) + json + "\1\2\3\4");
}

TEST_F(SafeTensorsFile, WritesStridedTensorsRowMajor) {
  const Tensor x = from_vector<double>({0, 1, 2, 3, 4, 5}, {2, 3});
  const Tensor transposed = make_view(x, {3, 2}, {1, 3}, 0);
  const auto path = folder_.path() / "strided.safetensors";
  write_safetensors(path, {.tensors = {{"x", transposed}}, .metadata = {}});
  EXPECT_TRUE(bitwise_equal(read_safetensors(path).at("x"), transposed));
}

TEST_F(SafeTensorsFile, ReadsTensorsInTheOrderOfTheirData) {
  const auto path =
      with_header(R"({"b":)" + entry("U8", "[2]", "[1,3]") + R"(,"a":)" + entry("U8", "[1]", "[0,1]") + "}", 3);
  const SafeTensors content = read_safetensors(path);
  ASSERT_EQ(content.tensors.size(), 2u);
  EXPECT_EQ(content.tensors[0].first, "a");
  EXPECT_EQ(content.find("c"), nullptr);
  EXPECT_ERROR(content.at("c"), "there is no tensor 'c'");
}

TEST_F(SafeTensorsFile, ReadsAFileWithoutTensors) {
  EXPECT_TRUE(read_safetensors(with_header("{}", 0)).tensors.empty());
}

TEST_F(SafeTensorsFile, RefusesWhatIsNotAFile) {
  EXPECT_ERROR(read_safetensors(folder_.path() / "none"), "none: cannot open: No such file");
  EXPECT_ERROR(read_safetensors(folder_.path()), "must be a file; got a folder");
  EXPECT_ERROR(read_safetensors("/dev/null"), "must be a file; got something else");
}

TEST_F(SafeTensorsFile, ErrorsAreOfCheckpointsAndNameTheFile) {
  const auto path = write("");
  try {
    read_safetensors(path);
    FAIL() << "threw nothing";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::checkpoint);
    EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos);
  }
}

TEST_F(SafeTensorsFile, ChecksLengths) {
  EXPECT_ERROR(read_safetensors(write("")), "begins with 8 bytes of header length; got 0");
  EXPECT_ERROR(read_safetensors(write("1234567")), "begins with 8 bytes of header length; got 7");
  EXPECT_ERROR(read_safetensors(write(length_field(3) + "{}")), "the header must end within the file; got 3");
  EXPECT_ERROR(read_safetensors(write(length_field(100'000'001))), "at most 100000000 bytes; got 100000001");
  EXPECT_ERROR(read_safetensors(write(length_field(UINT64_MAX) + "{}")), "the header must be at most");
  EXPECT_ERROR(read_safetensors(write(length_field(0))), "the header must begin with '{'");
}

TEST_F(SafeTensorsFile, ChecksTheJson) {
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)", 0)), "the header must be JSON");
  EXPECT_ERROR(read_safetensors(with_header("{} x", 0)), "the header must be JSON");
  EXPECT_ERROR(read_safetensors(with_header("{\"\xff\":{}}", 0)), "the header must be JSON");
  EXPECT_ERROR(read_safetensors(with_header("[]", 0)), "the header must begin with '{'");
  EXPECT_ERROR(read_safetensors(with_header(" {}", 0)), "the header must begin with '{'");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":5})", 0)), "got a number at 'a'");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":null})", 0)), "got null at 'a'");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":{"shape":{}}})", 0)), "got an object at 'a', shape");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":{"shape":[[1]]}})", 0)), "got an array at 'a', shape");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + std::string(1'000'000, '['), 0)), "got an array at 'a'");
}

TEST_F(SafeTensorsFile, RefusesDuplicateKeys) {
  const std::string tensor = entry("U8", "[0]", "[0,0]");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + tensor + R"(,"a":)" + tensor + "}", 0)),
               "keys must be unique; got 'a' twice");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":{"dtype":"U8","dtype":"U8"}})", 0)), "got 'dtype' twice at 'a'");
  EXPECT_ERROR(read_safetensors(with_header(R"({"__metadata__":{"k":"1","k":"2"}})", 0)), "got 'k' twice");
  EXPECT_ERROR(read_safetensors(with_header(R"({"__metadata__":{},"__metadata__":{}})", 0)), "'__metadata__' twice");
}

TEST_F(SafeTensorsFile, ChecksTensorFields) {
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":{"dtype":"U8","shape":[0]}})", 0)),
               "exactly dtype, shape and data_offsets; 'a' has not");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":"y"}})", 0)),
               "got a string at 'a', x");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("F8_E4M3", "[0]", "[0,0]") + "}", 0)),
               "must be one of F32, F64, F16, BF16, I64, U8, BOOL; got F8_E4M3 for 'a'");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("U8", "[-1]", "[0,0]") + "}", 0)),
               "got the negative number -1 at 'a', shape");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("U8", "[1.5]", "[0,0]") + "}", 0)), "the number 1.5");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("U8", "[99999999999999999999]", "[0,0]") + "}", 0)),
               "the number 99999999999999999999, not a whole number of 64 bits");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") + "}", 1)),
               "at most 8 dimensions");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("U8", "[1]", "[0]") + "}", 1)),
               "data_offsets must be [begin, end]; got 1 numbers");
}

TEST_F(SafeTensorsFile, ChecksSizes) {
  for (const char* shape :
       {"[4611686018427387904,4]", "[9223372036854775808]", "[4294967296,4294967296,0]", "[2305843009213693952]"}) {
    EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("F32", shape, "[0,0]") + "}", 0)),
                 "the size of 'a' overflows 64 bits");
  }
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("F32", "[2]", "[0,4]") + "}", 4)),
               "data_offsets must span the tensor's size; got [0, 4] for 'a', F32 [2], 8 bytes");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("F32", "[2]", "[8,0]") + "}", 8)),
               "data_offsets must span the tensor's size");
}

TEST_F(SafeTensorsFile, ChecksThatTensorsCoverTheFile) {
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("U8", "[4]", "[0,4]") + "}", 3)),
               "data of 'a' must end within the file's 3 data bytes");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("U8", "[4]", "[0,4]") + "}", 5)),
               "got 1 bytes after the last tensor");
  EXPECT_ERROR(read_safetensors(with_header(
                   R"({"a":)" + entry("U8", "[4]", "[0,4]") + R"(,"b":)" + entry("U8", "[4]", "[2,6]") + "}", 6)),
               "without overlap; got 'b' at data byte 2 after byte 4");
  EXPECT_ERROR(read_safetensors(with_header(
                   R"({"a":)" + entry("U8", "[4]", "[0,4]") + R"(,"b":)" + entry("U8", "[4]", "[5,9]") + "}", 9)),
               "without gap; got 'b' at data byte 5 after byte 4");
  EXPECT_ERROR(read_safetensors(with_header(R"({"a":)" + entry("U8", "[1]", "[1,2]") + "}", 2)), "without gap");
  EXPECT_ERROR(read_safetensors(with_header(
                   R"({"a":)" + entry("U8", "[1]", "[18446744073709551614,18446744073709551615]") + "}", 2)),
               "must end within the file");
}

TEST_F(SafeTensorsFile, ChecksMetadata) {
  EXPECT_ERROR(read_safetensors(with_header(R"({"__metadata__":{"k":1}})", 0)),
               "metadata values must be strings; got a number at '__metadata__', k");
  EXPECT_ERROR(read_safetensors(with_header(R"({"__metadata__":{"k":{}}})", 0)), "must be strings; got an object");
  EXPECT_ERROR(read_safetensors(with_header(R"({"__metadata__":{"k":[]}})", 0)), "got an array");
}

TEST_F(SafeTensorsFile, ChecksBoolElements) {
  const std::string json = R"({"a":)" + entry("BOOL", "[3]", "[0,3]") + "}";
  EXPECT_ERROR(read_safetensors(write(length_field(json.size()) + json + std::string("\1\0\2", 3))),
               "bool elements must be 0 or 1; got 2 in 'a', element 2");
}

TEST_F(SafeTensorsFile, ChecksWhatIsWritten) {
  const auto path = folder_.path() / "out.safetensors";
  const Tensor x = zeros({1});
  EXPECT_ERROR(write_safetensors(path, {.tensors = {{"a", x}, {"a", x}}, .metadata = {}}), "must be unique");
  EXPECT_ERROR(write_safetensors(path, {.tensors = {{"__metadata__", x}}, .metadata = {}}), "not __metadata__");
  EXPECT_ERROR(write_safetensors(path, {.tensors = {{"a", {}}}, .metadata = {}}), "tensor 'a' is undefined");
  EXPECT_ERROR(write_safetensors(path, {.tensors = {{"\xff", x}}, .metadata = {}}), "must be UTF-8");
  EXPECT_EQ(file_count(folder_.path()), 0u);
}

TEST_F(SafeTensorsFile, AFailedWriteLeavesNothing) {
  const SafeTensors content{.tensors = {{"a", zeros({4})}}, .metadata = {}};
  EXPECT_ERROR(write_safetensors(folder_.path() / "none" / "out.safetensors", content),
               "out.safetensors: cannot open a temporary file: No such file or directory");
  std::filesystem::create_directory(folder_.path() / "taken");
  EXPECT_ERROR(write_safetensors(folder_.path() / "taken", content), "taken: cannot rename: Is a directory");
  EXPECT_EQ(file_count(folder_.path()), 1u);
}

TEST_F(SafeTensorsFile, AtomicWritesReplaceTheWholeFile) {
  const auto path = folder_.path() / "text";
  write_file_atomically(path, "a long first version");
  write_file_atomically(path, "second");
  EXPECT_EQ(read_bytes(path), "second");
  EXPECT_EQ(file_count(folder_.path()), 1u);
}

}  // namespace
}  // namespace camo
