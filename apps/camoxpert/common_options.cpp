#include "apps/camoxpert/common_options.h"

#include "core/error.h"
#include "core/parallel.h"

namespace camo::app {

void CommonOptions::add_to(CLI::App& command) {
  command.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command.add_option("--threads", threads, "CPU threads; 0 uses all cores")->capture_default_str();
}

Device CommonOptions::apply() const {
  CAMO_CHECK_CODE(usage, threads >= 0, "--threads: must not be negative; got ", threads);
  if (threads > 0) set_num_threads(threads);
  return parse_device(device);
}

}  // namespace camo::app
