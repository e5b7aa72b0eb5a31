// Attention forward of narrow heads in 16 bits without rules, where exponentials are the bound (16 a clock and
// multiprocessor): so everything else is cheap enough to run beside them.
//
//   * A share of the exponentials is computed by a cubic on the multiply-add units.
//   * The reference of a row, from which its exponents count, is a whole number in the log2 domain that lies above the
//     first scores. Weights are computed against it without looking for a maximum; only when one of a warp's grows too
//     large is it raised, and the sums so far are scaled by a power of two.
//   * The sum of a row's weights is one more column of the result: one that neighbours leave free in the window holds
//     ones, or else a product with ones stands beside it.
//   * The scores of the next keys are in the tensor cores while exponentials of these are computed.
//
// Decomposition: a block has consecutive queries of one head, a warp 16 kRowTiles of them; tiles of keys and values
// stream through a ring in shared memory, shared by the warps.
// Layout: rows of a head are fetched as the aligned 16-byte pieces that contain them. They bring along the edges of the
// neighbour heads: zeroed for keys (and queries), harmless for values, whose extra columns are not stored.
// Bound by: exponentials and issue slots (D <= 24), tensor cores (wider).
#pragma once

#include "ops/attention/cuda/warp16.cuh"
#include "ops/attention/cuda/window.cuh"

namespace camo::flash {

/// How a kernel divides its work; the numbers are chosen in narrow_launch.cuh.
template <class T_, int kWidth_, int kRowTiles_, int kWarps_, int kStreamed_, int kChunk_, int kStages_,
          int kPolynomial, int kBlocks_, bool kSpare_>
struct NarrowForward {
  using T = T_;
  static constexpr int kWidth = kWidth_, kRowTiles = kRowTiles_, kWarps = kWarps_, kStreamed = kStreamed_;
  static constexpr int kChunk = kChunk_, kStages = kStages_, kBlocks = kBlocks_;
  static constexpr bool kSpare = kSpare_;  // a column of the window is free
  static constexpr int kThreads = kLanes * kWarps, kRows = 16 * kRowTiles * kWarps;
  static constexpr int kPitch = window_pitch(kWidth);
  static constexpr int kSteps = kWidth / 16;  // whole ones, of 16 columns; 8 more may follow
  static constexpr bool kHalfStep = kWidth % 16 != 0;
  static constexpr int kColumns = kWidth / 8;
  static constexpr int kTileSize = kStreamed * kPitch;
  static constexpr int kChunks = kStreamed / kChunk;  // of a tile
  static constexpr int kBytes = (kRows * kPitch + 2 * kStages * kTileSize) * 2;
  static_assert(kStreamed % kChunk == 0 && kChunk % 16 == 0 && kStages >= 3);
  static_assert(kBytes <= 227 * 1024);

  static __device__ constexpr bool is_polynomial(int i) {
    constexpr int kPatterns[] = {0, 0x08, 0x22, 0x52, 0x55};
    return kPatterns[kPolynomial] >> i & 1;
  }

  struct Rows {  // of a warp, in registers
    uint32_t queries[kRowTiles][kSteps * 4 + (kHalfStep ? 2 : 0)];
    float result[kRowTiles][kColumns][4];
    float total[kSpare ? 1 : kRowTiles][4];
    float reference[kRowTiles][2];
  };
  using Scores = float[kChunk / 16][kRowTiles][2][4];
  using Weights = uint32_t[kChunk / 16][kRowTiles][4];

  /// Scores of a chunk whose keys are at this address.
  static __device__ void score(Scores& scores, const Rows& rows, uint32_t keys) {
    constexpr float kZeros[4] = {};
    const int lane = threadIdx.x % kLanes;
    const uint32_t at = keys + ((lane / 16 * 8 + lane % 8) * kPitch + lane / 8 % 2 * 8) * 2;
    const uint32_t half_at = keys + lane % 16 * kPitch * 2 + 32 * kSteps;
#pragma unroll
    for (int k = 0; k < kChunk / 16; ++k) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t b[4];
        load_matrices(b, at + k * 32 * kPitch + step * 32);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            float(&c)[4] = scores[k][m][n];
            if (step == 0) multiply_16<T>(c, rows.queries[m], b[2 * n], b[2 * n + 1], kZeros);
            else multiply_16<T>(c, rows.queries[m] + 4 * step, b[2 * n], b[2 * n + 1]);
          }
        }
      }
      if constexpr (kHalfStep) {
        uint32_t b[2];
        load_matrices(b, half_at + k * 32 * kPitch);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          multiply_8<T>(scores[k][m][0], rows.queries[m] + 4 * kSteps, b[0]);
          multiply_8<T>(scores[k][m][1], rows.queries[m] + 4 * kSteps, b[1]);
        }
      }
    }
  }
  /// Keys from `count` on are hidden.
  static __device__ void hide(Scores& scores, int count) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < kChunk / 16; ++k) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          if (16 * k + e / 4 * 8 + 2 * t + e % 2 >= count) scores[k][m][e / 4][e % 4] = -INFINITY;
        }
      }
    }
  }

  /// The weights of scores; whether one of them is too large.
  static __device__ bool weigh(Weights& weights, const Scores& scores, const Rows& rows, float unit) {
    WeightWatch<T> watch;
#pragma unroll
    for (int k = 0; k < kChunk / 16; ++k) {
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float score = scores[k][m][i / 4][i % 4], reference = rows.reference[m][i % 4 / 2];
          if (is_polynomial(i)) {
            x[i] = exp2_polynomial(__saturatef(fmaf(score, unit / 128, (-kExp2Lowest - reference) / 128)));
          } else {
            x[i] = exp2_special(fmaf(score, unit, -reference));
          }
        }
        uint32_t(&w)[4] = weights[k][m];
#pragma unroll
        for (int i = 0; i < 4; ++i) w[i] = Mma<T>::pack(x[2 * i], x[2 * i + 1]);
        watch.add(w[0], w[1]);
        watch.add(w[2], w[3]);
      }
    }
    return __any_sync(~0u, watch.alarm());
  }

  /// Raises references above scores.
  static __device__ void raise(Rows& rows, const Scores& scores, float unit) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = -INFINITY;
#pragma unroll
        for (int i = 0; i < kChunk / 16 * 4; ++i) top = fmaxf(top, scores[i / 4][m][i / 2 % 2][2 * half + i % 2]);
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        float& reference = rows.reference[m][half];
        const float raised = fmaxf(reference, ceilf(top * unit) + WeightWatch<T>::kHeadroom);
        const float factor = exp2_special(reference - raised);
        reference = raised;
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          if constexpr (!kSpare) rows.total[m][e] *= factor;
#pragma unroll
          for (int w = 0; w < kColumns; ++w) rows.result[m][w][e] *= factor;
        }
      }
    }
  }

  /// result += weights times the values at this address, total += sums of weights.
  static __device__ void add_values(Rows& rows, const Weights& weights, uint32_t values) {
    constexpr uint32_t kOnes = std::is_same_v<T, Half> ? 0x3c003c00u : 0x3f803f80u;
    const int lane = threadIdx.x % kLanes;
    const uint32_t at = values + (lane % 16 * kPitch + lane / 16 * 8) * 2, odd_at = values + lane % 16 * kPitch * 2;
#pragma unroll
    for (int k = 0; k < kChunk / 16; ++k) {
#pragma unroll
      for (int w = 0; w + 1 < kColumns; w += 2) {
        uint32_t b[4];
        load_transposed(b, at + k * 32 * kPitch + w * 16);
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          multiply_16<T>(rows.result[m][w], weights[k][m], b[0], b[1]);
          multiply_16<T>(rows.result[m][w + 1], weights[k][m], b[2], b[3]);
        }
      }
      if constexpr (kColumns % 2) {
        uint32_t b[2];
        load_transposed(b, odd_at + k * 32 * kPitch + 16 * (kColumns - 1));
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
          multiply_16<T>(rows.result[m][kColumns - 1], weights[k][m], b[0], b[1]);
        }
      }
      if constexpr (!kSpare) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) multiply_16<T>(rows.total[m], weights[k][m], kOnes, kOnes);
      }
    }
  }
};

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    flash_narrow_forward_kernel(const __grid_constant__ Call<typename S::T> call, int blocks) {
  using T = typename S::T;
  constexpr int kRowTiles = S::kRowTiles;
  extern __shared__ __align__(128) char shared[];
  T* own = reinterpret_cast<T*>(shared);  // [kRows][kPitch]
  T* ring = own + S::kRows * S::kPitch;   // [kStages][keys, values][kStreamed][kPitch]

  const int head = blockIdx.x / blocks, b = head / call.heads, h = head % call.heads;
  const int first_query = blockIdx.x % blocks * S::kRows;
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes, g = lane / 4, t = lane % 4;
  const WindowCopy<T, S::kWidth, S::kThreads> copy(call.k.of(b, h), call.width);
  const T *k = window_start(call.k.of(b, h)), *v = window_start(call.v.of(b, h));
  const int begin = window_offset(call.k.of(b, h)), spare = begin > 0 ? begin - 1 : call.width;

  const auto slot = [&](int tile) { return ring + tile % S::kStages * 2 * S::kTileSize; };
  const auto fetch = [&](int tile) {
    const int first = tile * S::kStreamed;
    if (first < call.keys) {
      copy.template rows<S::kStreamed>(slot(tile), k, call.k.row, first, call.keys);
      copy.template rows<S::kStreamed>(slot(tile) + S::kTileSize, v, call.v.row, first, call.keys);
    }
    commit_copies();
  };
  // Makes a tile ready, then fetches another into the slot that no warp reads any more.
  const auto enter = [&](int tile) {
    wait_for_copies<S::kStages - 3>();
    copy.template clear_edges<S::kStreamed>(slot(tile));
    if constexpr (S::kSpare) {
      copy.template set_ones<S::kStreamed>(slot(tile) + S::kTileSize, spare, call.keys - tile * S::kStreamed);
    }
    __syncthreads();
    fetch(tile + S::kStages - 2);
  };
  copy.template rows<S::kRows>(own, window_start(call.q.of(b, h)), call.q.row, first_query, call.queries);
#pragma unroll
  for (int tile = 0; tile < S::kStages - 2; ++tile) fetch(tile);
  wait_for_copies<S::kStages - 3>();
  copy.template clear_edges<S::kRows>(own);
  enter(0);

  typename S::Rows rows;
  {
    const uint32_t at = shared_address(own + (16 * kRowTiles * warp + lane % 16) * S::kPitch);
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int step = 0; step < S::kSteps; ++step) {
        uint32_t x[4];
        load_matrices(x, at + 32 * m * S::kPitch + 32 * step + lane / 16 * 16);
#pragma unroll
        for (int i = 0; i < 4; ++i) rows.queries[m][4 * step + i] = x[i];
      }
      if constexpr (S::kHalfStep) {
        uint32_t x[2];
        load_matrices(x, at + 32 * m * S::kPitch + 32 * S::kSteps);
        rows.queries[m][4 * S::kSteps] = x[0];
        rows.queries[m][4 * S::kSteps + 1] = x[1];
      }
      rows.reference[m][0] = rows.reference[m][1] = -1e30f;  // so low that the first chunk raises it
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if constexpr (!S::kSpare) rows.total[m][e] = 0;
#pragma unroll
        for (int w = 0; w < S::kColumns; ++w) rows.result[m][w][e] = 0;
      }
    }
  }

  // While the weights of a chunk are computed, the tensor cores have the scores of the next and the sum of the one
  // before.
  const float unit = call.scale * kLog2E;
  const int tiles = (call.keys + S::kStreamed - 1) / S::kStreamed, whole = call.keys / S::kStreamed;
  typename S::Scores scores[2];
  typename S::Weights weights[2] = {};
  uint32_t values_before = shared_address(slot(0) + S::kTileSize);  // of the chunk before; of the first, no matter
  S::score(scores[0], rows, shared_address(slot(0)));
  for (int tile = 0; tile < whole; ++tile) {
    const uint32_t keys = shared_address(slot(tile));
#pragma unroll
    for (int c = 0; c < S::kChunks; ++c) {
      uint32_t next = keys + (c + 1) * S::kChunk * S::kPitch * 2;
      if (c + 1 == S::kChunks) {
        next = keys;  // of the last tile, no matter
        if (tile + 1 < tiles) {
          enter(tile + 1);
          next = shared_address(slot(tile + 1));
        }
      }
      S::score(scores[(c + 1) % 2], rows, next);
      S::add_values(rows, weights[(c + 1) % 2], values_before);
      if (S::weigh(weights[c % 2], scores[c % 2], rows, unit)) {
        S::raise(rows, scores[c % 2], unit);
        S::weigh(weights[c % 2], scores[c % 2], rows, unit);
      }
      values_before = keys + (S::kTileSize + c * S::kChunk * S::kPitch) * 2;
    }
    if constexpr (S::kChunks % 2) {
#pragma unroll
      for (int k = 0; k < S::kChunk / 16; ++k) {
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
          for (int i = 0; i < 8; ++i) scores[0][k][m][i / 4][i % 4] = scores[1][k][m][i / 4][i % 4];
#pragma unroll
          for (int i = 0; i < 4; ++i) weights[1][k][m][i] = weights[0][k][m][i];
        }
      }
    }
  }
  S::add_values(rows, weights[1], values_before);
  if (whole < tiles) {  // a last tile that is not full
    const uint32_t keys = shared_address(slot(whole));
#pragma unroll 1
    for (int c = 0; c < S::kChunks; ++c) {
      const int count = call.keys - whole * S::kStreamed - c * S::kChunk;
      if (count <= 0) break;
      if (c > 0) S::score(scores[0], rows, keys + c * S::kChunk * S::kPitch * 2);
      S::hide(scores[0], count);
      if (S::weigh(weights[0], scores[0], rows, unit)) {
        S::raise(rows, scores[0], unit);
        S::weigh(weights[0], scores[0], rows, unit);
      }
      S::add_values(rows, weights[0], keys + (S::kTileSize + c * S::kChunk * S::kPitch) * 2);
    }
  }

  __syncwarp();
  T* out = own + 16 * kRowTiles * warp * S::kPitch;  // the warp's own queries, not needed any more
#pragma unroll
  for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total;
      if constexpr (S::kSpare) {
        float mine = 0;  // of the lane that holds the spare column
#pragma unroll
        for (int i = 0; i < 2 * S::kColumns; ++i) {
          if (spare == i / 2 * 8 + 2 * t + i % 2) mine = rows.result[m][i / 2][2 * half + i % 2];
        }
        total = __shfl_sync(~0u, mine, lane / 4 * 4 + spare % 8 / 2);
      } else {
        total = rows.total[m][2 * half];
      }
      const float inverse = 1 / total;
      const int row = 16 * m + g + 8 * half, query = first_query + 16 * kRowTiles * warp + row;
      if (t == 0 && query < call.queries) {
        call.log_sum_exp[static_cast<int64_t>(head) * call.queries + query] =
            fmaf(rows.reference[m][half], kLn2, logf(total));
      }
#pragma unroll
      for (int w = 0; w < S::kColumns; ++w) {
        *reinterpret_cast<uint32_t*>(out + row * S::kPitch + 8 * w + 2 * t) =
            Mma<T>::pack(rows.result[m][w][2 * half] * inverse, rows.result[m][w][2 * half + 1] * inverse);
      }
    }
  }
  __syncwarp();
  store_window<S::kWidth, 16 * kRowTiles>(call.out.of(b, h), call.out.row, out, begin,
                                          first_query + 16 * kRowTiles * warp, call.queries, call.width);
}

}  // namespace camo::flash
