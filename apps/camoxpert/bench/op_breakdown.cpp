#include "apps/camoxpert/bench/op_breakdown.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace camo::app {

namespace {

std::string text_of(const OpTime& time) {
  return time.op + (time.is_backward ? ", backward" : "") + (time.shapes.empty() ? "" : " of " + time.shapes);
}

}  // namespace

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
    if (by_op.size() < 2 * static_cast<size_t>(rows)) print_row(name, sum);
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

}  // namespace camo::app
