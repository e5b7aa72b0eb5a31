#include "core/atomic_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/file_calls.h"
#include "core/safetensors.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

namespace fs = std::filesystem;
using ::testing::AnyOf;
using ::testing::HasSubstr;

/// Lets the n-th call fail with `reason`, or the disk be full after some bytes.
struct Plan {
  int fail_at = -1;  // counted over all calls, from 0
  int reason = EIO;
  int64_t disk_bytes = -1;
  int calls = 0;
  std::vector<std::string> made = {};
};
Plan plan;
FileCalls original;

bool fails(const char* name) {
  plan.made.emplace_back(name);
  if (plan.calls++ != plan.fail_at) return false;
  errno = plan.reason;
  return true;
}

class AtomicFileFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    plan = {};
    original = file_calls();
    file_calls() = {
        .open = [](const char* path, int flags,
                   mode_t mode) { return fails("open") ? -1 : original.open(path, flags, mode); },
        .write = [](int descriptor, const void* data, size_t bytes) -> ssize_t {
          if (fails("write")) return -1;
          if (plan.disk_bytes >= 0) {
            if (plan.disk_bytes == 0) {
              errno = ENOSPC;
              return -1;
            }
            bytes = std::min(bytes, static_cast<size_t>(plan.disk_bytes));  // what still fits is written
            plan.disk_bytes -= static_cast<int64_t>(bytes);
          }
          return original.write(descriptor, data, bytes);
        },
        .fsync = [](int descriptor) { return fails("fsync") ? -1 : original.fsync(descriptor); },
        .close =
            [](int descriptor) {
              const int closed = original.close(descriptor);  // the descriptor is gone even when close fails
              return fails("close") ? -1 : closed;
            },
        .rename = [](const char* from, const char* to) { return fails("rename") ? -1 : original.rename(from, to); },
    };
  }
  void TearDown() override { file_calls() = original; }

  fs::path path() const { return folder_.path() / "state.safetensors"; }
  std::string bytes() const {
    std::ostringstream text;
    text << std::ifstream(path(), std::ios::binary).rdbuf();
    return text.str();
  }
  size_t files() const { return static_cast<size_t>(std::distance(fs::directory_iterator(folder_.path()), {})); }

  static SafeTensors content(double value) {
    SafeTensors file;
    for (const char* name : {"a", "b", "c"}) file.tensors.emplace_back(name, full({100, 10}, value, f32, cpu));
    return file;
  }

  test::TemporaryFolder folder_;
};

TEST_F(AtomicFileFaults, EveryCallMayFail) {
  write_safetensors(path(), content(1));
  const std::string old = bytes();
  const int calls = plan.calls;
  const std::vector<std::string> made = plan.made;
  EXPECT_GE(calls, 10) << "open, header, three tensors, fsync, close, rename, and open, fsync, close of the folder";
  for (const int reason : {EIO, ENOSPC, EACCES}) {
    for (int call = 0; call < calls; ++call) {
      plan = {.fail_at = call, .reason = reason};
      std::string message;
      try {
        write_safetensors(path(), content(2));
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::checkpoint);
        message = error.what();
      }
      const bool renamed = call > 0 && std::find(made.begin(), made.begin() + call, "rename") != made.begin() + call;
      if (!renamed) {
        EXPECT_THAT(message, HasSubstr(path().string() + ": cannot ")) << made[static_cast<size_t>(call)];
        EXPECT_THAT(message, HasSubstr("the file was not changed"));
        EXPECT_EQ(bytes(), old) << made[static_cast<size_t>(call)] << " " << call;
      } else {  // only the sync of the folder matters then, and the file is whole and new
        EXPECT_EQ(read_safetensors(path()).at("c").to_vector<float>(), std::vector<float>(1000, 2.0f));
        if (made[static_cast<size_t>(call)] == "fsync") {
          EXPECT_THAT(message, HasSubstr("cannot sync its folder"));
        }
        plan = {};
        write_safetensors(path(), content(1));
      }
      EXPECT_EQ(files(), 1u) << "no temporary file stays";
    }
  }
}

TEST_F(AtomicFileFaults, FullDisk) {
  write_safetensors(path(), content(1));
  const std::string old = bytes();
  const auto whole = static_cast<int64_t>(old.size());
  for (const int64_t left : {int64_t{0}, int64_t{1}, int64_t{8}, int64_t{100}, whole / 2, whole - 1}) {
    plan = {.disk_bytes = left};
    EXPECT_ERROR(write_safetensors(path(), content(2)), "cannot write: No space left on device");
    EXPECT_EQ(bytes(), old);
    EXPECT_EQ(files(), 1u);
  }
  plan = {.disk_bytes = whole};
  write_safetensors(path(), content(2));
  EXPECT_NE(bytes(), old);
}

TEST_F(AtomicFileFaults, InterruptedWritesGoOn) {
  plan = {.fail_at = 2, .reason = EINTR};
  write_safetensors(path(), content(3));
  EXPECT_EQ(read_safetensors(path()).at("a").to_vector<float>(), std::vector<float>(1000, 3.0f));
}

TEST_F(AtomicFileFaults, FoldersThatCannotBeSynced) {
  plan = {.fail_at = 9, .reason = EINVAL};  // open, 4 writes, fsync, close, rename, open, fsync
  write_safetensors(path(), content(3));
  EXPECT_EQ(plan.made[9], "fsync");
}

TEST(AtomicFile, LinksStayLinks) {
  const test::TemporaryFolder folder;
  fs::create_directory(folder.path() / "elsewhere");
  const fs::path target = folder.path() / "elsewhere" / "scores.json", link = folder.path() / "link.json";
  write_file_atomically(target, "old");
  fs::create_symlink("elsewhere/scores.json", link);
  write_file_atomically(link, "new");
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(fs::file_size(target), 3u);
  std::string text;
  std::ifstream(target) >> text;
  EXPECT_EQ(text, "new");
}

TEST(AtomicFile, DevicesAndPipesAreWrittenToAndStay) {
  const test::TemporaryFolder folder;
  const fs::path pipe = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  write_file_atomically(pipe, "text");
  char got[8] = {};
  EXPECT_EQ(::read(reader, got, sizeof(got)), 4);
  EXPECT_STREQ(got, "text");
  ::close(reader);
  EXPECT_TRUE(fs::is_fifo(pipe));
  fs::create_symlink("/dev/full", folder.path() / "full");
  EXPECT_ERROR(write_file_atomically(folder.path() / "full", "text"), "full: cannot write: No space left on device");
}

TEST(AtomicFile, LongNames) {
  const test::TemporaryFolder folder;
  const fs::path path = folder.path() / std::string(255, 'n');
  write_file_atomically(path, "text");
  EXPECT_TRUE(fs::exists(path));
}

}  // namespace
}  // namespace camo
