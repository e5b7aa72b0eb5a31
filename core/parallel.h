// Loops over all cores.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/function_ref.h"

namespace camo {

/// Threads that parallel loops use (default: all cores this process may use).
int num_threads();
void set_num_threads(int count);

/// Calls body(begin, end) on disjoint ranges that cover [0, n), with at most one thread for each `grain` of n.
/// Inside another parallel loop, and inside a SerialScope, it runs on the calling thread. The first exception of a
/// body is rethrown. How the range is cut depends on the number of threads: bodies must not.
void parallel_for(int64_t n, int64_t grain, FunctionRef<void(int64_t begin, int64_t end)> body);

/// Calls body(index, begin, end) for each block [index * block, (index + 1) * block) of [0, n): the same blocks for
/// every number of threads, so that reductions over per-block results are reproducible.
inline void parallel_blocks(int64_t n, int64_t block,
                            FunctionRef<void(int64_t index, int64_t begin, int64_t end)> body) {
  parallel_for((n + block - 1) / block, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) body(i, i * block, std::min(n, (i + 1) * block));
  });
}

/// Keeps parallel loops of this thread on this thread, for worker threads that are themselves one of many.
class SerialScope {
 public:
  SerialScope();
  ~SerialScope();
  SerialScope(const SerialScope&) = delete;
  SerialScope& operator=(const SerialScope&) = delete;

 private:
  bool previous_;
};

}  // namespace camo
