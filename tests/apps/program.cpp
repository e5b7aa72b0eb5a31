#include "tests/apps/program.h"

#include <sys/wait.h>

#include <array>
#include <cstdio>

namespace camo::test {

ProgramResult run_camoxpert(const std::string& arguments, const std::string& environment) {
  const std::string command = environment + " '" + CAMOXPERT_BINARY + "' " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  ProgramResult result;
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  while (fgets(buffer.data(), buffer.size(), pipe) != nullptr) result.output += buffer.data();
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

}  // namespace camo::test
