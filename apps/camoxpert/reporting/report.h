// The report of an evaluation: one HTML page that needs nothing else.
#pragma once

#include <string>
#include <vector>

#include "apps/camoxpert/evaluation.h"

namespace camo::app {

/// What was evaluated, to show some of it again: a network and samples, or files.
struct ReportSource {
  CamoXpert* network = nullptr;
  std::vector<Sample> samples;        // with a network
  std::vector<PredictionFile> files;  // without
  EvaluationOptions settings = {};
};

struct ReportTitle {
  std::string subject, dataset;
};

/// Summary, curves, distribution, expert usage, the worst and best pictures by S-measure (picture, mask, prediction and
/// error map as data URIs), and a table of all pictures that sorts by any column.
std::string make_report(const EvaluationResult& result, const ReportSource& source, const ReportTitle& title);

}  // namespace camo::app
