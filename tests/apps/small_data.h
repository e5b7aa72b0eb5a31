// A small data set and a small network, made once for the tests of several commands.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "tests/apps/program.h"
#include "tests/support/test_support.h"

namespace camo::test {

/// data/ has Train and Test with 8 and 5 pairs of 64 x 64 pixels, net.safetensors an untrained network for 64 pixels.
class SmallData {
 public:
  SmallData();
  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  std::string data() const { return path("data"); }
  std::string checkpoint() const { return path("net.safetensors"); }
  /// A copy of the data set to change.
  std::filesystem::path copy_of_data(const std::string& name) const;

 private:
  TemporaryFolder folder_;
};
const SmallData& small_data();

/// The command fails with this exit code and says this.
void expect_failure(const std::string& arguments, int exit_code, const std::string& text,
                    const std::string& environment = {});
/// The command succeeds; its output.
std::string expect_success(const std::string& arguments);

std::string read_text(const std::filesystem::path& path);

/// Damages pairs below folder/Imgs and folder/GT in twelve ways, one each, and gives other pairs forms that are unusual
/// but fine. There must be 18 pairs at least.
struct DamagedFolder {
  std::map<std::string, std::string> bad;  // stems of the pairs that can't be used: what is said about them
  std::set<std::string> bad_images;        // those of them whose picture can't be read or is missing
  std::set<std::string> bad_masks;         // those whose mask can't be read
  std::set<std::string> unusual;           // stems of pairs that can be used
};
DamagedFolder damage(const std::filesystem::path& folder);

}  // namespace camo::test
