// camoxpert verify-attention: flash against standard attention, on random tensors and in the whole network.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "apps/camoxpert/attention_report.h"
#include "apps/camoxpert/attention_timing.h"
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/max_or_nan.h"
#include "apps/camoxpert/progress.h"
#include "core/error.h"
#include "core/random.h"
#include "data/transforms.h"
#include "models/camoxpert/checkpoint.h"
#include "models/camoxpert/loss.h"
#include "ops/math_mode.h"
#include "ops/ops.h"

namespace camo::app {

namespace {

struct VerifyOptions {
  CommonOptions common;
  std::string dataset_path, checkpoint;
  int64_t num_samples = 8, img_size = 0, batch_size = 0;
  bool benchmark = false;
};

/// |a - b|, over any number of tensors.
struct Difference {
  double max = 0, sum = 0, largest = 0;  // largest: |b|
  int64_t count = 0;

  void add(const Tensor& a, const Tensor& b) {
    const auto x = a.to_vector<double>(), y = b.to_vector<double>();
    for (size_t i = 0; i < x.size(); ++i) {
      const double difference = std::abs(x[i] - y[i]);
      max = max_or_nan(max, difference);
      sum += difference;
      largest = std::max(largest, std::abs(y[i]));
    }
    count += a.numel();
  }
  double mean() const { return count == 0 ? 0 : sum / static_cast<double>(count); }
};

const char* verdict(bool ok) { return ok ? "ok" : "FAILED"; }

/// Output and gradients of q, k and v.
Tensors run(const Tensors& qkv, const Tensor& dy, AttentionBackend backend) {
  Tensors leaves;
  for (const Tensor& x : qkv) {
    leaves.push_back(x.detach());
    leaves.back().set_requires_grad(true);
  }
  const Tensor y = scaled_dot_product_attention(leaves[0], leaves[1], leaves[2], {.backend = backend});
  backward(y, dy);
  return {y.detach(), leaves[0].grad(), leaves[1].grad(), leaves[2].grad()};
}

/// What may be wrong for scores of order 1, relative to the size of v or of the largest gradient. The rounding of
/// larger scores grows with them, in any implementation.
struct Bound {
  double output, gradient;
};
Bound bound_of(const Arithmetic& arithmetic) {
  if (arithmetic.tf32) return {2e-3, 4e-3};  // q, k, v and dy are rounded too
  switch (arithmetic.dtype) {
    case DType::f64: return {1e-12, 1e-12};
    case DType::f32: return {5e-6, 1e-5};
    case DType::f16: return {5e-4, 1e-3};
    default: return {4e-3, 8e-3};
  }
}

/// Whether everything agrees.
bool verify_tensors(Device device) {
  struct Case {
    AttentionShape shape;
    double scale;
  };
  std::vector<Case> cases;
  for (const AttentionShape& shape : std::vector<AttentionShape>{
           {2, 576, 2, 10}, {2, 577, 2, 20}, {2, 576, 2, 36}, {2, 144, 8, 73}, {2, 400, 8, 64}, {1, 300, 2, 128}}) {
    for (const double scale : {0.1, 1.0, 4.0}) cases.push_back({shape, scale});
  }
  const std::vector<Arithmetic> arithmetics = device.is_cuda()
                                                  ? std::vector<Arithmetic>{{f32}, {f32, true}, {f16}, {bf16}}
                                                  : std::vector<Arithmetic>{{f64}, {f32}};
  fmt::print("random tensors: q, k, v and dy are N(0, 1) times the scale; differences from standard attention\n");
  fmt::print("{:<5} {:<20} {:>5} {:<28} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "dtype", "shape", "scale", "kernel",
             "max", "mean", "grad max", "grad mean", "vs f64");
  bool all_ok = true;
  for (const Arithmetic& arithmetic : arithmetics) {
    const Tf32Scope scope(arithmetic.tf32);
    const DType dtype = arithmetic.dtype;
    for (const auto& [shape, scale] : cases) {
      const auto random = [&] {
        return random_normal({shape.batch, shape.tokens, shape.heads, shape.width}, scale, dtype, device);
      };
      const Tensors qkv{random(), random(), random()};
      const Tensor dy = random();
      Tensors wide;
      for (const Tensor& x : qkv) wide.push_back(to(x, f64));
      const Tensors flash = run(qkv, dy, AttentionBackend::flash), standard = run(qkv, dy, AttentionBackend::math);
      const Tensors exact = run(wide, to(dy, f64), AttentionBackend::math);
      Difference output, gradient;
      output.add(flash[0], standard[0]);
      bool ok = true;
      double worst = 0;
      for (size_t i = 0; i < 4; ++i) {
        if (i > 0) gradient.add(flash[i], standard[i]);
        Difference mine, plain;
        mine.add(flash[i], exact[i]);
        plain.add(standard[i], exact[i]);
        const Bound bound = bound_of(arithmetic);
        const double growth = std::max(1.0, scale * scale / 2);
        const double size = i == 0 ? std::max(scale, mine.largest) : std::max(scale * scale * scale, mine.largest);
        ok &= mine.max <=
              std::max((i == 0 ? bound.output : bound.gradient) * growth * size, (i == 0 ? 2 : 3) * plain.max);
        worst = std::max(worst, mine.max / std::max(size, 1e-300));
      }
      all_ok &= ok;
      fmt::print("{:<5} {:<20} {:>5} {:<28} {:>10.1e} {:>10.1e} {:>10.1e} {:>10.1e} {:>10.1e} {}\n", arithmetic.name(),
                 shape.text(), scale,
                 attention_kernel_name(device, dtype, shape.tokens, shape.tokens, shape.width, AttentionBackend::flash),
                 output.max, output.mean(), gradient.max, gradient.mean(), worst, verdict(ok));
    }
  }
  return all_ok;
}

/// The network's output and the gradients of its parameters, in evaluation mode: nothing is drawn.
struct NetworkResult {
  Tensors outputs, gradients;
};
NetworkResult run_network(CamoXpert& network, const Tensor& images, const Tensor& masks, AttentionBackend backend) {
  const AttentionBackend before = attention_backend();
  set_attention_backend(backend);
  network.eval();
  network.zero_grad();
  const CamoXpertOutput output = network(images);
  camo::backward(AdvancedCODLoss()(output, masks).total);
  NetworkResult result{{to(output.logits.detach(), cpu)}, {}};
  for (const Tensor& deep : output.deep) result.outputs.push_back(to(deep.detach(), cpu));
  for (const Tensor& parameter : network.parameters()) {
    if (parameter.grad().defined()) result.gradients.push_back(to(parameter.grad(), cpu));
  }
  set_attention_backend(before);
  return result;
}

bool verify_network(const VerifyOptions& options, Device device) {
  std::vector<Sample> samples = find_dataset(options.dataset_path, Split::test).samples;
  CAMO_CHECK_CODE(data, !samples.empty(), "verify-attention: --dataset-path has no test pictures; got ",
                  options.dataset_path);
  if (static_cast<int64_t>(samples.size()) > options.num_samples) {
    samples.resize(static_cast<size_t>(options.num_samples));
  }
  const LoadedCheckpoint loaded = load_checkpoint(options.checkpoint);
  CamoXpert& network = *loaded.network;
  network.to(device, f32);
  const int64_t size = options.img_size > 0 ? options.img_size : loaded.info.img_size;
  fmt::print("\nwhole network: {} at {} px on {} pictures of {}, f32 without TF32\n", loaded.info.spec.backbone, size,
             samples.size(), options.dataset_path);
  {
    const AttentionBackend before = attention_backend();
    set_attention_backend(AttentionBackend::flash);
    for (const std::string& line : attention_report(loaded.info.spec, size, device, f32)) fmt::print("  {}\n", line);
    set_attention_backend(before);
  }
  // Two roundings of f32 through a hundred layers; gradients relative to the largest of their tensor.
  constexpr double kOutput = 1e-4, kGradient = 1e-3;
  Difference output, gradient;
  double relative = 0, largest_logit = 1;
  for (const Sample& sample : samples) {
    const ResizedSample resized = resize_sample(load_sample(sample), static_cast<int>(size));
    const Tensor image = empty({1, size, size, 3}, f32, cpu), mask = empty({1, size, size, 1}, f32, cpu);
    write_sample(resized, {}, image.data<float>(), mask.data<float>());
    const Tensor on_device = to(image, device), target = to(mask, device);
    const NetworkResult flash = run_network(network, on_device, target, AttentionBackend::flash);
    const NetworkResult standard = run_network(network, on_device, target, AttentionBackend::math);
    for (size_t i = 0; i < flash.outputs.size(); ++i) output.add(flash.outputs[i], standard.outputs[i]);
    largest_logit = std::max(largest_logit, output.largest);
    for (size_t i = 0; i < flash.gradients.size(); ++i) {
      Difference one;
      one.add(flash.gradients[i], standard.gradients[i]);
      gradient.add(flash.gradients[i], standard.gradients[i]);
      relative = max_or_nan(relative, one.max / std::max(one.largest, 1e-6));
    }
  }
  const bool outputs_ok = output.max <= kOutput * largest_logit, gradients_ok = relative <= kGradient;
  fmt::print("  logits     max {:.2e}  mean {:.2e}  (largest {:.2f})  {}\n", output.max, output.mean(), output.largest,
             verdict(outputs_ok));
  fmt::print("  gradients  max {:.2e}  mean {:.2e}  (largest {:.2e}); relative to their tensors' largest {:.2e}  {}\n",
             gradient.max, gradient.mean(), gradient.largest, relative, verdict(gradients_ok));
  return outputs_ok && gradients_ok;
}

/// Standard attention keeps about four matrices of scores alive in a step.
bool standard_fits(const AttentionShape& shape, DType dtype, Device device) {
  return 4 * shape.scores() * size_in_bytes(dtype) < (device.is_cuda() ? int64_t{60} << 30 : int64_t{3} << 30);
}

/// Standard attention follows allow_tf32(), flash the arithmetic.
void print_times(const std::string& what, const AttentionShape& shape, const Arithmetic& arithmetic, Device device) {
  const DType dtype = arithmetic.dtype;
  const auto timed = [&](AttentionBackend backend) {
    return time_attention(shape, dtype, device, backend, AttentionInput::dense, 0.1);
  };
  AttentionTiming flash;
  std::string kernel;
  {
    const Tf32Scope scope(arithmetic.tf32);
    flash = timed(AttentionBackend::flash);
    kernel = attention_kernel_name(device, dtype, shape.tokens, shape.tokens, shape.width, AttentionBackend::flash);
  }
  if (!standard_fits(shape, dtype, device)) {
    fmt::print("{:<8} {:<5} {:<20} {:>19} {:>9.3f} {:>9.3f} {:>8} {:>8} {:>10} {:>10}  {}\n", what, arithmetic.name(),
               shape.text(), "too large", flash.forward_ms, flash.backward_ms, "", "", "",
               format_bytes(flash.peak_bytes), kernel);
    return;
  }
  const AttentionTiming standard = timed(AttentionBackend::math);
  fmt::print("{:<8} {:<5} {:<20} {:>9.3f} {:>9.3f} {:>9.3f} {:>9.3f} {:>7.2f}x {:>7.2f}x {:>10} {:>10}  {}\n", what,
             arithmetic.name(), shape.text(), standard.forward_ms, standard.backward_ms, flash.forward_ms,
             flash.backward_ms, standard.forward_ms / flash.forward_ms, standard.backward_ms / flash.backward_ms,
             format_bytes(standard.peak_bytes), format_bytes(flash.peak_bytes), kernel);
}

void benchmark(const VerifyOptions& options, Device device) {
  const int64_t batch = options.batch_size > 0 ? options.batch_size : device.is_cuda() ? 16 : 1;
  const int64_t size = options.img_size > 0 ? options.img_size : 384;
  std::vector<Arithmetic> arithmetics{{f32}};
  if (device.is_cuda()) arithmetics = {{f32}, {f32, true}, {bf16}};
  fmt::print("\nmilliseconds of one call on {}, standard attention {} TF32\n", device.str(),
             allow_tf32() && device.is_cuda() ? "with" : "without");
  fmt::print("{:<8} {:<5} {:<20} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8} {:>10} {:>10}\n", "", "", "", "standard",
             "backward", "flash", "backward", "speed-up", "backward", "memory", "flash");
  for (const Arithmetic& one : arithmetics) {
    for (const int64_t pixels : {320, 352, 384, 416}) {
      const int64_t side = pixels / 16;
      print_times(fmt::format("{} px", pixels), {batch, side * side, 8, 64}, one, device);
    }
  }
  for (const Arithmetic& one : arithmetics) {
    int number = 0;
    for (const StageAttention& stage : attention_stages({}, size, device, one.dtype)) {
      print_times(fmt::format("stage {}", ++number), {batch, stage.tokens, stage.heads, stage.width}, one, device);
    }
  }
}

void run_verify(const VerifyOptions& options) {
  CAMO_CHECK_CODE(usage, options.num_samples >= 1, "--num-samples: must be at least 1; got ", options.num_samples);
  CAMO_CHECK_CODE(usage, options.batch_size >= 0, "--batch-size: must not be negative; got ", options.batch_size);
  check_img_size(options.img_size);
  CAMO_CHECK_CODE(usage, options.dataset_path.empty() == options.checkpoint.empty(),
                  "verify-attention: --dataset-path and --checkpoint belong together; got ",
                  options.checkpoint.empty() ? "the first alone" : "the second alone");
  const Device device = options.common.apply();
  seed_everything(0);
  set_allow_tf32(false);  // its rounding would hide what is compared
  bool ok = verify_tensors(device);
  if (!options.dataset_path.empty()) ok &= verify_network(options, device);
  set_allow_tf32(options.common.tf32);
  if (options.benchmark) benchmark(options, device);
  fmt::print("\nflash and standard attention {}\n", ok ? "agree" : "DIFFER");
  CAMO_CHECK(ok, "verify-attention: flash and standard attention differ; the lines marked FAILED say where");
}

}  // namespace

Command add_verify_attention_command(CLI::App& app) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* flags = app.add_subcommand("verify-attention",
                                       "Compare flash with standard attention: random tensors, then a whole network");
  options->common.add_to(*flags);
  const auto option = [&](const char* flag, auto& value, const char* text) {
    flags->add_option(flag, value, text)->capture_default_str();
  };
  option("--dataset-path", options->dataset_path, "Data set whose test pictures the network sees");
  option("--checkpoint", options->checkpoint, "Checkpoint of the network");
  option("--num-samples", options->num_samples, "Pictures of the data set");
  option("--img-size", options->img_size, "Side the network sees; 0: the checkpoint's, 384 for --benchmark");
  option("--batch-size", options->batch_size, "Of --benchmark; 0: 16 on a GPU, 1 on the CPU");
  flags->add_flag("--benchmark", options->benchmark, "Also time both at 320 to 416 px and in the network's stages");
  return {flags, [options] { run_verify(*options); }};
}

}  // namespace camo::app
