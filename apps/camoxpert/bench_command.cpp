// camoxpert bench: the time of training steps and of forward passes, with a breakdown by operation or as a table beside
// a peer's; of single operations; or the rate of a loader.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/camoxpert/bench/attention_bench.h"
#include "apps/camoxpert/bench/loader_bench.h"
#include "apps/camoxpert/bench/network_bench.h"
#include "apps/camoxpert/bench/op_bench.h"
#include "apps/camoxpert/bench/table.h"
#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/json_text.h"
#include "core/atomic_file.h"
#include "core/error.h"

namespace camo::app {

namespace {

struct BenchOptions {
  std::string what;
  BenchTableOptions table;  // of whole networks
  OpBenchOptions ops;
  AttentionBenchOptions attention;
  LoaderBenchOptions loader;
  std::string json;
  bool batch_size_given = false, amp_given = false;  // else a table chooses
};

void write_json(const std::string& path, const nlohmann::json& value) {
  if (path.empty()) return;
  write_file_atomically(path, json_text(value, 1) + "\n");
}

nlohmann::json measure(BenchOptions options) {
  NetworkBenchOptions& network = options.table.bench;
  TrainOptions& train = network.train;
  const Device device = train.common.apply();
  if (options.what == "table") {
    constexpr int64_t kUsualBatch = 16;
    if (!options.batch_size_given) train.batch_size = kUsualBatch;
    if (!options.amp_given && device.is_cuda()) train.common.amp = "bf16";
  }
  if (options.what == "infer") train.dataset_path.clear();
  network.trains = options.what != "infer";
  network.check();
  if (options.what == "op") {
    options.ops.batch_size = train.batch_size;
    return run_op_bench(options.ops, device);
  }
  if (options.what == "attention") {
    const double seconds = options.attention.seconds;
    CAMO_CHECK_CODE(usage, seconds >= 0 && seconds <= 3600, "--seconds: must be within 0 and 3600; got ", seconds);
    options.attention.batch_size = train.batch_size;
    return run_attention_bench(options.attention, device);
  }
  if (options.what == "loader") {
    options.loader.dataset_path = train.dataset_path;
    options.loader.aug = train.aug;
    options.loader.workers = train.num_workers;
    options.loader.batch_size = train.batch_size;
    options.loader.img_size = train.img_size;
    return run_loader_bench(options.loader);
  }
  return options.what == "table" ? run_bench_table(options.table, device) : run_network_bench(network, device);
}

void run_bench(const BenchOptions& options) {
  check_output_file("--json", options.json);
  write_json(options.json, measure(options));
}

}  // namespace

Command add_bench_command(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* flags = app.add_subcommand(
      "bench", "Time training steps, forward passes, single operations or a data set's loader, or all rows of a table");
  flags->add_option("what", options->what, "train-step, infer, table, op, attention or loader")
      ->required()
      ->check(CLI::IsMember({"train-step", "infer", "table", "op", "attention", "loader"}));
  NetworkBenchOptions& bench = options->table.bench;
  TrainOptions& train = bench.train;
  train.common.add_to(*flags);
  train.common.add_amp(*flags);
  train.common.add_cuda_graphs(*flags);
  const auto option = [&](const char* flag, auto& value, const char* text) {
    flags->add_option(flag, value, text)->capture_default_str();
  };
  option("--backbone", train.network.backbone, "Of the network, as for train");
  option("--num-experts", train.network.num_experts, "Experts per stage");
  flags->add_option("--experts", bench.experts, "These run, like 0,2,3, not those that the random gates choose")
      ->delimiter(',');
  option("--attention-heads", train.network.attention_heads, "0: 8 where that divides the channels, else 4");
  option("--dropout", train.network.dropout, "Probability of the dropouts");
  flags->add_flag("--gradient-checkpointing", train.network.gradient_checkpointing, "Less memory for more time");
  option("--batch-size", train.batch_size, "Pictures per step (table: 16 unless given, and twice as many)");
  option("--img-size", train.img_size, "Side of the pictures");
  option("--clip-norm", train.clip_norm, "Largest gradient norm");
  option("--warmup", bench.warmup, "Runs before those that count");
  option("--steps", bench.steps, "Runs that count");
  option("--max-time", bench.max_time, "Stop counting after so many seconds; 0: no limit");
  flags->add_flag("--group-plans,!--no-group-plans", bench.group_plans,
                  "train-step, on a GPU: plans for expert groups of every size before the first step (default: on)");
  flags->add_flag("--profile", bench.profile,
                  "Also where the time of one run goes, by operation, with floors, and how long a GPU idles");
  option("--profile-steps", bench.profile_steps, "Runs over which a GPU's idle time is taken");
  option("--rows", bench.rows, "Operations and shapes that the breakdown names");
  option("--json", options->json, "Write everything that was measured to this file");
  option("--filter", options->ops.filter, "op: only operations whose name contains this");
  option("--shapes", options->attention.shapes, "attention: like B16H8N2304D20, separated by commas; empty: a table");
  option("--dtypes", options->attention.dtypes,
         "attention: f32, tf32, f16, bf16, f64, separated by commas; empty: usual ones");
  option("--seconds", options->attention.seconds, "attention: for each time");
  flags->add_flag("--memory", options->attention.memory, "attention: also memory up to 65536 tokens");
  flags->add_option("--convolution", options->ops.convolution, "op: what computes convolutions on a GPU")
      ->check(CLI::IsMember({"automatic", "cudnn", "direct"}))
      ->capture_default_str();
  option("--dataset-path", train.dataset_path,
         "Whose training pictures: train-step takes them instead of random ones, as train does; table also does");
  option("--aug", train.aug, "With --dataset-path: off, light or strong");
  option("--num-workers", train.num_workers, "With --dataset-path: threads that decode pictures");
  option("--cache-mb", train.cache_mb,
         "train-step, table: keep resized pictures in memory when the set fits into so many MiB");
  option("--peer", options->table.peer, "table: file of lines that scripts/camoxpert_torch.py bench prints");
  option("--epochs", options->loader.epochs, "loader: that count, after a first one");
  flags->add_flag("--raw", options->loader.raw, "loader: 8-bit batches, as training on a GPU takes them");
  return {flags, [options, flags] {
            options->batch_size_given = flags->count("--batch-size") > 0;
            options->amp_given = flags->count("--amp") > 0;
            run_bench(*options);
          }};
}

}  // namespace camo::app
