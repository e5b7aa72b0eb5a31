#include "core/cpu_allocator.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace camo::detail {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

#ifdef __SANITIZE_ADDRESS__
constexpr bool kReuses = false;
#else
constexpr bool kReuses = true;
#endif

bool is_filled(const void* block, int64_t bytes, int value) {
  const auto* data = static_cast<const unsigned char*>(block);
  for (int64_t i = 0; i < bytes; ++i) {
    if (data[i] != value) return false;
  }
  return true;
}

TEST(CpuAllocator, LargeBlocksAreCutFromFreeMemoryAndMergedAgain) {
  if (!kReuses) GTEST_SKIP() << "nothing is kept under AddressSanitizer";
  release_cached_cpu();
  const int64_t cached = cpu_memory_stats().cached_bytes, live = cpu_memory_stats().live_bytes;
  void* whole = allocate_cpu(60 * kMiB);
  free_cpu(whole, 60 * kMiB);
  const int64_t segment = cpu_memory_stats().cached_bytes - cached;
  EXPECT_GE(segment, 60 * kMiB);
  std::vector<void*> parts;
  for (int i = 0; i < 10; ++i) parts.push_back(allocate_cpu(5 * kMiB + 1));
  EXPECT_EQ(cpu_memory_stats().cached_bytes - cached, segment - 10 * (5 * kMiB + 64));  // no memory from the system
  EXPECT_EQ(cpu_memory_stats().live_bytes - live, 10 * (5 * kMiB + 64));
  for (const size_t i : {3, 1, 2, 0, 9, 7, 5, 8, 6, 4}) free_cpu(parts[i], 5 * kMiB + 1);
  EXPECT_EQ(cpu_memory_stats().cached_bytes - cached, segment);
  void* again = allocate_cpu(60 * kMiB);
  EXPECT_EQ(cpu_memory_stats().cached_bytes - cached, segment - 60 * kMiB);
  free_cpu(again, 60 * kMiB);
  release_cached_cpu();
  EXPECT_EQ(cpu_memory_stats().cached_bytes, cached);
  EXPECT_EQ(cpu_memory_stats().live_bytes, live);
}

TEST(CpuAllocator, BlocksOfAllSizesAreAlignedAndDoNotOverlap) {
  const auto work = [](int seed) {
    struct Held {
      void* block;
      int64_t bytes;
      int value;
    };
    std::mt19937 random(static_cast<unsigned>(seed));
    std::vector<Held> held;
    for (int step = 0; step < 300; ++step) {
      if (held.size() < 12 && random() % 3 != 0) {
        const int64_t bytes = static_cast<int64_t>(random() % (random() % 2 ? 3000000u : 5000u));
        void* block = allocate_cpu(bytes);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
        const int value = static_cast<int>(random() % 256);
        std::memset(block, value, static_cast<size_t>(bytes));
        held.push_back({block, bytes, value});
      } else if (!held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        EXPECT_TRUE(is_filled(held.back().block, held.back().bytes, held.back().value));
        free_cpu(held.back().block, held.back().bytes);
        held.pop_back();
      }
    }
    for (const Held& h : held) {
      EXPECT_TRUE(is_filled(h.block, h.bytes, h.value));
      free_cpu(h.block, h.bytes);
    }
  };
  const int64_t live = cpu_memory_stats().live_bytes;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cpu_memory_stats().live_bytes, live);
}

}  // namespace
}  // namespace camo::detail
