#include "apps/camoxpert/bench/attention_bench.h"

#include <fmt/core.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "apps/camoxpert/attention_timing.h"
#include "apps/camoxpert/progress.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/math_mode.h"

namespace camo::app {

namespace {

using Json = nlohmann::json;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

Arithmetic parse_arithmetic(const std::string& text) {
  for (const Arithmetic& one : {Arithmetic{f32}, {f32, true}, {f16}, {bf16}, {f64}}) {
    if (text == one.name()) return one;
  }
  fail(ErrorCode::usage, "--dtypes: must be f32, tf32, f16, bf16 or f64; got '", text, "'");
}

/// B16H8N2304D20.
AttentionShape parse_shape(const std::string& text) {
  AttentionShape shape;
  const char *at = text.data(), *end = text.data() + text.size();
  bool ok = true;
  const std::pair<char, int64_t*> parts[] = {
      {'B', &shape.batch}, {'H', &shape.heads}, {'N', &shape.tokens}, {'D', &shape.width}};
  for (const auto& [letter, number] : parts) {
    if (!ok || at == end || *at != letter) {
      ok = false;
      break;
    }
    const auto [next, code] = std::from_chars(at + 1, end, *number);
    ok = code == std::errc() && *number > 0;
    at = next;
  }
  CAMO_CHECK_CODE(usage, ok && at == end, "--shapes: must be like B16H8N2304D20; got '", text, "'");
  return shape;
}

std::vector<AttentionShape> shapes_of(const AttentionBenchOptions& options, Device device) {
  std::vector<AttentionShape> shapes;
  for (const std::string& text : split(options.shapes)) shapes.push_back(parse_shape(text));
  if (!shapes.empty()) return shapes;
  const int64_t batch = options.batch_size;
  shapes = {{batch, 9216, 8, 10}, {batch, 2304, 8, 20}, {batch, 576, 8, 36}, {batch, 144, 8, 73},   // the stages
            {batch, 400, 8, 64},  {batch, 484, 8, 64},  {batch, 576, 8, 64}, {batch, 676, 8, 64}};  // published
  if (device.is_cuda()) {
    for (const int64_t tokens : {4096, 16384}) {
      shapes.push_back({16384 / tokens, tokens, 32, 64});
      shapes.push_back({16384 / tokens, tokens, 16, 128});
    }
  }
  return shapes;
}

std::vector<Arithmetic> arithmetics_of(const AttentionBenchOptions& options, Device device) {
  std::vector<Arithmetic> all;
  for (const std::string& text : split(options.dtypes)) all.push_back(parse_arithmetic(text));
  if (!all.empty()) return all;
  if (device.is_cuda()) return {{bf16}, {f16}, {f32, true}, {f32}};
  return {{f32}};
}

/// Of one direction of one call. `work`: 1, or 2.5 for backward, times 4 scores D operations.
struct Row {
  double dense_ms, fused_ms, floor_ms, error;

  Json json(const AttentionShape& shape, double work) const {
    const double flops = work * 4 * static_cast<double>(shape.scores() * shape.width);
    Json result{{"kernel_us", 1e3 * dense_ms},
                {"end_to_end_us", 1e3 * fused_ms},
                {"tflops", flops / dense_ms * 1e-9},
                {"scores_per_second", static_cast<double>(shape.scores()) / dense_ms * 1e3},
                {"max_error", error}};
    if (floor_ms > 0) {
      result["floor_us"] = 1e3 * floor_ms;
      result["floor_percent"] = 100 * floor_ms / dense_ms;
    }
    return result;
  }
};

void print_row(const std::string& what, const Json& row) {
  const double percent = row.value("floor_percent", 0.0);
  fmt::print("  {:<9} {:>12.1f} {:>12.1f} {:>9.3g} {:>11} {:>11.1e}\n", what, row["kernel_us"].get<double>(),
             row["end_to_end_us"].get<double>(), row["tflops"].get<double>(),
             percent > 0 ? fmt::format("{:.0f}", percent) : std::string("-"), row["max_error"].get<double>());
}

Json measure(const AttentionShape& shape, const Arithmetic& arithmetic, Device device, double seconds) {
  const Tf32Scope scope(arithmetic.tf32);
  const DType dtype = arithmetic.dtype;
  const auto timed = [&](AttentionInput input) {
    return time_attention(shape, dtype, device, AttentionBackend::automatic, input, seconds);
  };
  const std::string kernel = attention_kernel_name(device, dtype, shape.tokens, shape.tokens, shape.width);
  fmt::print("{}, {}: {}\n", shape.text(), arithmetic.name(), kernel);
  const AttentionTiming dense = timed(AttentionInput::dense), fused = timed(AttentionInput::fused);
  const AttentionFloor floor = attention_floor(shape, dtype, device);
  const AttentionError error = attention_error(shape, dtype, device, AttentionBackend::automatic);
  Json row{{"batch", shape.batch},          {"heads", shape.heads},       {"tokens", shape.tokens},
           {"width", shape.width},          {"dtype", arithmetic.name()}, {"kernel", kernel},
           {"peak_bytes", dense.peak_bytes}};
  row["forward"] = Row{dense.forward_ms, fused.forward_ms, floor.forward_ms, error.output}.json(shape, 1);
  row["backward"] = Row{dense.backward_ms, fused.backward_ms, floor.backward_ms, error.gradient}.json(shape, 2.5);
  print_row("forward", row["forward"]);
  print_row("backward", row["backward"]);
  return row;
}

/// Peak memory of a forward and backward pass beyond its inputs, one head of 64.
Json memory_table(const Arithmetic& arithmetic, Device device) {
  const Tf32Scope scope(arithmetic.tf32);
  const DType dtype = arithmetic.dtype;
  const int64_t limit = device.is_cuda() ? int64_t{16} << 30 : int64_t{2} << 30;  // of standard attention
  fmt::print("\nmemory of forward and backward beyond q, k, v and dy, {}, B1 H1 D64\n", arithmetic.name());
  fmt::print("{:>8} {:>14} {:>16}\n", "tokens", "flash", "standard");
  Json rows = Json::array();
  for (int64_t tokens = 1024; tokens <= 65536; tokens *= 2) {
    const AttentionShape shape{1, tokens, 1, 64};
    const auto peak = [&](AttentionBackend backend) {
      return time_attention(shape, dtype, device, backend, AttentionInput::dense, 0).peak_bytes;
    };
    const int64_t matrix = shape.scores() * size_in_bytes(dtype);
    const int64_t flash = peak(AttentionBackend::flash);
    const bool fits = 4 * matrix <= limit;
    const int64_t standard = fits ? peak(AttentionBackend::math) : 2 * matrix;
    fmt::print("{:>8} {:>14} {:>16}\n", tokens, format_bytes(flash),
               (fits ? "" : "at least ") + format_bytes(standard));
    rows.push_back(
        {{"tokens", tokens}, {"flash_bytes", flash}, {"standard_bytes", standard}, {"standard_measured", fits}});
  }
  return rows;
}

}  // namespace

Json run_attention_bench(const AttentionBenchOptions& options, Device device) {
  const std::vector<AttentionShape> shapes = shapes_of(options, device);
  const std::vector<Arithmetic> arithmetics = arithmetics_of(options, device);
  fmt::print(
      "attention on {}{}; kernel: q, k, v as three tensors; end to end: slices of [B, N, 3 H D] and their whole "
      "gradient\n",
      device.str(), device.is_cpu() ? fmt::format(", {} threads", num_threads()) : "");
  fmt::print("  {:<9} {:>12} {:>12} {:>9} {:>11} {:>11}\n", "", "kernel us", "end to end", "TFLOP/s", "% of floor",
             "max error");
  Json result{{"bench", "attention"}, {"device", device.str()}, {"rows", Json::array()}};
  for (const Arithmetic& one : arithmetics) {
    for (const AttentionShape& shape : shapes) result["rows"].push_back(measure(shape, one, device, options.seconds));
  }
  if (options.memory) {
    for (const Arithmetic& one : arithmetics) result["memory"][std::string(one.name())] = memory_table(one, device);
  }
  return result;
}

}  // namespace camo::app
