// Runs the program as a user would.
#pragma once

#include <string>

namespace camo::test {

struct ProgramResult {
  int exit_code = -1;
  std::string output;  // standard output and standard error
};

/// `camoxpert ARGUMENTS` through the shell, `environment` in front ("CAMO_LR=1").
ProgramResult run_camoxpert(const std::string& arguments, const std::string& environment = {});

}  // namespace camo::test
