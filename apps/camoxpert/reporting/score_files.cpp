#include "apps/camoxpert/reporting/score_files.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "apps/camoxpert/json_text.h"

namespace camo::app {

namespace {

nlohmann::ordered_json object(const SegmentationScores& scores) {
  nlohmann::ordered_json row;
  for (const ScoreField& field : kScoreFields) row[field.name] = scores.*field.value;
  return row;
}

std::string quoted(const std::string& name) {
  if (name.find_first_of(",\"\n") == std::string::npos) return name;
  std::string text = "\"";
  for (const char c : name) text.append(c == '"' ? 2 : 1, c);
  return text + '"';
}

std::string latex_text(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (std::string_view("_&%$#{}").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace

std::string to_json(const EvaluationResult& result) {
  nlohmann::ordered_json file;
  file["dataset"] = object(result.mean);
  file["dataset"]["everything_iou"] = result.everything_iou;
  file["dataset"]["pictures"] = result.per_image.size();
  for (const auto& [label, scores] : result.sets) file["sets"][label] = object(scores);
  if (!result.left_out.empty()) file["left_out"] = result.left_out;
  if (!result.usage.front().empty()) file["expert_usage"] = result.usage;
  file["per_image"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < result.per_image.size(); ++i) {
    nlohmann::ordered_json row{{"name", result.names[i]}};
    row.update(object(result.per_image[i]));
    file["per_image"].push_back(row);
  }
  return json_text(file, 1) + "\n";
}

std::string to_csv(const EvaluationResult& result) {
  std::string text = "name";
  for (const ScoreField& field : kScoreFields) text += fmt::format(",{}", field.name);
  text += '\n';
  for (size_t i = 0; i < result.per_image.size(); ++i) {
    text += quoted(result.names[i]);
    for (const ScoreField& field : kScoreFields) text += fmt::format(",{:.17g}", result.per_image[i].*field.value);
    text += '\n';
  }
  return text;
}

std::string to_latex(const EvaluationResult& result, const std::string& method, const std::string& dataset) {
  std::string text =
      "\\begin{tabular}{llccccccc}\n\\toprule\n"
      "Method & Data & $S_\\alpha\\uparrow$ & $F_\\beta^w\\uparrow$ & $F_\\beta^{m}\\uparrow$ & "
      "$E_\\phi^{m}\\uparrow$ & $E_\\phi^{x}\\uparrow$ & $\\mathcal{M}\\downarrow$ & IoU$\\uparrow$ \\\\\n\\midrule\n";
  const auto row = [&](const std::string& name, const SegmentationScores& s) {
    text +=
        fmt::format("{} & {} & {:.3f} & {:.3f} & {:.3f} & {:.3f} & {:.3f} & {:.3f} & {:.3f} \\\\\n", latex_text(method),
                    latex_text(name), s.sm, s.wfm, s.mean_fm, s.mean_em, s.max_em, s.mae, s.iou);
  };
  for (const auto& [label, scores] : result.sets) row(label, scores);
  row(result.sets.empty() ? dataset : "all", result.mean);
  return text + "\\bottomrule\n\\end{tabular}\n";
}

}  // namespace camo::app
