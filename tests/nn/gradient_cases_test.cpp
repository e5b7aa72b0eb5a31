// Every registered gradient, checked numerically; and a check that every operation is registered.
#include <cxxabi.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <typeinfo>

#include "core/autograd.h"
#include "nn/gradcheck.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

constexpr int kCasesPerOperation = 5;

const std::vector<GradientCase>& cases() {
  static const std::vector<GradientCase> all = all_gradient_cases();
  return all;
}

/// OP_variant, unique, in the characters GoogleTest allows.
std::vector<std::string> test_names() {
  std::vector<std::string> names;
  std::map<std::string, int> uses;
  for (const GradientCase& entry : cases()) {
    std::string name = entry.op + "_" + entry.variant;
    for (char& c : name) {
      if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
    }
    const int use = ++uses[name];
    names.push_back(use == 1 ? name : name + "_" + std::to_string(use));
  }
  return names;
}

class GradientCases : public ::testing::TestWithParam<size_t> {};

/// CAMO_GRADCHECK_ELEMENTS in the environment: how many elements of each tensor are moved, for runs under sanitizers.
TEST_P(GradientCases, AgreeWithDifferences) {
  const GradientCase& entry = cases()[GetParam()];
  GradcheckOptions options = entry.options;
  if (const char* elements = std::getenv("CAMO_GRADCHECK_ELEMENTS")) options.elements = std::atoll(elements);
  const GradcheckResult result = gradcheck(entry.fn, entry.inputs(), options);
  EXPECT_TRUE(result.ok) << result.message;
}

INSTANTIATE_TEST_SUITE_P(All, GradientCases, ::testing::Range(size_t{0}, cases().size()),
                         [](const ::testing::TestParamInfo<size_t>& param) {
                           static const std::vector<std::string> names = test_names();
                           return names[param.param];
                         });

/// The type of a node without namespace and template arguments.
std::string type_name(const Node& node) {
  const char* mangled = typeid(node).name();
  char* demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, nullptr);
  std::string name = demangled != nullptr ? demangled : mangled;
  std::free(demangled);
  if (const size_t node_end = name.find("Node<"); node_end != std::string::npos) name.resize(node_end + 4);
  return name.substr(name.rfind(':') + 1);
}

/// How many cases reach each kind of node, by type and by name, and how many are registered for each operation.
struct Coverage {
  std::map<std::string, int> types, names;

  Coverage() {
    for (const GradientCase& entry : cases()) {
      std::set<std::string> case_types, case_names{entry.op};
      Tensors inputs = entry.inputs();
      for (Tensor& input : inputs) {
        if (!input.defined() || input.dtype() != f64) continue;
        input = input.detach();
        input.set_requires_grad(true);
      }
      const Tensors outputs = entry.fn(inputs);  // keep the graph while it is walked
      std::vector<const Node*> pending;
      std::set<const Node*> seen;
      const auto visit = [&](const std::shared_ptr<Node>& node) {
        if (node && seen.insert(node.get()).second) pending.push_back(node.get());
      };
      for (const Tensor& output : outputs) visit(output.grad_node());
      while (!pending.empty()) {
        const Node* node = pending.back();
        pending.pop_back();
        case_types.insert(type_name(*node));
        case_names.insert(node->name());
        for (const Edge& edge : node->edges()) visit(edge.node);
      }
      for (const std::string& type : case_types) ++types[type];
      for (const std::string& name : case_names) ++names[name];
    }
  }
};

const Coverage& coverage() {
  static const Coverage counted;
  return counted;
}

/// The first group of every match in the files of ops/ with these extensions, with the file it is in. Headers of
/// ops/detail/, ops/attention/ and folders named cuda declare no operations and are left out.
std::map<std::string, std::string> find_in_ops(const std::string& pattern, const std::set<std::string>& extensions) {
  const std::regex regex(pattern, std::regex::ECMAScript | std::regex::multiline);
  std::map<std::string, std::string> found;
  for (const auto& file : std::filesystem::recursive_directory_iterator(std::string(CAMO_SOURCE_DIR) + "/ops")) {
    const std::string folder = file.path().parent_path().filename();
    if (file.path().extension() == ".h" && std::set<std::string>{"detail", "attention", "cuda"}.contains(folder)) {
      continue;
    }
    if (!file.is_regular_file() || !extensions.contains(file.path().extension().string())) continue;
    std::ifstream in(file.path());
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    for (std::sregex_iterator match(text.begin(), text.end(), regex), end; match != end; ++match) {
      found.emplace((*match)[1].str(), file.path().filename().string());
    }
  }
  return found;
}

void expect_covered(const std::map<std::string, std::string>& wanted, const std::map<std::string, int>& counts,
                    const std::set<std::string>& exempt) {
  EXPECT_GT(wanted.size(), 20u) << "the search of the sources found too little to mean anything";
  for (const auto& [what, file] : wanted) {
    if (exempt.contains(what)) continue;
    const auto found = counts.find(what);
    const int count = found == counts.end() ? 0 : found->second;
    EXPECT_GE(count, kCasesPerOperation) << what << " (" << file << ") has too few gradient cases";
  }
}

TEST(GradientCaseCoverage, EveryNodeTypeHasFiveCases) {
  if (default_device().is_cuda()) GTEST_SKIP() << "the CPU alone uses every node: some operations share one on CUDA";
  // A copy between devices needs a second device. What 16-bit tensors are computed with is too coarse for differences:
  // dtype_agreement_test.cpp compares it with double precision.
  expect_covered(find_in_ops(R"(struct (\w+Node) final : (?:public )?Node\b)", {".cu", ".cpp", ".h"}), coverage().types,
                 {"CopyToDeviceNode", "InF32Node"});
}

TEST(GradientCaseCoverage, EveryNodeNameHasFiveCases) {
  expect_covered(find_in_ops(R"re((?:\bNode\(|kName = )"(\w+)")re", {".cu", ".cpp", ".h"}), coverage().names, {});
}

TEST(GradientCaseCoverage, EveryFunctionHasFiveCases) {
  std::set<std::string> exempt{"argmax", "combine_chosen", "equal", "greater", "greater_equal"};  // no gradient
  exempt.insert({"chunk", "flatten", "squeeze", "stack", "transpose", "unsqueeze"});  // other operations renamed
  expect_covered(find_in_ops(R"(^(?:Tensor|Tensors|TopK) (\w+)\()", {".h"}), coverage().names, exempt);
}

}  // namespace
}  // namespace camo
