// .pth files: those that PyTorch wrote, those we write, and pickles that must be refused.
#include "core/pth/pth.h"

#include <fstream>
#include <sstream>

#include "core/safetensors.h"
#include "tests/support/crafted_zip.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

using test::bitwise_equal;
using test::CraftedZip;
using test::golden_file;
using test::raw;

std::filesystem::path fixture(const std::string& name) { return golden_file("pth/" + name); }

std::string read_bytes(const std::filesystem::path& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

const TensorInfo* find(const TensorFile& file, const std::string& name) {
  for (const TensorInfo& info : file.tensors()) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

TEST(PthFile, ReadsEveryDTypeAndView) {
  const SafeTensors expected = read_safetensors(fixture("every_kind.safetensors"));
  for (const char* name : {"every_kind.pth", "every_kind_protocol4.pth"}) {
    const auto file = open_tensor_file(fixture(name));
    EXPECT_EQ(file->format(), "pth");
    ASSERT_EQ(file->tensors().size(), expected.tensors.size());
    for (size_t i = 0; i < file->tensors().size(); ++i) {
      const TensorInfo& info = file->tensors()[i];
      const Tensor tensor = file->read(i);
      EXPECT_EQ(tensor.shape(), info.shape);
      EXPECT_TRUE(tensor.is_contiguous());
      EXPECT_TRUE(bitwise_equal(tensor, expected.at(info.name))) << name << " " << info.name;
    }
    EXPECT_EQ(find(*file, "plain.int16")->stored_type, "i16");
    EXPECT_EQ(find(*file, "plain.bfloat16")->dtype, bf16);
  }
}

TEST(PthFile, FindsTensorsAndTextsAtAnyDepth) {
  const auto file = open_tensor_file(fixture("training.pth"));
  std::vector<std::string> names;
  for (const TensorInfo& info : file->tensors()) names.push_back(info.name);
  EXPECT_EQ(names, (std::vector<std::string>{"model_state_dict/view.base", "model_state_dict/view.transposed",
                                             "optimizer/state/0/step", "optimizer/state/1/step",
                                             "optimizer/param_groups/0/extra/0"}));
  EXPECT_EQ(file->read(3).item(), 3);
  const std::map<std::string, std::string> expected{{"args/backbone", "edgenext_xx_small"},
                                                    {"args/flag", "true"},
                                                    {"args/img_size", "64"},
                                                    {"best_iou", "0.5"},
                                                    {"device", "cpu"},
                                                    {"epoch", "7"},
                                                    {"large", "1099511627776"},
                                                    {"minus", "-3"}};
  EXPECT_EQ(file->metadata(), expected);
}

TEST(PthFile, ReadsTheAttributesOfANamespace) {
  const auto file = open_tensor_file(fixture("namespace.pth"));
  EXPECT_EQ(file->metadata().at("args/name"), "run");
  EXPECT_EQ(file->metadata().at("args/lr"), "0.1");
  EXPECT_EQ(file->tensors().size(), 2u);
}

TEST(PthFile, OtherFilesAreRefusedByName) {
  EXPECT_ERROR(open_tensor_file(fixture("before_1_6.pth")), "got a file of PyTorch before 1.6; load and save it again");
  EXPECT_ERROR(open_tensor_file(fixture("torchscript.pth")), "the programs of TorchScript, which can't be read");
  EXPECT_ERROR(open_tensor_file(fixture("complex.pth")), "refused the global 'torch.ComplexFloatStorage'");
  EXPECT_ERROR(open_tensor_file(fixture("uint16.pth")), "refused the global 'torch._utils._rebuild_tensor_v3'");
  const test::TemporaryFolder folder;
  const auto with = [&](const std::string& bytes) {
    std::ofstream(folder.path() / "file", std::ios::binary) << bytes;
    return folder.path() / "file";
  };
  EXPECT_ERROR(open_tensor_file(with("")), "got an empty file");
  EXPECT_ERROR(open_tensor_file(with("\x80\x02}q.")), "got a bare pickle");
  EXPECT_ERROR(open_tensor_file(with("\x89HDF\r\n")), "got an HDF5 file");
  EXPECT_ERROR(open_tensor_file(with("\x1f\x8b\x08")), "got a gzip file");
  EXPECT_ERROR(open_tensor_file(with("hello, world")), "is this a safetensors file?");
}

TEST(PthFile, CutAndDamagedFilesAreRefused) {
  const test::TemporaryFolder folder;
  const std::string whole = read_bytes(fixture("training.pth"));
  const auto path = folder.path() / "damaged.pth";
  for (size_t keep = 0; keep < whole.size(); keep += 37) {
    std::ofstream(path, std::ios::binary) << whole.substr(0, keep);
    EXPECT_THROW(open_tensor_file(path), Error) << keep;
  }
  std::string damaged = whole;
  damaged[whole.find("edgenext")] = 'E';
  std::ofstream(path, std::ios::binary) << damaged;
  EXPECT_ERROR(open_tensor_file(path), "the checksum of 'training/data.pkl' is");
}

// --- what we write ---

PthDict everything() {
  const SafeTensors content = read_safetensors(fixture("every_kind.safetensors"));
  PthDict state;
  for (const auto& [name, tensor] : content.tensors) state.emplace_back(name, PthValue{tensor});
  state.emplace_back("strided", PthValue{make_view(content.at("view.base"), {4, 6}, {1, 4}, 0)});
  PthDict args{{"backbone", {std::string("edgenext_base")}}, {"flag", {true}}};
  return {{"epoch", {int64_t{300}}},
          {"negative", {int64_t{-5}}},
          {"wide", {int64_t{1} << 40}},
          {"iou", {0.25}},
          {"none", {}},
          {"state_dict", {state}},
          {"args", {args}}};
}

TEST(WritePth, ComesBackBitEqual) {
  const test::TemporaryFolder folder;
  const SafeTensors expected = read_safetensors(fixture("every_kind.safetensors"));
  for (const uint64_t zip64_from : {uint64_t{0xffffffff}, uint64_t{1000}, uint64_t{0}}) {
    const auto path = folder.path() / "written.pth";
    write_pth(path, everything(), {.zip64_from = zip64_from});
    const auto file = open_tensor_file(path);
    ASSERT_EQ(file->tensors().size(), expected.tensors.size() + 1);
    for (size_t i = 0; i < expected.tensors.size(); ++i) {
      EXPECT_EQ(file->tensors()[i].name, "state_dict/" + expected.tensors[i].first);
      EXPECT_TRUE(bitwise_equal(file->read(i), expected.tensors[i].second)) << file->tensors()[i].name;
    }
    EXPECT_TRUE(bitwise_equal(file->read(expected.tensors.size()), expected.at("view.transposed")));
    const std::map<std::string, std::string> texts{{"args/backbone", "edgenext_base"},
                                                   {"args/flag", "true"},
                                                   {"epoch", "300"},
                                                   {"iou", "0.25"},
                                                   {"negative", "-5"},
                                                   {"wide", "1099511627776"}};
    EXPECT_EQ(file->metadata(), texts);
  }
}

TEST(WritePth, SameContentSameBytes) {
  const test::TemporaryFolder folder;
  write_pth(folder.path() / "a.pth", everything());
  write_pth(folder.path() / "other.pt", everything());
  EXPECT_EQ(read_bytes(folder.path() / "a.pth"), read_bytes(folder.path() / "other.pt"));
}

TEST(WritePth, ChecksWhatIsWritten) {
  const test::TemporaryFolder folder;
  const Tensor x = zeros({1});
  EXPECT_ERROR(write_pth(folder.path() / "x.pth", {{"a", {x}}, {"a", {x}}}), "keys must be unique; got 'a' twice");
  EXPECT_ERROR(write_pth(folder.path() / "x.pth", {{"d", {PthDict{{"a", {Tensor()}}}}}}), "tensor 'd/a' is undefined");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// --- pickles, crafted ---

class Pickle : public ::testing::Test {
 protected:
  /// Opens an archive with this pickle (without protocol and STOP) and a storage "0" of 24 bytes.
  std::unique_ptr<TensorFile> open(const std::string& program) const { return open_whole("\x80\x02" + program + "."); }
  std::unique_ptr<TensorFile> open_whole(const std::string& pickle) const {
    return open_archive(CraftedZip().add("a/data.pkl", pickle).add("a/data/0", std::string(24, '\1')));
  }
  std::unique_ptr<TensorFile> open_archive(CraftedZip zip) const {
    const auto path = folder_.path() / "crafted.pth";
    std::ofstream(path, std::ios::binary) << zip.layout().str();
    return open_tensor_file(path);
  }

  static std::string text(const std::string& value) {
    return std::string("X").append(raw(static_cast<uint32_t>(value.size()))).append(value);
  }
  static std::string whole(int64_t value) { return "\x8a\x08" + raw(value); }
  static std::string tuple(const std::vector<int64_t>& values) {
    std::string out = "(";
    for (const int64_t value : values) out += whole(value);
    return out + "t";
  }
  static std::string storage(const std::string& type = "FloatStorage", const std::string& elements = "K\x06",
                             const std::string& key = "0") {
    return "(" + text("storage") + "ctorch\n" + type + "\n" + text(key) + text("cpu") + elements + "tQ";
  }
  static std::string tensor(const std::string& stored, const std::string& begin, const std::string& shape,
                            const std::string& strides) {
    return "ctorch._utils\n_rebuild_tensor_v2\n(" + stored + begin + shape + strides + "\x89}tR";
  }
  static std::string named(const std::string& name, const std::string& value) { return "}" + text(name) + value + "s"; }
  void expect_refused(const std::string& program, const std::string& message) const {
    EXPECT_ERROR(open(program), "crafted.pth: pickle, at byte ");
    EXPECT_ERROR(open(program), message);
  }

  test::TemporaryFolder folder_;
};

TEST_F(Pickle, TheCraftedFileIsSound) {
  const auto file = open(named("x", tensor(storage(), "K\x01", tuple({2, 2}), tuple({1, 2}))));
  ASSERT_EQ(file->tensors().size(), 1u);
  EXPECT_EQ(file->tensors()[0].shape, Shape({2, 2}));
  EXPECT_EQ(file->read(0).numel(), 4);
}

TEST_F(Pickle, NothingIsCalled) {
  expect_refused("cos\nsystem\n(" + text("true") + "tR",
                 "pickle, at byte 2: only what state dicts need can be read; "
                 "refused the global 'os.system'");
  for (const char* name : {"builtins\neval", "posix\nsystem", "builtins\ngetattr", "torch\nload", "numpy\ndtype",
                           "torch._utils\n_rebuild_sparse_tensor", "collections\ndefaultdict", "__builtin__\nexec"}) {
    expect_refused("c" + std::string(name) + "\n", "refused the global '");
  }
  expect_refused(text("os") + text("system") + "\x93", "refused the global 'os.system'");
  expect_refused("K\1K\2\x93", "a global is named by two texts");
  expect_refused("c" + std::string(300, 'a'), "a name must end within 256 bytes");
}

TEST_F(Pickle, InstructionsThatStateDictsDoNotNeedAreRefused) {
  for (const char* instruction :
       {"i", "o", "I", "P", "\x82", "\x92", "0", "1", "2", "S", "L", "\x8b", "\x90", "\x97"}) {
    expect_refused(instruction, "pickle, at byte 2: only what state dicts need can be read; got the instruction ");
  }
}

TEST_F(Pickle, ChecksItsFrame) {
  EXPECT_ERROR(open_whole(""), "pickle, at byte 0: the pickle ends within this instruction");
  EXPECT_ERROR(open_whole("}."), "a pickle must begin with its protocol, 2 to 5; got the bytes 125 46");
  EXPECT_ERROR(open_whole("\x80\x09."), "a pickle must begin with its protocol, 2 to 5");
  EXPECT_ERROR(open_whole("\x80\x02}"), "pickle, at byte 3: the pickle ends within this instruction");
  expect_refused("", "a pickle must leave one value; got 0");
  expect_refused("NN", "a pickle must leave one value; got 2");
  expect_refused("N(", "a pickle must leave one value");
  EXPECT_ERROR(open_whole("\x80\x02X\xff\xff\xff\x7f."), "the pickle ends within this instruction");
  EXPECT_ERROR(open_whole("\x80\x02\x8d" + raw(~uint64_t{0}) + "."), "the pickle ends within this instruction");
}

TEST_F(Pickle, ChecksTheStack) {
  expect_refused("s", "this instruction needs a value; there is none");
  expect_refused("N(s", "this instruction needs a value; there is none");
  expect_refused("NNNs", "this instruction needs a dict; there is none");
  expect_refused("Na", "this instruction needs a list; there is none");
  expect_refused("t", "this instruction needs a mark; there is none");
  expect_refused("}(Nu", "a dict takes keys and values in pairs; got 1");
  expect_refused("N(Ne", "this instruction needs a list");
  expect_refused("h\x05", "a value must be remembered before it is recalled; got number 5");
  expect_refused("q\x05", "this instruction needs a value");
  expect_refused("NNR", "a call needs a tuple of arguments");
  expect_refused("N)R", "only a global can be called");
  expect_refused("ctorch\nFloatStorage\n)R", "the arguments do not fit a storage type");
  expect_refused("ccollections\nOrderedDict\nK\1\x85R", "the arguments do not fit collections.OrderedDict");
  expect_refused("ctorch\nSize\n)R", "the arguments do not fit torch.Size");
  expect_refused("ctorch\ndevice\n)R", "the arguments do not fit torch.device");
  expect_refused("c_codecs\nencode\n)R", "the arguments do not fit _codecs.encode");
  expect_refused("ctorch._utils\n_rebuild_parameter\n)R", "the arguments do not fit torch._utils._rebuild_parameter");
  expect_refused("ctorch\nSize\n)\x81", "only an empty argparse.Namespace or OrderedDict can be made this way");
  expect_refused("}Nb", "attributes must be a dict");
  expect_refused("N}b", "this instruction needs a dict");
  expect_refused("ctorch\nSize\n(" + std::string(20, 'N') + "tR", "a call takes at most 16 arguments; got 20");
}

TEST_F(Pickle, BombsAreRefused) {
  expect_refused(std::string(2'000'000, 'N'), "at most 100000 values may be stacked; got more");
  expect_refused(std::string(2'000, '('), "containers may nest 1000 deep; got more");
  expect_refused(
      "(" + std::string(90'000, '}') + "t(" + std::string(99'000, '}') + "t(" + std::string(99'000, '}') + "t",
      "the objects must fit into 16 MB; got more");
  // A list of ten times a list of ten times ...: 10^12 values when written out.
  // A dict of ten times a dict of ten times ...: 10^12 values when written out.
  const auto laughs = [](const std::string& key) {
    std::string program = "}" + text("0") + "}q" + std::string(1, '\0') + "s";
    for (char level = 0; level < 12; ++level) {
      program += text(std::to_string(level + 1)) + "}(";
      for (int i = 0; i < 10; ++i) program += text(key) + "h" + level;
      program += std::string("uq") + static_cast<char>(level + 1) + "s";
    }
    return program;
  };
  EXPECT_ERROR(open(laughs("a long key")), "names must fit into 8 MB; got more");
  EXPECT_ERROR(open(laughs("")), "a file has at most 1000000 values, counting shared ones wherever they appear");
  EXPECT_ERROR(open(named("x", "]q" + std::string(1, '\0') + "h" + std::string(1, '\0') + "a")),
               "dicts and lists may nest 32 deep; got more at 'x/0/0/");
  std::string deep = std::string(100, '}');
  for (int i = 0; i < 99; ++i)
    deep.insert(deep.begin() + 1 + i * 6, 'X'), deep.insert(2 + static_cast<size_t>(i) * 6, raw<uint32_t>(0));
  EXPECT_ERROR(open(deep + std::string(99, 's')), "dicts and lists may nest 32 deep");
  std::string growing = "]";
  for (int i = 0; i < 20; ++i) growing += "(" + std::string(50'000, 'N') + "e";
  expect_refused(growing, "the objects must fit into 16 MB; got more");
  std::string memo = "N";
  for (uint32_t i = 0; i < 400'000; ++i) memo.append("r").append(raw(i));
  expect_refused(memo, "the objects must fit into 16 MB; got more");
}

TEST_F(Pickle, ChecksNumbers) {
  EXPECT_ERROR(open(named("x", tensor(storage(), "K\0",
                                      "(\x8a\x09" + raw(uint64_t{1} << 63) + std::string(1, '\0') + "t", tuple({1})))),
               "whole numbers must fit into 64 bits; got one of 9 bytes");
  expect_refused(storage("FloatStorage", "\x8a\x01\xff"),
                 "the number of elements must be a whole number of 0 or more; got -1");
  expect_refused(storage("FloatStorage", "N"),
                 "the number of elements must be a whole number of 0 or more; got something else");
}

TEST_F(Pickle, ChecksStorages) {
  expect_refused(storage("FloatStorage", whole(INT64_MAX)),
                 "the size of storage '0' overflows 64 bits; got 9223372036854775807");
  EXPECT_ERROR(open(storage("FloatStorage", "K\x05")), "storage '0' of 5 x f32 needs 20 bytes; its entry has 24");
  EXPECT_ERROR(open(storage("FloatStorage", "K\x06", "../0")),
               "each storage has an entry in the archive; got none for '../0'");
  expect_refused("(" + storage() + storage("DoubleStorage", "K\x03") + "t",
                 "storage '0' must have one type and size; got f64 x 3 after f32 x 6");
  for (const char* id : {"NQ", "(NtQ", ")Q", "(NNNNNtQ"}) expect_refused(id, "a persistent id must be ('storage'");
  expect_refused("(" + text("module") + "ctorch\nFloatStorage\n" + text("0") + text("cpu") + "K\x06tQ",
                 "a persistent id must be");
  expect_refused("(" + text("storage") + "ctorch\nSize\n" + text("0") + text("cpu") + "K\x06tQ",
                 "a persistent id must be");
}

TEST_F(Pickle, ChecksTensors) {
  const auto refuse = [&](const std::string& program, const std::string& message) {
    expect_refused(named("x", program), message);
  };
  const std::string zero("K\0", 2);
  refuse(tensor(storage(), zero, tuple({7}), tuple({1})),
         "a tensor must lie within its storage '0' of 6 elements; got [7]");
  refuse(tensor(storage(), "K\x06", tuple({1}), tuple({1})), "a tensor must lie within its storage");
  refuse(tensor(storage(), "K\x06", ")", ")"), "a tensor must lie within its storage");
  refuse(tensor(storage(), "K\x05", tuple({2}), tuple({1})), "first element 5");
  refuse(tensor(storage(), zero, tuple({3, 3}), tuple({2, 1})), "a tensor must lie within its storage");
  refuse(tensor(storage(), zero, tuple({-1}), tuple({1})), "an extent must be a whole number of 0 or more; got -1");
  refuse(tensor(storage(), zero, tuple({2}), tuple({-1})), "a stride must be a whole number of 0 or more; got -1");
  refuse(tensor(storage(), whole(-1), tuple({2}), tuple({1})), "the first element must be a whole number of 0 or more");
  refuse(tensor(storage(), zero, tuple({INT64_MAX}), tuple({1})), "the size of a tensor overflows 64 bits");
  refuse(tensor(storage(), zero, tuple({INT64_MAX, 0}), tuple({1, 1})), "the size of a tensor overflows 64 bits");
  refuse(tensor(storage(), zero, tuple({int64_t{1} << 32, int64_t{1} << 32}), tuple({0, 0})), "overflows 64 bits");
  refuse(tensor(storage(), zero, tuple({3}), tuple({INT64_MAX})),
         "overflows 64 bits; got [3], strides [9223372036854775807]");
  refuse(tensor(storage(), zero, tuple({2, 2}), tuple({INT64_MAX / 16, INT64_MAX / 8})), "overflows 64 bits");
  refuse(tensor(storage(), zero, tuple({2}), tuple({1, 1})), "at most 8 dimensions and as many strides; got 1 and 2");
  refuse(tensor(storage(), zero, tuple({1, 1, 1, 1, 1, 1, 1, 1, 1}), tuple({1, 1, 1, 1, 1, 1, 1, 1, 1})),
         "got 9 and 9");
  refuse(tensor("N", zero, tuple({2}), tuple({1})), "a tensor is made from a storage");
  EXPECT_ERROR(open(named("x", tensor(storage(), zero, tuple({1 << 30}), tuple({0})))),
               "a tensor may have 16 MB more than the file; got 'x' [1073741824], an expanded view");
  std::string many = "}(";
  for (char i = 'a'; i < 'f'; ++i)
    many += text(std::string(1, i)) + tensor(storage(), zero, tuple({1 << 20}), tuple({0}));
  EXPECT_ERROR(open(many + "u"), "the tensors together may have 16 times the bytes of the file; got more at 'e'");
}

TEST_F(Pickle, ChecksBoolsWhenTheyAreRead) {
  CraftedZip zip;
  zip.add("a/data.pkl",
          "\x80\x02" +
              named("x", tensor(storage("BoolStorage", "K\x03"), std::string("K\0", 2), tuple({3}), tuple({1}))) + ".");
  zip.add("a/data/0", std::string("\1\0\2", 3));
  EXPECT_ERROR(open_archive(zip)->read(0), "bool elements must be 0 or 1; got 2 in 'x', element 2");
}

TEST_F(Pickle, ChecksTheArchive) {
  EXPECT_ERROR(open_archive(CraftedZip().add("a/other", "x")),
               "is a ZIP archive with FOLDER/data.pkl; got an archive of 1 entries");
  EXPECT_ERROR(open_archive(CraftedZip().add("a/data.pkl", "x").add("b/data.pkl", "x")),
               "a .pth file has one data.pkl");
  EXPECT_ERROR(open_archive(CraftedZip().add("a/data.pkl", "x").add("a/constants.pkl", "x")),
               "TorchScript archives are programs and can't be read");
  EXPECT_ERROR(open_archive(CraftedZip().add("a/data.pkl", "x").add("a/byteorder", "big")),
               "the byte order must be little");
}

}  // namespace
}  // namespace camo
