#include "apps/camoxpert/bench/peer_file.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace camo::app {

namespace {

PeerLine parse_line(const std::string& text) {
  const nlohmann::json row = nlohmann::json::parse(text);
  const PeerLine line{.peer = row.at("peer").get<std::string>(),
                      .device = row.at("device").get<std::string>(),
                      .backbone = row.at("backbone").get<std::string>(),
                      .dtype = row.at("dtype").get<std::string>(),
                      .batch = row.at("batch").get<int64_t>(),
                      .size = row.at("size").get<int64_t>(),
                      .inputs = row.value("inputs", int64_t{1}),
                      .train_ms = row.at("train_ms").get<double>(),
                      .infer_ms = row.at("infer_ms").get<double>(),
                      .peak_gib = row.at("peak_GiB").get<double>()};
  CAMO_CHECK_CODE(data, line.train_ms > 0 && line.infer_ms > 0, "times must be above 0; got train_ms ", line.train_ms,
                  " and infer_ms ", line.infer_ms);
  return line;
}

}  // namespace

PeerFile::PeerFile(const std::string& path) {
  std::ifstream file(path);
  CAMO_CHECK_CODE(data, file.good(), "--peer: can't read ", path, "; write it with scripts/camoxpert_torch.py bench > ",
                  path);
  std::string text;
  for (int64_t number = 1; std::getline(file, text); ++number) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      lines_.push_back(parse_line(text));
    } catch (const std::exception& error) {
      fail(ErrorCode::data, "--peer: ", path, ", line ", number,
           ": must be a JSON object as scripts/camoxpert_torch.py bench prints it; got ", text.substr(0, 60), ": ",
           error.what());
    }
  }
  CAMO_CHECK_CODE(data, !lines_.empty(), "--peer: ", path, " must have a line at least; got none");
}

std::optional<double> PeerFile::best(const Configuration& wanted, double PeerLine::*value, bool groups_change) const {
  std::optional<double> best;
  for (const PeerLine& line : lines_) {
    const bool fits = line.device == wanted.device && line.backbone == wanted.backbone && line.dtype == wanted.dtype &&
                      line.batch == wanted.batch && line.size == wanted.size && (!groups_change || line.inputs > 1);
    if (fits && line.*value > 0) best = std::min(best.value_or(line.*value), line.*value);
  }
  return best;
}

}  // namespace camo::app
