// camoxpert export: a checkpoint as an ONNX file, compared with our own output on request.
#include <fmt/core.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/max_or_nan.h"
#include "core/atomic_file.h"
#include "data/image.h"
#include "data/synthetic.h"
#include "data/transforms.h"
#include "models/camoxpert/checkpoint.h"
#include "models/onnx/export.h"
#include "ops/shape_ops.h"

namespace camo::app {

namespace fs = std::filesystem;

namespace {

struct Options {
  std::string in, out;
  std::vector<std::string> pictures;
  int64_t img_size = 0;
  double tolerance = 1e-4;
  bool verify = false;
};

/// Runs the model over one picture at a time and over all at once: both must be the same, whatever the batch.
constexpr const char* kRunner = R"(
import sys
try:
    import numpy, onnxruntime
except ImportError:
    sys.exit(77)
model, folder, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
images = numpy.fromfile(folder + "/images", dtype=numpy.float32).reshape(-1, 3, size, size)
run = lambda batch: session.run(["logits"], {"image": batch})[0]
single = numpy.concatenate([run(images[i:i + 1]) for i in range(len(images))])
single.tofile(folder + "/single")
(run(images[:2]) if len(images) > 1 else single).tofile(folder + "/batch")
print("onnxruntime", onnxruntime.__version__)
)";
constexpr int kNoRuntime = 77;

/// A folder for the exchange with the runner, removed at the end.
class ExchangeFolder {
 public:
  ExchangeFolder() {
    std::string name = (fs::temp_directory_path() / "camoxpert_export_XXXXXX").string();
    CAMO_CHECK_CODE(general, ::mkdtemp(name.data()) != nullptr, "export: can't make a folder in ", name);
    path_ = name;
  }
  ~ExchangeFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ExchangeFolder(const ExchangeFolder&) = delete;
  ExchangeFolder& operator=(const ExchangeFolder&) = delete;
  fs::path operator/(const char* name) const { return path_ / name; }
  std::string str() const { return path_.string(); }

 private:
  fs::path path_;
};

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

void run_onnxruntime(const ExchangeFolder& folder, const std::string& model, int64_t size) {
  write_file_atomically(folder / "run.py", kRunner);
  const char* named = std::getenv("CAMO_PYTHON");
  const std::string python = named != nullptr ? named : "python3";
  const std::string command = fmt::format("{} {} {} {} {} >&2", quoted(python), quoted((folder / "run.py").string()),
                                          quoted(fs::absolute(model).string()), quoted(folder.str()), size);
  const int status = std::system(command.c_str());
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  CAMO_CHECK_CODE(usage, code != kNoRuntime && code != 127, "--verify: runs the model with onnxruntime, which ", python,
                  " has not; `pip install onnxruntime`, or name another Python with CAMO_PYTHON");
  CAMO_CHECK(code == 0, "--verify: onnxruntime failed on ", model, " with exit code ", code);
}

std::vector<float> read_floats(const fs::path& path) {
  std::vector<float> values(fs::file_size(path) / sizeof(float));
  std::ifstream in(path, std::ios::binary);
  in.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  return values;
}

std::vector<Tensor> verification_inputs(const Options& options, int size) {
  std::vector<Tensor> inputs;
  for (const std::string& path : options.pictures) inputs.push_back(to_network_input(decode_image(path, 3), size));
  for (int64_t i = 0; inputs.size() < 2; ++i) {
    inputs.push_back(to_network_input(make_synthetic_sample({.width = size, .height = size}, i).image, size));
  }
  return inputs;
}

void verify(const Options& options, const CamoXpert& network, int64_t size) {
  const NoGrad no_grad;
  const ExchangeFolder folder;
  const std::vector<Tensor> inputs = verification_inputs(options, static_cast<int>(size));
  std::string images;
  for (const Tensor& input : inputs) {
    const Tensor planes = clone(permute(input, {0, 3, 1, 2}));
    images.append(reinterpret_cast<const char*>(planes.data<float>()),
                  static_cast<size_t>(planes.numel()) * sizeof(float));
  }
  write_file_atomically(folder / "images", images);
  run_onnxruntime(folder, options.out, size);
  const std::vector<float> single = read_floats(folder / "single"), batch = read_floats(folder / "batch");
  const auto pixels = static_cast<size_t>(size * size);
  CAMO_CHECK(single.size() == inputs.size() * pixels && batch.size() == 2 * pixels, "--verify: the model must give ",
             inputs.size() * pixels, " logits; got ", single.size());
  double worst = 0, batch_worst = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::vector<float> ours = network(inputs[i]).logits.to_vector<float>();
    const auto compare = [&](const std::vector<float>& theirs) {
      double difference = 0, largest = 0;
      for (size_t j = 0; j < pixels; ++j) {
        difference = max_or_nan(difference, std::abs(double{ours[j]} - theirs[i * pixels + j]));
        largest = std::max(largest, std::abs(double{ours[j]}));
      }
      const std::string name = i < options.pictures.size() ? options.pictures[i] : "a procedural picture";
      if (&theirs == &single)
        fmt::print("{}: largest difference {:.2e}, largest logit {:.3f}\n", name, difference, largest);
      return difference;
    };
    worst = max_or_nan(worst, compare(single));
    if (i < 2) batch_worst = max_or_nan(batch_worst, compare(batch));
  }
  fmt::print("largest difference {:.2e} one by one, {:.2e} in a batch of two\n", worst, batch_worst);
  // Written so that not-a-number fails as well.
  CAMO_CHECK(worst <= options.tolerance && batch_worst <= options.tolerance, "--verify: the outputs must agree within ",
             options.tolerance, "; got ", max_or_nan(worst, batch_worst));
}

void run(const Options& options) {
  check_img_size(options.img_size);
  CAMO_CHECK_CODE(usage, options.tolerance >= 0, "--tolerance: must not be negative; got ", options.tolerance);
  check_made_file(options.in, options.out);
  const LoadedCheckpoint loaded = load_checkpoint(options.in);
  const int64_t size = options.img_size > 0 ? options.img_size : loaded.info.img_size;
  export_onnx(options.out, *loaded.network, size);
  fmt::print("{}: {}, {} experts, image [batch, 3, {}, {}] to logits [batch, 1, {}, {}], opset 18, {} bytes\n",
             options.out, loaded.info.spec.backbone, loaded.info.spec.num_experts, size, size, size, size,
             fs::file_size(options.out));
  if (options.verify) verify(options, *loaded.network, size);
}

}  // namespace

Command add_export_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* flags = app.add_subcommand("export", "Write a checkpoint as an ONNX file");
  flags->add_option("in", options->in, "Checkpoint, or a .pth of the reference's training script")->required();
  flags->add_option("out", options->out, "ONNX file to write")->required();
  flags->add_option("--img-size", options->img_size, "Side of the pictures; default: the checkpoint's");
  flags->add_flag("--verify", options->verify, "Run the file with onnxruntime (Python) and compare with our output");
  flags->add_option("--tolerance", options->tolerance, "Largest difference that --verify accepts")
      ->capture_default_str();
  flags->add_option("--input", options->pictures, "Pictures for --verify; procedural ones fill up to two")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  return {flags, [options] { run(*options); }};
}

}  // namespace camo::app
