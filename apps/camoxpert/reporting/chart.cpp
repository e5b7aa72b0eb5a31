#include "apps/camoxpert/reporting/chart.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace camo::app {

namespace {

constexpr double kWidth = 380, kHeight = 260, kLeft = 46, kRight = 12, kTop = 28, kBottom = 40;
constexpr int kTicks = 5;

double across(const ChartSpec& spec, double x) { return kLeft + (kWidth - kLeft - kRight) * x / spec.x_end; }
double down(const ChartSpec& spec, double y) {
  return kHeight - kBottom - (kHeight - kTop - kBottom) * std::min(y, spec.y_end) / spec.y_end;
}

/// Title, grid, numbers and labels.
std::string frame(const ChartSpec& spec) {
  std::string svg = fmt::format(
      "<svg viewBox=\"0 0 {0} {1}\" role=\"img\" aria-label=\"{2}\"><text class=\"title\" x=\"{3}\" "
      "y=\"16\">{2}</text>",
      kWidth, kHeight, escape_html(spec.title), kLeft);
  for (int i = 0; i <= kTicks; ++i) {
    const double x = spec.x_end * i / kTicks, y = spec.y_end * i / kTicks;
    svg += fmt::format("<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>", across(spec, x),
                       kTop, kHeight - kBottom);
    svg += fmt::format("<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>", kLeft,
                       kWidth - kRight, down(spec, y));
    svg += fmt::format("<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{}\">{:.4g}</text>",
                       across(spec, x), kHeight - kBottom + 14, x);
    svg += fmt::format("<text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1f}\">{:.4g}</text>", kLeft - 5,
                       down(spec, y) + 3.5, y);
  }
  svg += fmt::format("<text class=\"label\" text-anchor=\"middle\" x=\"{:.1f}\" y=\"{}\">{}</text>",
                     (kLeft + kWidth - kRight) / 2, kHeight - 8, escape_html(spec.x_label));
  return svg +
         fmt::format(
             "<text class=\"label\" text-anchor=\"middle\" transform=\"translate(12 {:.1f}) rotate(-90)\">{}</text>",
             (kTop + kHeight - kBottom) / 2, escape_html(spec.y_label));
}

}  // namespace

std::string escape_html(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '<': escaped += "&lt;"; break;
      case '>': escaped += "&gt;"; break;
      case '&': escaped += "&amp;"; break;
      case '"': escaped += "&quot;"; break;
      case '\'': escaped += "&#39;"; break;
      default: escaped += c;
    }
  }
  return escaped;
}

std::string line_chart(const ChartSpec& spec, const std::vector<ChartLine>& lines) {
  std::string svg = frame(spec);
  for (size_t i = 0; i < lines.size(); ++i) {
    svg += fmt::format("<polyline class=\"line{}\" points=\"", i);
    for (const auto& [x, y] : lines[i].points) svg += fmt::format("{:.1f},{:.1f} ", across(spec, x), down(spec, y));
    svg += "\"/>";
    if (lines.size() == 1) continue;
    const double y = kTop + 14 + 15 * static_cast<double>(i);
    svg += fmt::format("<line class=\"line{0}\" x1=\"{1}\" x2=\"{2}\" y1=\"{3}\" y2=\"{3}\"/>", i, kWidth - 118,
                       kWidth - 98, y);
    svg += fmt::format("<text class=\"tick\" x=\"{}\" y=\"{}\">{}</text>", kWidth - 93, y + 3.5,
                       escape_html(lines[i].name));
  }
  return svg + "</svg>";
}

std::string bar_chart(const ChartSpec& spec, const std::vector<double>& values) {
  ChartSpec scaled = spec;
  const double most = std::max(1.0, values.empty() ? 1.0 : *std::max_element(values.begin(), values.end()));
  scaled.y_end = std::ceil(most / kTicks) * kTicks;
  std::string svg = frame(scaled);
  const double width = spec.x_end / static_cast<double>(std::max<size_t>(1, values.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    const double left = across(scaled, width * static_cast<double>(i)),
                 right = across(scaled, width * static_cast<double>(i + 1));
    const double top = down(scaled, values[i]);
    svg += fmt::format("<rect class=\"bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>", left + 0.5,
                       top, right - left - 1, kHeight - kBottom - top);
  }
  return svg + "</svg>";
}

}  // namespace camo::app
