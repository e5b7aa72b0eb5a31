// camoxpert bench: the time of a training step or of a forward pass on random pictures, with a breakdown by operation;
// of single operations; or the rate of a loader.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "apps/camoxpert/attention_bench.h"
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/loader_bench.h"
#include "apps/camoxpert/op_bench.h"
#include "apps/camoxpert/op_profile.h"
#include "apps/camoxpert/progress.h"
#include "apps/camoxpert/system_info.h"
#include "core/autocast.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/random.h"
#include "data/device_batches.h"
#include "models/camoxpert/inference_runner.h"
#include "models/camoxpert/loss.h"
#include "models/camoxpert/network.h"
#include "models/camoxpert/warm_up.h"
#include "nn/optim/adamw.h"
#include "ops/ops.h"

namespace camo::app {

namespace {

struct BenchOptions {
  CommonOptions common;
  std::string what;
  CamoXpertSpec network{.attention_heads = 0};
  int64_t batch_size = 2;
  int64_t img_size = 384;
  int warmup = 3;
  int steps = 10;
  double max_time = 0;  // seconds
  double clip_norm = 1;
  std::vector<int64_t> experts;  // that run; empty: those that the gates choose
  bool group_plans = true;
  bool profile = false;
  int rows = 5;  // of the breakdown by operation
  std::string json;
  OpBenchOptions ops;
  AttentionBenchOptions attention;
  LoaderBenchOptions loader;
};

int64_t usual_heads(const std::string& backbone) { return edgenext_spec(backbone).dims[2] % 8 == 0 ? 8 : 4; }

/// Random pictures and masks, and what is run over them.
class Bench {
 public:
  Bench(const BenchOptions& options, Device device)
      : clip_norm_(options.clip_norm), autocast_(options.common.autocast()), network_(options.network) {
    images_ = to(random_uniform({options.batch_size, options.img_size, options.img_size, 3}, -2, 2, f32, cpu), device);
    const Tensor noise = random_uniform({options.batch_size, options.img_size, options.img_size, 1}, 0, 1, f32, cpu);
    masks_ = to(to(greater(noise, 0.5), f32), device);
    for (const int64_t expert : options.experts) prefer_expert(expert);
    network_.to(device, f32);
    if (options.what == "infer")
      runner_ = std::make_unique<InferenceRunner>(network_, parse_cuda_graphs(options.common.cuda_graphs));
    optimizer_ = std::make_unique<AdamW>(parameter_groups(network_, 1.0), AdamWOptions{.lr = 1e-5});
  }

  void warm_up_groups() {
    network_.zero_grad();
    warm_up_experts(network_, images_.size(0), images_.size(1), images_.size(2), autocast_);
  }

  void train_step() {
    network_.zero_grad();
    const LossOutput loss = forward();
    backward(loss.total);
    optimizer_->step(clip_gradients(network_.parameters(), clip_norm_));
    result_ = loss.total;
  }

  /// The same with a batch as the loader hands it over, which training overlaps with the step before.
  void profile_train_step(OpProfile& profile) {
    upload();
    profile.mark("upload and normalise a batch", "data");
    network_.zero_grad();
    const LossOutput loss = forward();
    profile.mark("forward of the rest");
    backward(loss.total);
    profile.mark("sums of gradients");
    const Tensor norm = clip_gradients(network_.parameters(), clip_norm_);
    profile.mark("clip gradients");
    optimizer_->step(norm);
    profile.mark("AdamW");
    result_ = loss.total;
  }

  /// Recorded, although inference is not: that is how operations are seen.
  void profile_infer(OpProfile& profile) {
    upload();
    profile.mark("upload and normalise a batch", "data");
    {
      const Autocast scope(autocast_);
      result_ = sigmoid(network_(images_).logits);
    }
    profile.mark("forward of the rest");
  }

  void infer() {
    const NoGrad no_grad;
    const Autocast scope(autocast_);
    result_ = sigmoid((*runner_)(images_));
  }

  bool used_graphs() const { return runner_ != nullptr && runner_->used_graphs(); }
  CamoXpert& network() { return network_; }
  /// One element of the last result: reading it waits for the device.
  double value() const { return slice(reshape(result_, {-1}), 0, 0, 1).item(); }

 private:
  LossOutput forward() {
    const Autocast scope(autocast_);
    return loss_(network_(images_), masks_);
  }

  void upload() const {
    const Shape image = images_.shape(), mask = masks_.shape();
    const Device device = images_.device();
    normalize_batch({to(zeros(image, u8, cpu), device),
                     to(zeros(mask, u8, cpu), device),
                     {},
                     std::vector<Augmentation>(static_cast<size_t>(image[0]))});
  }

  /// Which experts random gates choose decides what a step costs; with this they choose what is to be measured.
  void prefer_expert(int64_t expert) {
    constexpr double kBeyondLogits = 1e4;
    for (const NamedTensor& parameter : network_.named_parameters()) {
      if (parameter.name.ends_with("gate.fusion.3.bias"))
        fill(slice(parameter.tensor.detach(), 0, expert, expert + 1), kBeyondLogits);
    }
  }

  double clip_norm_;
  DType autocast_;
  CamoXpert network_;
  Tensor images_, masks_, result_;
  AdvancedCODLoss loss_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<InferenceRunner> runner_;
};

/// The value below which this share of the sorted times lies.
double quantile(const std::vector<double>& sorted, double share) {
  const double position = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], position - static_cast<double>(below));
}

std::string text_of(const OpTime& time) {
  return time.op + (time.is_backward ? ", backward" : "") + (time.shapes.empty() ? "" : " of " + time.shapes);
}

/// Prints where the time of one run goes, and returns it.
nlohmann::json print_breakdown(const OpProfile& profile, const Peaks& peaks, int rows) {
  fmt::print("\nOne run by family; floor: products and bytes over the measured {:.3g} TFLOP/s and {:.2f} TB/s\n",
             peaks.flops_per_second * 1e-12, peaks.bytes_per_second * 1e-12);
  struct Sum {
    double milliseconds = 0, floor = 0;
  };
  Sum total;
  nlohmann::json families, items = nlohmann::json::array(), by_op = nlohmann::json::array();
  const auto print_row = [&](const std::string& name, const Sum& sum) {
    fmt::print("  {:<52} {:9.3f} ms   floor {:8.3f} ms\n", name, sum.milliseconds, sum.floor);
  };
  for (const char* family : {"convolution", "attention", "experts", "other", "data"}) {
    Sum sum;
    for (const OpTime& time : profile.times()) {
      if (time.family != family) continue;
      sum.milliseconds += time.milliseconds;
      sum.floor += peaks.floor_ms(time.cost);
    }
    print_row(family, sum);
    families[family] = {{"ms", sum.milliseconds}, {"floor_ms", sum.floor}};
    total.milliseconds += sum.milliseconds;
    total.floor += sum.floor;
  }
  print_row("sum", total);
  if (profile.span_ms() > 0)
    fmt::print("  {:<52} {:9.3f} ms of {:.3f} ms\n", "nothing ran on the device", profile.idle_ms(), profile.span_ms());

  std::map<std::string, Sum> operations;
  for (const OpTime& time : profile.times()) {
    Sum& sum = operations[time.op + (time.is_backward ? ", backward" : "")];
    sum.milliseconds += time.milliseconds;
    sum.floor += peaks.floor_ms(time.cost);
  }
  std::vector<std::pair<std::string, Sum>> sorted(operations.begin(), operations.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.milliseconds > b.second.milliseconds; });
  fmt::print("By operation, the {} longest of {}\n", std::min<size_t>(sorted.size(), 2 * rows), sorted.size());
  for (const auto& [name, sum] : sorted) {
    if (by_op.size() < static_cast<size_t>(2 * rows)) print_row(name, sum);
    by_op.push_back({{"op", name}, {"ms", sum.milliseconds}, {"floor_ms", sum.floor}});
  }
  fmt::print("By operation and shape, the {} longest\n", rows);
  for (const OpTime& time : profile.times()) {
    const double floor = peaks.floor_ms(time.cost);
    if (items.size() < static_cast<size_t>(rows))
      print_row(fmt::format("{} x {}", time.calls, text_of(time)), {time.milliseconds, floor});
    items.push_back({{"op", time.op},
                     {"backward", time.is_backward},
                     {"shapes", time.shapes},
                     {"family", time.family},
                     {"calls", time.calls},
                     {"kernels", time.kernels},
                     {"ms", time.milliseconds},
                     {"floor_ms", floor}});
  }
  nlohmann::json kernels = nlohmann::json::array();
  for (const KernelTime& kernel : profile.kernels())
    kernels.push_back({{"name", kernel.name}, {"launches", kernel.launches}, {"ms", kernel.milliseconds}});
  return {{"families", families},
          {"operations", by_op},
          {"items", items},
          {"kernels", kernels},
          {"span_ms", profile.span_ms()},
          {"idle_ms", profile.idle_ms()},
          {"floor_ms", total.floor},
          {"flops_per_second", peaks.flops_per_second},
          {"bytes_per_second", peaks.bytes_per_second}};
}

void write_json(const std::string& path, const nlohmann::json& value) {
  if (path.empty()) return;
  std::ofstream file(path);
  file << value.dump(1) << '\n';
  CAMO_CHECK(file.good(), "bench: can't write ", path);
}

void run_bench(BenchOptions options) {
  CAMO_CHECK_CODE(usage, options.batch_size >= 1, "--batch-size: must be at least 1; got ", options.batch_size);
  CAMO_CHECK_CODE(usage, options.img_size >= 32, "--img-size: must be at least 32; got ", options.img_size);
  CAMO_CHECK_CODE(usage, options.warmup >= 0, "--warmup: must not be negative; got ", options.warmup);
  CAMO_CHECK_CODE(usage, options.steps >= 1, "--steps: must be at least 1; got ", options.steps);
  for (const int64_t expert : options.experts) {
    CAMO_CHECK_CODE(usage, expert >= 0 && expert < options.network.num_experts, "--experts: must be from 0 to ",
                    options.network.num_experts - 1, "; got ", expert);
  }
  const Device device = options.common.apply();
  if (options.what == "op") {
    options.ops.batch_size = options.batch_size;
    return write_json(options.json, run_op_bench(options.ops, device));
  }
  if (options.what == "attention") {
    options.attention.batch_size = options.batch_size;
    return write_json(options.json, run_attention_bench(options.attention, device));
  }
  if (options.what == "loader") {
    options.loader.batch_size = options.batch_size;
    options.loader.img_size = options.img_size;
    return write_json(options.json, run_loader_bench(options.loader));
  }
  if (options.network.attention_heads == 0) options.network.attention_heads = usual_heads(options.network.backbone);
  seed_everything(0);
  Bench bench(options, device);
  const bool training = options.what == "train-step";
  bench.network().train(training);
  const auto run = [&] { training ? bench.train_step() : bench.infer(); };

  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  if (training && device.is_cuda() && options.group_plans) bench.warm_up_groups();
  const Clock::time_point begin = Clock::now();
  for (int i = 0; i < options.warmup; ++i) run();
  if (options.warmup > 0) bench.value();
  reset_peak_memory(device);
  std::vector<double> milliseconds;
  for (int i = 0; i < options.steps; ++i) {
    const Clock::time_point start = Clock::now();
    run();
    bench.value();
    milliseconds.push_back(1e3 * since(start));
    if (options.max_time > 0 && since(begin) > options.max_time) break;
  }
  const double value = bench.value();
  CAMO_CHECK_CODE(not_finite, std::isfinite(value), "bench: the result is ", value);
  std::sort(milliseconds.begin(), milliseconds.end());
  const double median = quantile(milliseconds, 0.5);
  const double rate = 1e3 * static_cast<double>(options.batch_size) / median;
  const int64_t peak = memory_stats(device).peak_bytes;
  fmt::print("{} on {}: {}, {} experts, {} px, batch {}, {} threads, {}{}\n", options.what, device.str(),
             options.network.backbone, options.network.num_experts, options.img_size, options.batch_size, num_threads(),
             options.common.precision(device), bench.used_graphs() ? ", CUDA graphs" : "");
  fmt::print("median {:.2f} ms ({:.2f} to {:.2f}, {} runs after {})   {:.2f} images/s   peak memory {}\n", median,
             milliseconds.front(), milliseconds.back(), milliseconds.size(), options.warmup, rate, format_bytes(peak));
  nlohmann::json row{{"bench", options.what},
                     {"device", device.str()},
                     {"backbone", options.network.backbone},
                     {"experts", options.network.num_experts},
                     {"chosen_experts", options.experts},
                     {"img_size", options.img_size},
                     {"batch_size", options.batch_size},
                     {"threads", num_threads()},
                     {"tf32", device.is_cuda() && options.common.tf32},
                     {"amp", options.common.amp},
                     {"cuda_graphs", bench.used_graphs()},
                     {"runs", milliseconds.size()},
                     {"median_ms", median},
                     {"min_ms", milliseconds.front()},
                     {"quartile_1_ms", quantile(milliseconds, 0.25)},
                     {"quartile_3_ms", quantile(milliseconds, 0.75)},
                     {"max_ms", milliseconds.back()},
                     {"images_per_second", rate},
                     {"peak_bytes", peak},
                     {"result", value}};
  if (options.profile) {
    const Peaks peaks = measure_peaks(device, f32);
    OpProfile profile(device);
    training ? bench.profile_train_step(profile) : bench.profile_infer(profile);
    profile.finish();
    row["profile"] = print_breakdown(profile, peaks, options.rows);
  }
  write_json(options.json, row);
}

}  // namespace

Command add_bench_command(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* flags = app.add_subcommand(
      "bench", "Time a training step, a forward pass or single operations on random pictures, or a data set's loader");
  flags->add_option("what", options->what, "train-step, infer, op, attention or loader")
      ->required()
      ->check(CLI::IsMember({"train-step", "infer", "op", "attention", "loader"}));
  options->common.add_to(*flags);
  options->common.add_amp(*flags);
  options->common.add_cuda_graphs(*flags);
  const auto option = [&](const char* flag, auto& value, const char* text) {
    flags->add_option(flag, value, text)->capture_default_str();
  };
  option("--backbone", options->network.backbone, "Of the network, as for train");
  option("--num-experts", options->network.num_experts, "Experts per stage");
  flags->add_option("--experts", options->experts, "These run, like 0,2,3, not those that the random gates choose")
      ->delimiter(',');
  option("--attention-heads", options->network.attention_heads, "0: 8 where that divides the channels, else 4");
  option("--dropout", options->network.dropout, "Probability of the dropouts");
  flags->add_flag("--gradient-checkpointing", options->network.gradient_checkpointing, "Less memory for more time");
  option("--batch-size", options->batch_size, "Pictures per step");
  option("--img-size", options->img_size, "Side of the pictures");
  option("--clip-norm", options->clip_norm, "Largest gradient norm");
  option("--warmup", options->warmup, "Runs before those that count");
  option("--steps", options->steps, "Runs that count");
  option("--max-time", options->max_time, "Stop counting after so many seconds; 0: no limit");
  flags->add_flag("--group-plans,!--no-group-plans", options->group_plans,
                  "train-step, on a GPU: plans for expert groups of every size before the first step (default: on)");
  flags->add_flag("--profile", options->profile, "Also where the time of one run goes, by operation, with floors");
  option("--rows", options->rows, "Operations and shapes that the breakdown names");
  option("--json", options->json, "Write everything that was measured to this file");
  option("--filter", options->ops.filter, "op: only operations whose name contains this");
  option("--shapes", options->attention.shapes, "attention: like B16H8N2304D20, separated by commas; empty: a table");
  option("--dtypes", options->attention.dtypes,
         "attention: f32, f16, bf16, f64, separated by commas; empty: usual ones");
  option("--seconds", options->attention.seconds, "attention: for each time");
  flags->add_flag("--memory", options->attention.memory, "attention: also memory up to 65536 tokens");
  flags->add_option("--convolution", options->ops.convolution, "op: what computes convolutions on a GPU")
      ->check(CLI::IsMember({"automatic", "cudnn", "direct"}))
      ->capture_default_str();
  option("--dataset-path", options->loader.dataset_path, "loader: whose training pictures");
  option("--aug", options->loader.aug, "loader: off, light or strong");
  option("--num-workers", options->loader.workers, "loader: threads");
  option("--epochs", options->loader.epochs, "loader: that count, after a first one");
  flags->add_flag("--raw", options->loader.raw, "loader: 8-bit batches, as training on a GPU takes them");
  return {flags, [options] { run_bench(*options); }};
}

}  // namespace camo::app
