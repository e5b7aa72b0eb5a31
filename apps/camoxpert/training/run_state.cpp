#include "apps/camoxpert/training/run_state.h"

#include <fmt/core.h>

#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "apps/camoxpert/json_text.h"
#include "core/error.h"

namespace camo {

// Found by the JSON library through the type's namespace.
static void to_json(nlohmann::json& j, const RandomKey& key) { j = {key.seed, key.stream}; }
static void from_json(const nlohmann::json& j, RandomKey& key) {
  j.at(0).get_to(key.seed);
  j.at(1).get_to(key.stream);
}

namespace app {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunState, stage, epoch, batch, step, stage_step, validated_step, random,
                                   epoch_losses, expert_counts, best, untrained_score, validations_without_gain,
                                   skipped_steps, rollbacks, images, seconds, training_seconds, history,
                                   data_fingerprint, config, scaler)

std::string to_text(const RunState& state) { return json_text(state); }

/// The JSON library cuts fractions off where a whole number is wanted, and has no defined result for large ones.
static void require_whole_numbers(const nlohmann::json& value, const std::string& name, const std::string& source) {
  static const std::set<std::string> kReal{"value", "untrained_score", "seconds", "training_seconds", "history", "sums",
                                           "scale"};
  if (kReal.contains(name)) return;
  CAMO_CHECK_CODE(checkpoint, !value.is_number_float(), source, ": the state of the run can't be read: '", name,
                  "' must be a whole number; got ", value.dump());
  if (!value.is_structured()) return;
  for (const auto& [key, item] : value.items()) require_whole_numbers(item, value.is_object() ? key : name, source);
}

RunState run_state_from_text(const std::string& text, const std::string& source) {
  try {
    const nlohmann::json state = nlohmann::json::parse(text);
    require_whole_numbers(state, "state", source);
    return state.get<RunState>();
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::checkpoint, source, ": the state of the run can't be read: ", error.what());
  }
}

namespace {

std::map<std::string, std::string> settings(const std::string& config) {
  std::map<std::string, std::string> found;
  std::istringstream lines(config);
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find('=');
    if (equals != std::string::npos) found[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return found;
}

/// Whether two values of a flag say the same: 1e-3 and 0.001 do.
bool same_value(const std::string& a, const std::string& b) {
  const auto number = [](const std::string& text) -> std::optional<double> {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
  };
  return a == b || (number(a) && number(a) == number(b));
}

}  // namespace

std::vector<std::string> compare_configs(const std::string& stored, const std::string& current) {
  static const std::set<std::string> kFixed{
      "backbone", "num-experts", "attention-heads", "deep-supervision", "batch-size", "accumulation-steps",
      "seed",     "use-ema",     "max-steps",       "stage1-epochs",    "epochs",     "best-by"};
  // What changes no number, or is compared by what it means.
  static const std::set<std::string> kFree{"dataset-path",
                                           "checkpoint-dir",
                                           "resume",
                                           "overwrite",
                                           "num-workers",
                                           "threads",
                                           "cache-mb",
                                           "save-every",
                                           "max-time",
                                           "on-bad-image",
                                           "on-nan",
                                           "expert-report-every",
                                           "device",
                                           "patience",
                                           "pretrained",
                                           "partial",
                                           "gradient-checkpointing",
                                           "cuda-graphs"};
  const auto before = settings(stored), now = settings(current);
  std::vector<std::string> warnings;
  for (const auto& [flag, value] : now) {
    const auto found = before.find(flag);
    if (kFree.contains(flag) || found == before.end() || same_value(found->second, value)) continue;
    CAMO_CHECK_CODE(usage, !kFixed.contains(flag), "--resume: --", flag, " must be that of the stopped run, ",
                    found->second, "; got ", value, "; give the same value, or start a new run");
    warnings.push_back(
        fmt::format("warning: --{} is {} now, and was {} before: the run will not be the one without a stop", flag,
                    value, found->second));
  }
  return warnings;
}

nlohmann::json scaler_to_json(const GradScaler& scaler) {
  const GradScaler::State& state = scaler.state();
  return {{"scale", state.scale}, {"good_steps", state.good_steps}, {"skipped", state.skipped}};
}

void load_scaler(GradScaler& scaler, const nlohmann::json& stored) {
  try {
    scaler.load_state({.scale = stored.at("scale").get<double>(),
                       .good_steps = stored.at("good_steps").get<int64_t>(),
                       .skipped = stored.at("skipped").get<int64_t>()});
  } catch (const nlohmann::json::exception& error) {
    fail(ErrorCode::checkpoint, "train: the state of the gradient scaler can't be read: ", error.what());
  }
}

}  // namespace app
}  // namespace camo
