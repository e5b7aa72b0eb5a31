// camoxpert bench with pictures from disk, and its table beside a peer.
#include <gmock/gmock.h>

#include <array>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "apps/camoxpert/bench/device_idle.h"
#include "apps/camoxpert/bench/op_cost.h"
#include "apps/camoxpert/bench/peer_file.h"
#include "ops/ops.h"
#include "tests/apps/small_data.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/kernel_trace.h"
#endif

namespace camo {
namespace {

using namespace test;  // NOLINT: the helpers of all tests
using ::testing::HasSubstr;
using Json = nlohmann::json;

const std::string kTiny = " --backbone edgenext_xx_small --img-size 32 --warmup 0 ";

std::string device_name() { return default_device().is_cuda() ? "cuda" : "cpu"; }

Json peer_line(const std::string& dtype, int64_t batch, double train_ms, double infer_ms) {
  return {{"peer", "torch 2"}, {"device", device_name()}, {"threads", 2},         {"backbone", "edgenext_xx_small"},
          {"dtype", dtype},    {"batch", batch},          {"size", 32},           {"memory", "channels_last"},
          {"inputs", 8},       {"train_ms", train_ms},    {"infer_ms", infer_ms}, {"peak_GiB", 0.5}};
}

/// Writes the lines to a file and returns its path.
std::string write_lines(const TemporaryFolder& folder, const std::vector<std::string>& lines) {
  const std::string path = (folder.path() / "peer.jsonl").string();
  std::ofstream file(path);
  for (const std::string& line : lines) file << line << '\n';
  return path;
}

TEST(BenchFromDisk, TimesStepsOverSeveralEpochs) {
  const TemporaryFolder folder;
  const std::string json = (folder.path() / "row.json").string();
  for (const char* how : {"--num-workers 1", "--num-workers 0 --aug strong --cache-mb 64"}) {
    const std::string output = expect_success("bench train-step" + kTiny + "--batch-size 4 --steps 5 --dataset-path " +
                                              small_data().data() + " --json " + json + " " + how);
    EXPECT_THAT(output, HasSubstr("% of the time waiting for pictures"));
    const Json row = Json::parse(read_text(json));
    EXPECT_EQ(row["runs"], 5);
    EXPECT_GE(row["waited_share"], 0);
    EXPECT_LT(row["waited_share"], 1);
    EXPECT_GE(row["mean_ms"], row["min_ms"]);
    EXPECT_NEAR(row["images_per_second"].get<double>(), 4e3 / row["mean_ms"].get<double>(), 1e-6);
    EXPECT_GT(row["result"], 0);
  }
}

TEST(BenchFromDisk, GoesOnAfterAnOverflowOfF16) {
  const std::string output = expect_success("bench train-step" + kTiny + "--amp fp16 --batch-size 4 --steps 5 " +
                                            "--dataset-path " + small_data().data());
  EXPECT_THAT(output, HasSubstr("5 runs after 0"));
}

TEST(BenchFromDisk, SaysWhatIsWrong) {
  const std::string bench = "bench train-step" + kTiny + "--steps 1 --dataset-path ";
  const std::string data = small_data().data();
  expect_failure(bench + small_data().path("nowhere"), 3, "nowhere");
  expect_failure(bench + data + " --batch-size 4000", 2, "--batch-size: must be at most 8");
  expect_failure(bench + data + " --aug heavy", 2, "--aug: must be off, light or strong; got heavy");
  expect_failure(bench + data + " --num-workers -1", 2, "--num-workers: must be within 0 and 256; got -1");
  expect_failure(bench + data + " --profile-steps 0", 2, "--profile-steps: must be at least 1; got 0");
  expect_failure(bench + data + " --json " + small_data().path("no/row.json"), 2, "the file's folder must exist");
  expect_failure(bench + data + " --profile --device cpu", 2, "it measures how long a GPU idles; got device cpu");
}

TEST(BenchTable, HasAllRowsBesideThePeer) {
  const TemporaryFolder folder;
  const std::string json = (folder.path() / "table.json").string();
  Json unchanging = peer_line("bf16", 2, 50, 5);
  unchanging["inputs"] = 1;
  const std::string peer =
      write_lines(folder, {peer_line("bf16", 2, 100, 10).dump(), "", unchanging.dump(),
                           peer_line("f32", 2, 200, 20).dump(), peer_line("bf16", 1, 30, 3).dump()});
  const std::string output =
      expect_success("bench table" + kTiny + "--batch-size 2 --steps 1 --amp bf16 --no-tf32 --num-workers 1 --peer " +
                     peer + " --dataset-path " + small_data().data() + " --json " + json);
  EXPECT_THAT(output, HasSubstr("camo / peer"));
  EXPECT_THAT(output, HasSubstr("times the step over random pictures"));
  const Json table = Json::parse(read_text(json));
  struct Wanted {
    const char *name, *precision;
    int64_t batch;
    double peer_ms;  // 0: none
  };
  const std::vector<Wanted> wanted{
      {"train step", "bf16", 2, 50}, {"train step", "bf16", 4, 0},
      {"train step", "f32", 2, 200}, {"train step, from disk", "bf16", 2, 100},  // where the groups change
      {"inference", "bf16", 2, 5},   {"inference", "bf16", 1, 3},
      {"peak memory", "bf16", 2, 0}};
  ASSERT_EQ(table["rows"].size(), wanted.size()) << output;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Json& row = table["rows"][i];
    SCOPED_TRACE(row.dump());
    EXPECT_EQ(row["row"], wanted[i].name);
    EXPECT_EQ(row["precision"], wanted[i].precision);
    EXPECT_EQ(row["batch_size"], wanted[i].batch);
    EXPECT_GT(row["peak_bytes"], 0);
    EXPECT_EQ(row.contains("waited_share"), i == 3);
    if (row["row"] == "peak memory") {
      EXPECT_DOUBLE_EQ(row["camo_over_peer"], row["peak_bytes"].get<double>() / std::exp2(29));
      continue;
    }
    EXPECT_GT(row["ms"], 0);
    EXPECT_GT(row["floor_ms"], 0);
    ASSERT_EQ(row.contains("pictures_per_expert"), i != 3);
    if (i != 3) {
      for (const auto& counts : row["pictures_per_expert"].get<std::vector<std::vector<int64_t>>>())
        EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), 3 * wanted[i].batch);
    }
    ASSERT_EQ(row.contains("peer_ms"), wanted[i].peer_ms > 0);
    if (wanted[i].peer_ms == 0) continue;
    EXPECT_EQ(row["peer_ms"], wanted[i].peer_ms);
    EXPECT_DOUBLE_EQ(row["camo_over_peer"], row["ms"].get<double>() / wanted[i].peer_ms);
  }
  for (const char* precision : {"bf16", "f32"}) EXPECT_GT(table["peaks"][precision]["flops_per_second"], 0);
}

TEST(BenchTable, SaysWhatIsWrongBeforeItMeasures) {
  const TemporaryFolder folder;
  const std::string table = "bench table" + kTiny + "--batch-size 1 --steps 1 ";
  expect_failure(table + "--peer " + (folder.path() / "none.jsonl").string(), 3, "--peer: can't read ");
  expect_failure(table + "--dataset-path " + small_data().path("nowhere"), 3, "nowhere");
  expect_failure(table + "--profile --device cpu", 2, "it measures how long a GPU idles");
  const std::string good = peer_line("f32", 1, 1, 1).dump();
  Json lacking = peer_line("f32", 1, 1, 1), worded = lacking, zero = lacking;
  lacking.erase("infer_ms");
  worded["train_ms"] = "fast";
  zero["train_ms"] = 0;
  const auto expect_bad_line = [&](const std::string& line, const std::string& reason) {
    const std::string arguments = table + "--peer " + write_lines(folder, {good, line});
    expect_failure(arguments, 3, "line 2: must be a JSON object as scripts/camoxpert_torch.py bench prints it; got ");
    expect_failure(arguments, 3, reason);
  };
  expect_bad_line("Traceback (most recent call last):", "parse error");
  expect_bad_line("[1, 2]", "cannot use at() with array");
  expect_bad_line(lacking.dump(), "key 'infer_ms' not found");
  expect_bad_line(worded.dump(), "type must be number, but is string");
  expect_bad_line(zero.dump(), "times must be above 0; got train_ms 0 and infer_ms 1");
  expect_failure(table + "--peer " + write_lines(folder, {}), 3, "must have a line at least; got none");
}

TEST(PeerFile, TakesThePeerAtItsBest) {
  const TemporaryFolder folder;
  Json compiled = peer_line("bf16", 16, 128, 50), other = peer_line("bf16", 16, 1, 1);
  compiled.erase("inputs");
  compiled["peak_GiB"] = 0;  // as on a CPU
  other["size"] = 64;
  const app::PeerFile file(write_lines(folder, {peer_line("bf16", 16, 138, 46).dump(), compiled.dump(), other.dump()}));
  EXPECT_EQ(file.lines().size(), 3u);
  app::PeerFile::Configuration wanted{device_name(), "edgenext_xx_small", "bf16", 16, 32};
  EXPECT_EQ(file.best(wanted, &app::PeerLine::train_ms), 128);
  EXPECT_EQ(file.best(wanted, &app::PeerLine::train_ms, true), 138);
  EXPECT_EQ(file.best(wanted, &app::PeerLine::infer_ms), 46);
  EXPECT_EQ(file.best(wanted, &app::PeerLine::peak_gib), 0.5);
  wanted.dtype = "f32";
  EXPECT_FALSE(file.best(wanted, &app::PeerLine::train_ms).has_value());
}

TEST(DeviceIdle, CountsWhatSeveralIntervalsCoverOnce) {
  const auto covered = [](std::vector<app::Interval> intervals) { return app::coverage(intervals).covered; };
  EXPECT_EQ(covered({}), 0);
  EXPECT_EQ(covered({{5, 9}}), 4);
  EXPECT_EQ(covered({{0, 10}, {1, 2}, {8, 12}, {20, 21}}), 13);  // a copy beside kernels, one inside, one apart
  EXPECT_EQ(covered({{0, 4}, {4, 6}, {6, 6}}), 6);
}

TEST(DeviceIdle, FindsTheGapsAndWhatLiesAround) {
  using Ends = std::vector<std::array<int64_t, 3>>;  // length, after, before
  const auto gaps = [](const std::vector<app::Interval>& intervals) {
    Ends ends;
    for (const app::Gap& gap : app::coverage(intervals).gaps)
      ends.push_back({gap.length, static_cast<int64_t>(gap.after), static_cast<int64_t>(gap.before)});
    return ends;
  };
  EXPECT_EQ(gaps({}), Ends{});
  EXPECT_EQ(gaps({{5, 9}}), Ends{});
  EXPECT_EQ(gaps({{5, 9}, {10, 12}, {15, 16}}), (Ends{{1, 0, 1}, {3, 1, 2}}));
  EXPECT_EQ(gaps({{0, 10}, {1, 2}, {4, 5}, {12, 13}}), (Ends{{2, 0, 3}}));  // none within what runs beside others
  EXPECT_EQ(gaps({{0, 3}, {3, 3}, {3, 5}, {7, 8}}), (Ends{{2, 2, 3}}));
}

TEST(DeviceIdle, TellsShortGapsFromLongOnes) {
  app::DeviceIdle idle{.runs = 2, .wall_ms = 10, .busy_ms = 9, .between_ms = 0.6};
  idle.waits = {{"copy", "gemm", 3, 0.4}, {"softmax", std::string(60, 'x'), 2, 0.1}};
  EXPECT_EQ(idle.waits_str(),
            "     0.200 ms a run    1.5 times  after copy, before gemm\n"
            "     0.050 ms a run    1.0 times  after softmax, before " +
                std::string(48, 'x') + "\n");
  EXPECT_EQ(idle.to_json(4.8)["waits"][0]["after"], "copy");
  EXPECT_TRUE(idle.to_json(4.8)["between"].empty());
  EXPECT_NEAR(idle.share(), 0.1, 1e-12);
  EXPECT_NEAR(idle.waiting_share(), 0.04, 1e-12);
  EXPECT_NEAR(idle.share_of(4.8), 0.0625, 1e-12);
  EXPECT_EQ(
      idle.str(4.8),
      "the GPU is busy for 4.50 ms of a run, idle for 6.2 % of 4.80 ms; in 2 traced runs of 5.00 ms for 10.0 %: 6.0 "
      "% in gaps of at most 5 us, as between kernels, 4.0 % in longer ones");
  EXPECT_EQ(app::DeviceIdle{}.share(), 0);
  EXPECT_EQ(idle.to_json(4.8)["runs"], 2);
  EXPECT_NEAR(idle.to_json(4.8)["share_untraced"].get<double>(), 0.0625, 1e-12);
}

TEST(DeviceIdle, IsMeasuredOnAGpu) {
  const Device device = default_device();
  const Tensor x = full({1 << 24}, 1, f32, device);
  const auto work = [&] { x + x; };
  const auto finish = [&] { slice(x, 0, 0, 1).item(); };
  if (device.is_cpu()) {
    try {
      app::measure_idle(device, 1, work, finish);
      ADD_FAILURE() << "measured on a CPU";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::device);
      EXPECT_THAT(error.what(), HasSubstr("the device must be a GPU; got cpu"));
    }
    return;
  }
#ifdef CAMO_WITH_CUDA
  if (const std::string reason = cuda::why_no_kernel_trace(); !reason.empty()) GTEST_SKIP() << reason;
  constexpr int kRuns = 50;
  const app::DeviceIdle busy = app::measure_idle(device, kRuns, work, finish);
  const app::DeviceIdle idle = app::measure_idle(
      device, kRuns,
      [&] {
        work();
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      },
      finish);
  EXPECT_EQ(busy.runs, kRuns);
  EXPECT_GT(busy.busy_ms, 0);
  EXPECT_LE(busy.busy_ms, busy.wall_ms);
  EXPECT_GE(idle.wall_ms, 10 * kRuns);
  EXPECT_GT(idle.share(), busy.share());
  EXPECT_GT(idle.share(), 0.5);
  ASSERT_FALSE(idle.waits.empty());
  EXPECT_EQ(idle.waits[0].after, idle.waits[0].before);
  EXPECT_EQ(idle.waits[0].gaps, kRuns - 1);
  EXPECT_GE(idle.waits[0].ms, 9 * (kRuns - 1));
#endif
}

TEST(FloorObserver, AddsForwardAndBackward) {
  const Tensor x = full({4, 3}, 1, f32, cpu), weight = full({5, 3}, 1, f32, cpu);
  weight.set_requires_grad(true);
  // One floating-point operation a millisecond; bytes cost nothing.
  app::FloorObserver observer({.flops_per_second = 1e3, .bytes_per_second = std::numeric_limits<double>::infinity()});
  const Tensor y = linear(x, weight, {});
  EXPECT_DOUBLE_EQ(observer.floor_ms(), 2 * 4 * 3 * 5);
  backward(y, full({4, 5}, 1, f32, cpu));
  EXPECT_DOUBLE_EQ(observer.floor_ms(), 2 * (2 * 4 * 3 * 5)) << "x wants no gradient";
}

}  // namespace
}  // namespace camo
