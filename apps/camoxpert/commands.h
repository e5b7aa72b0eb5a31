// The subcommands. Each add_*_command() declares its flags and returns what to run once they are parsed.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace camo::app {

struct Command {
  CLI::App* flags = nullptr;
  std::function<void()> run;  // throws camo::Error
};

Command add_train_command(CLI::App& app);
Command add_evaluate_command(CLI::App& app);
Command add_predict_command(CLI::App& app);
Command add_verify_moe_command(CLI::App& app);
Command add_prepare_command(CLI::App& app);
Command add_check_data_command(CLI::App& app);
Command add_synth_command(CLI::App& app);
Command add_info_command(CLI::App& app);
Command add_gradcheck_command(CLI::App& app);
Command add_convert_command(CLI::App& app);
Command add_export_command(CLI::App& app);
Command add_bench_command(CLI::App& app);
Command add_verify_attention_command(CLI::App& app);

}  // namespace camo::app
