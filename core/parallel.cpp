#include "core/parallel.h"

#include <omp.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"

namespace camo {

namespace {

std::atomic<int> requested_threads{0};  // 0: the default
thread_local bool serial = false;

/// Keeps the first exception of a loop's bodies until the loop has ended.
class FirstException {
 public:
  void run(FunctionRef<void()> body) noexcept {
    try {
      body();
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!exception_) exception_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (exception_) std::rethrow_exception(exception_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr exception_;
};

/// Runs task(0) .. task(count - 1), each on a thread of its own.
void run_on_threads(int count, FunctionRef<void(int)> task) {
#if defined(__SANITIZE_THREAD__)
  // The barriers of libgomp are invisible to ThreadSanitizer, so that build starts plain threads.
  std::vector<std::thread> threads;
  for (int i = 1; i < count; ++i) threads.emplace_back([&task, i] { task(i); });
  task(0);
  for (std::thread& thread : threads) thread.join();
#else
#pragma omp parallel for num_threads(count) schedule(static, 1)
  for (int i = 0; i < count; ++i) task(i);
#endif
}

}  // namespace

int num_threads() {
  const int requested = requested_threads.load(std::memory_order_relaxed);
  return requested > 0 ? requested : omp_get_max_threads();
}

void set_num_threads(int count) {
  CAMO_CHECK_CODE(usage, count >= 1, "threads: must be at least 1; got ", count);
  requested_threads = count;
  omp_set_num_threads(count);  // for libraries that use OpenMP themselves
}

void parallel_for(int64_t n, int64_t grain, FunctionRef<void(int64_t, int64_t)> body) {
  if (n <= 0) return;
  const int64_t useful = std::max<int64_t>(1, n / std::max<int64_t>(grain, 1));
  const int threads = serial ? 1 : static_cast<int>(std::min<int64_t>(useful, num_threads()));
  if (threads == 1) return body(0, n);
  FirstException first;
  run_on_threads(threads, [&](int i) {
    SerialScope nested;
    first.run([&] { body(n * i / threads, n * (i + 1) / threads); });
  });
  first.rethrow();
}

SerialScope::SerialScope() : previous_(serial) { serial = true; }
SerialScope::~SerialScope() { serial = previous_; }

}  // namespace camo
