#include "apps/camoxpert/reporting/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "apps/camoxpert/reporting/chart.h"
#include "apps/camoxpert/reporting/page.h"
#include "data/codecs.h"
#include "data/contact_sheet.h"
#include "data/resize_image.h"
#include "models/camoxpert/experts.h"

namespace camo::app {

namespace {

constexpr size_t kWorst = 8, kBest = 4;
constexpr int kPanelSide = 280, kPanelQuality = 82;

std::string base64(const std::string& bytes) {
  constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) text += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

std::string picture(const Image& image, const char* what) {
  const double scale = std::min(1.0, static_cast<double>(kPanelSide) / std::max(image.width, image.height));
  const Image small = resize_bilinear(image, std::max(1, static_cast<int>(std::lround(image.width * scale))),
                                      std::max(1, static_cast<int>(std::lround(image.height * scale))));
  return fmt::format("<img alt=\"{}\" src=\"data:image/jpeg;base64,{}\">", what,
                     base64(detail::encode_jpeg_bytes(small, kPanelQuality, false)));
}

std::string tiles(const SegmentationScores& scores) {
  std::string html = "<div class=\"tiles\">";
  for (size_t i = 0; i < kScoreFields.size(); ++i) {
    const ScoreField& field = kScoreFields[i];
    html += fmt::format("<div class=\"tile{}\"><b>{:.4f}</b><span>{}</span></div>", i < 3 ? " main" : "",
                        scores.*field.value, field.title);
  }
  return html + "</div>";
}

std::string sets_table(const EvaluationResult& result) {
  std::string html = "<h2>Data sets</h2><div class=\"wide\"><table><thead><tr><th>data set</th>";
  for (const ScoreField& field : kScoreFields) html += fmt::format("<th>{}</th>", field.title);
  html += "</tr></thead><tbody>";
  for (const auto& [label, scores] : result.sets) {
    html += fmt::format("<tr><td>{}</td>", escape_html(label));
    for (const ScoreField& field : kScoreFields) html += fmt::format("<td>{:.4f}</td>", scores.*field.value);
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

std::string charts(const EvaluationResult& result) {
  ChartLine roc{"", {}}, f{"F-measure", {}}, e{"E-measure", {}};
  for (size_t t = 0; t < 256; ++t) {
    roc.points.emplace_back(result.curves.recall[t], result.curves.precision[t]);
    f.points.emplace_back(t, result.curves.f[t]);
    e.points.emplace_back(t, result.curves.e[t]);
  }
  std::vector<double> pictures(20);
  for (const SegmentationScores& scores : result.per_image)
    ++pictures[static_cast<size_t>(std::clamp(scores.sm, 0.0, 0.999) * static_cast<double>(pictures.size()))];
  return "<h2>Curves</h2><div class=\"charts\">" +
         line_chart({.title = "Precision and recall", .x_label = "recall", .y_label = "precision"}, {roc}) +
         line_chart({.title = "By threshold", .x_label = "threshold", .y_label = "score", .x_end = 255}, {f, e}) +
         bar_chart({.title = "Pictures by S-measure", .x_label = "S-measure", .y_label = "pictures"}, pictures) +
         "</div>";
}

std::string usage_table(const ExpertUsage& usage) {
  std::string html =
      "<h2>Expert usage</h2><p class=\"key\">Share of all choices of a stage.</p><div class=\"wide\"><table><thead><tr>"
      "<th>stage</th>";
  for (size_t e = 0; e < usage.front().size(); ++e)
    html += fmt::format("<th>{} {}</th>", e, kExpertNames[e % kExpertNames.size()]);
  html += "</tr></thead><tbody>";
  for (size_t stage = 0; stage < usage.size(); ++stage) {
    const auto choices = std::max<int64_t>(1, std::accumulate(usage[stage].begin(), usage[stage].end(), int64_t{0}));
    html += fmt::format("<tr><td>{}</td>", stage + 1);
    for (const int64_t count : usage[stage]) {
      html += fmt::format("<td class=\"share\" style=\"--part: {0:.1f}%\">{0:.1f} %</td>",
                          100.0 * static_cast<double>(count) / static_cast<double>(choices));
    }
    html += "</tr>";
  }
  return html + "</tbody></table></div>";
}

/// Picture (where there is one), mask, prediction and error map of one row of the result.
std::string figure(const EvaluationResult& result, const ReportSource& source, size_t row) {
  const size_t number = result.numbers[row];
  LoadedSample sample;
  Image prediction;
  if (source.network) {
    sample = load_sample(source.samples[number]);
    prediction = Predictor(*source.network, source.settings.img_size, source.settings.augmentation,
                           source.settings.autocast)({&sample.image})
                     .front()
                     .to_image();
  } else {
    const PredictionFile& file = source.files[number];
    if (!file.image.empty()) sample.image = decode_image(file.image, 3);
    sample.mask = decode_image(file.mask, 1);
    prediction = resize_bilinear(decode_image(file.prediction, 1), sample.mask.width, sample.mask.height);
  }
  const SegmentationScores& scores = result.per_image[row];
  std::string html = fmt::format(
      "<figure><figcaption><b>{}</b> &nbsp; S {:.3f} &nbsp; weighted F {:.3f} &nbsp; MAE {:.3f} &nbsp; IoU {:.3f}"
      "</figcaption><div class=\"panels\">",
      escape_html(result.names[row]), scores.sm, scores.wfm, scores.mae, scores.iou);
  if (!sample.image.pixels.empty()) html += picture(sample.image, "picture");
  html += picture(sample.mask, "mask") + picture(prediction, "prediction") +
          picture(error_map(prediction, sample.mask), "errors");
  return html + "</div></figure>";
}

std::string figures(const EvaluationResult& result, const ReportSource& source) {
  std::vector<size_t> order(result.per_image.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return result.per_image[a].sm < result.per_image[b].sm; });
  const size_t worst = std::min(kWorst, order.size()), best = std::min(kBest, order.size() - worst);
  std::string html =
      "<h2>Worst pictures</h2><p class=\"key\">By S-measure: picture, mask, prediction, errors"
      "<i style=\"background: #fff\"></i>found<i style=\"background: #ff0000\"></i>false alarm"
      "<i style=\"background: #005aff\"></i>missed</p>";
  for (size_t i = 0; i < worst; ++i) html += figure(result, source, order[i]);
  if (best > 0) html += "<h2>Best pictures</h2>";
  for (size_t i = 0; i < best; ++i) html += figure(result, source, order[order.size() - 1 - i]);
  return html;
}

std::string pictures_table(const EvaluationResult& result) {
  std::string html = "<h2>All pictures</h2><div class=\"tall\"><table id=\"pictures\"><thead><tr><th>name</th>";
  for (const ScoreField& field : kScoreFields) html += fmt::format("<th>{}</th>", field.title);
  html += "</tr></thead><tbody>\n";
  for (size_t i = 0; i < result.per_image.size(); ++i) {
    html += fmt::format("<tr><td>{}</td>", escape_html(result.names[i]));
    for (const ScoreField& field : kScoreFields)
      html += fmt::format("<td>{:.4f}</td>", result.per_image[i].*field.value);
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>";
}

}  // namespace

std::string make_report(const EvaluationResult& result, const ReportSource& source, const ReportTitle& title) {
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\"><title>CamoXpert on {0}</title><style>{1}</style></head><body>"
      "<h1>CamoXpert on {0}</h1><p class=\"about\">{2} pictures; {3}. Answering 'everything' would have IoU "
      "{4:.4f}.</p>",
      escape_html(title.dataset), kPageStyle, result.per_image.size(), escape_html(title.subject),
      result.everything_iou);
  html += tiles(result.mean);
  if (!result.left_out.empty()) {
    html += fmt::format("<h2>{} pictures left out</h2><ul class=\"left\">", result.left_out.size());
    for (const std::string& message : result.left_out) html += "<li>" + escape_html(message) + "</li>";
    html += "</ul>";
  }
  if (!result.sets.empty()) html += sets_table(result);
  html += charts(result);
  if (!result.usage.front().empty()) html += usage_table(result.usage);
  html += figures(result, source) + pictures_table(result);
  return html + fmt::format("<script>{}</script></body></html>\n", kSortScript);
}

}  // namespace camo::app
