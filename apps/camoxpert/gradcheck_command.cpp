// camoxpert gradcheck: all registered gradients against central differences in double.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <map>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "core/error.h"
#include "nn/gradcheck.h"

namespace camo::app {

namespace {

struct GradcheckOptionsOfApp {
  CommonOptions common;
  std::string filter;
  bool verbose = false;
};

struct OpSummary {
  int cases = 0, failed = 0;
  double worst = 0;
};

void run_gradcheck(const GradcheckOptionsOfApp& options) {
  set_default_device(options.common.apply());  // the cases make their inputs there
  std::map<std::string, OpSummary> summaries;
  int failed = 0, cases = 0;
  for (const GradientCase& test : all_gradient_cases()) {
    if (test.op.find(options.filter) == std::string::npos) continue;
    const GradcheckResult result = gradcheck(test.fn, test.inputs(), test.options);
    OpSummary& summary = summaries[test.op];
    ++summary.cases;
    summary.worst = std::max(summary.worst, result.worst_error);
    ++cases;
    if (!result.ok) {
      ++summary.failed;
      ++failed;
      fmt::print("FAILED {} ({}): {}\n", test.op, test.variant, result.message);
    } else if (options.verbose) {
      fmt::print("ok     {} ({}): worst error {:.1e}\n", test.op, test.variant, result.worst_error);
    }
  }
  CAMO_CHECK_CODE(usage, cases > 0, "gradcheck: no operation matches '", options.filter,
                  "'; run without --filter to see their names");
  fmt::print("{:<28} {:>5} {:>7} {:>12}\n", "operation", "cases", "failed", "worst error");
  for (const auto& [op, summary] : summaries) {
    fmt::print("{:<28} {:>5} {:>7} {:>12.1e}\n", op, summary.cases, summary.failed, summary.worst);
  }
  fmt::print("{} operations, {} cases, {} failed\n", summaries.size(), cases, failed);
  CAMO_CHECK(failed == 0, "gradcheck: ", failed, " of ", cases, " gradients differ from central differences");
}

}  // namespace

Command add_gradcheck_command(CLI::App& app) {
  auto options = std::make_shared<GradcheckOptionsOfApp>();
  CLI::App* flags =
      app.add_subcommand("gradcheck", "Check all registered gradients against central differences in f64");
  options->common.add_to(*flags);
  flags->add_option("--filter", options->filter, "Only operations whose name contains this text");
  flags->add_flag("--verbose", options->verbose, "A line for every case");
  return {flags, [options] { run_gradcheck(*options); }};
}

}  // namespace camo::app
