// Scores as files for other programs and for papers.
#pragma once

#include <string>

#include "apps/camoxpert/evaluation.h"

namespace camo::app {

/// {"dataset": {mae, sm, wfm, ...}, "per_image": [{name, mae, ...}], "sets": {LABEL: {...}}, "left_out": [...],
/// "expert_usage": [[...]]}; the last three only where there are any.
std::string to_json(const EvaluationResult& result);

/// A line of titles and one per picture. Names with commas or quotes are quoted.
std::string to_csv(const EvaluationResult& result);

/// A tabular with the columns that papers on camouflaged objects print, one row per data set. Needs booktabs.
std::string to_latex(const EvaluationResult& result, const std::string& method, const std::string& dataset);

}  // namespace camo::app
