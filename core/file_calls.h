// The system calls of AtomicFile, in a table so that tests can make each of them fail.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace camo {

struct FileCalls {
  int (*open)(const char* path, int flags, mode_t mode);
  ssize_t (*write)(int descriptor, const void* data, size_t bytes);
  int (*fsync)(int descriptor);
  int (*close)(int descriptor);
  int (*rename)(const char* from, const char* to);
};

/// The calls in use: the system's, unless a test replaced some.
FileCalls& file_calls();

}  // namespace camo
