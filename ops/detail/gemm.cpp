#include "ops/detail/gemm.h"

#include <omp.h>

#include <bit>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "ops/cpu_kernels.h"

namespace camo::detail {
namespace {

constexpr double kTaskFlops = 2e6;         // about 10 us on one core
constexpr double kTinyFlops = 2048;        // below it, calling a library costs more than the product
constexpr int64_t kMaxTasks = 32;          // fixed, so that the cut does not depend on the machine
constexpr int64_t kDepthBlock = 1024;      // smallest share of a cut along K: adding up the parts must stay cheap
constexpr int64_t kPackedPerProduct = 64;  // a block multiplies this often what it packs, or more

/// Keeps the libraries on this thread: the work is already cut.
class OneThread {
 public:
  OneThread() : previous_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(previous_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int previous_;
};

/// What a product is added to: nothing, the old c, or one row for all of its rows.
template <class T>
struct Start {
  bool accumulate = false;
  const T* row = nullptr;

  /// Writes the row below a block of c that starts at this column; true when the product must be added to the block.
  bool prepare(const Matrix<T>& block, int64_t col) const {
    for (int64_t i = 0; row && i < block.rows; ++i) std::copy_n(row + col, block.cols, block.data + i * block.ld);
    return accumulate || row;
  }
};

template <class T, class R>
void tiny_product(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<R>& c, bool accumulate) {
  const int64_t a_row = a.transposed ? 1 : a.ld, a_col = a.transposed ? a.ld : 1;
  const int64_t b_row = b.transposed ? 1 : b.ld, b_col = b.transposed ? b.ld : 1;
  for (int64_t i = 0; i < c.rows; ++i) {
    R* out = c.data + i * c.ld;
    if (!accumulate) std::fill(out, out + c.cols, R(0));
    for (int64_t k = 0; k < a.cols; ++k) {
      const R value = static_cast<R>(a.data[i * a_row + k * a_col]);
      for (int64_t j = 0; j < c.cols; ++j) out[j] += value * static_cast<R>(b.data[k * b_row + j * b_col]);
    }
  }
}

template <class T, class R>
void serial_product(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<R>& c, bool accumulate) {
  const OneThread guard;
#ifdef CAMO_WITH_ONEDNN
  if constexpr (std::is_same_v<R, float>) {
    if (cpu_kernels() == CpuKernels::fast) return gemm_onednn(a, b, c, accumulate);
  }
#endif
  if constexpr (std::is_same_v<T, R>) gemm_eigen<T>(a, b, c, accumulate);
}

int64_t tasks_for(double flops, int64_t most) {
  const auto wanted = static_cast<int64_t>(flops / kTaskFlops);
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(1, std::min(wanted, most)))));
}

/// Parts along K in buffers of their own, added in order: for gradients of weights, small but summed over many rows.
template <class T, class R>
void product_cut_along_depth(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<R>& c,
                             const Start<R>& start, int64_t parts) {
  const int64_t depth = a.cols, size = c.rows * c.cols;
  std::vector<R> buffer(static_cast<size_t>(parts * size));
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = depth * part / parts, count = depth * (part + 1) / parts - first;
      const Matrix<R> sum{buffer.data() + part * size, c.rows, c.cols, c.cols, false};
      serial_product(a.block(0, first, a.rows, count), b.block(first, 0, count, b.cols), sum, false);
    }
  });
  parallel_for(c.rows, std::max<int64_t>(1, 65536 / (c.cols * parts)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      R* out = c.data + i * c.ld;
      if (!start.prepare(c.block(i, 0, 1, c.cols), 0)) std::fill(out, out + c.cols, R(0));
      for (int64_t part = 0; part < parts; ++part) {
        const R* in = buffer.data() + part * size + i * c.cols;
        for (int64_t j = 0; j < c.cols; ++j) out[j] += in[j];
      }
    }
  });
}

int64_t block_extent(int64_t extent, int64_t parts, int64_t multiple) {
  const int64_t share = (extent + parts - 1) / parts;
  return std::min(extent, (share + multiple - 1) / multiple * multiple);
}

/// Blocks of c. Each packs its rows of a and columns of b anew, which bounds how many there should be.
template <class T, class R>
void product_cut_in_blocks(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<R>& c,
                           const Start<R>& start, int64_t tasks) {
  const auto packed = [&](int64_t down, int64_t across) { return down * c.cols + across * c.rows; };
  const int64_t limit = std::max(c.rows * c.cols / kPackedPerProduct, (c.rows + c.cols) * 3 / 2);
  int64_t down = 1, across = 1;
  while (down * across < tasks) {
    const bool split_rows = packed(2 * down, across) <= packed(down, 2 * across);
    if (packed(split_rows ? 2 * down : down, split_rows ? across : 2 * across) > limit) break;
    (split_rows ? down : across) *= 2;
  }
  const int64_t height = block_extent(c.rows, down, 8),
                width = block_extent(c.cols, across, 48);  // oneDNN's register tile
  const int64_t blocks_down = (c.rows + height - 1) / height, blocks_across = (c.cols + width - 1) / width;
  parallel_for(blocks_down * blocks_across, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t row = block / blocks_across * height, col = block % blocks_across * width;
      const int64_t rows = std::min(height, c.rows - row), cols = std::min(width, c.cols - col);
      const Matrix<R> target = c.block(row, col, rows, cols);
      const bool add = start.prepare(target, col);
      serial_product(a.block(row, 0, rows, a.cols), b.block(0, col, b.rows, cols), target, add);
    }
  });
}

template <class T, class R>
void product(const Matrix<const T>& a, const Matrix<const T>& b, const Matrix<R>& c, const Start<R>& start) {
  CAMO_ASSERT(a.rows == c.rows && b.cols == c.cols && a.cols == b.rows && !c.transposed);
  if (c.rows == 0 || c.cols == 0) return;
  const double flops = 2.0 * static_cast<double>(c.rows) * static_cast<double>(c.cols) * static_cast<double>(a.cols);
  if (flops <= kTinyFlops) return tiny_product(a, b, c, start.prepare(c, 0));
  if (a.cols >= 4 * std::max(c.rows, c.cols)) {
    // Also where one thread would do: the parts keep the rounding errors of long sums small.
    const int64_t parts = std::min(kMaxTasks, a.cols / kDepthBlock);
    if (parts > 1) return product_cut_along_depth(a, b, c, start, parts);
  }
  product_cut_in_blocks(a, b, c, start, tasks_for(flops, kMaxTasks));
}

}  // namespace

#ifndef CAMO_WITH_ONEDNN
bool has_bf16_products() { return false; }
#endif

void gemm(const Matrix<const float>& a, const Matrix<const float>& b, const Matrix<float>& c, bool accumulate) {
  product(a, b, c, Start<float>{accumulate});
}
void gemm(const Matrix<const double>& a, const Matrix<const double>& b, const Matrix<double>& c, bool accumulate) {
  product(a, b, c, Start<double>{accumulate});
}
void gemm_plus_row(const Matrix<const float>& a, const Matrix<const float>& b, const float* row,
                   const Matrix<float>& c) {
  product(a, b, c, Start<float>{false, row});
}
void gemm_plus_row(const Matrix<const double>& a, const Matrix<const double>& b, const double* row,
                   const Matrix<double>& c) {
  product(a, b, c, Start<double>{false, row});
}
void gemm(const Matrix<const BFloat16>& a, const Matrix<const BFloat16>& b, const Matrix<float>& c, bool accumulate) {
  CAMO_ASSERT(has_bf16_products());
  product(a, b, c, Start<float>{accumulate});
}
void gemm_plus_row(const Matrix<const BFloat16>& a, const Matrix<const BFloat16>& b, const float* row,
                   const Matrix<float>& c) {
  CAMO_ASSERT(has_bf16_products());
  product(a, b, c, Start<float>{false, row});
}

}  // namespace camo::detail
