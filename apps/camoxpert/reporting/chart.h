// Charts as inline SVG.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace camo::app {

struct ChartLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // within the chart's ranges
};

struct ChartSpec {
  std::string title, x_label, y_label;
  double x_end = 1, y_end = 1;  // both axes begin at 0
};

/// Lines with a legend.
std::string line_chart(const ChartSpec& spec, const std::vector<ChartLine>& lines);

/// One bar per value over equal parts of [0, x_end]; y_end is taken from the values.
std::string bar_chart(const ChartSpec& spec, const std::vector<double>& values);

/// <, >, & and quotes as entities.
std::string escape_html(const std::string& text);

}  // namespace camo::app
