// kLanes rows of one head (queries, or keys in backward) stand one in each lane of a few vector registers, and the
// other side streams past in tiles of kStreamed rows. So products are sums of broadcast numbers times vectors, whatever
// the head width, and nothing is summed across lanes. Scores of one tile stay in the L1 cache. Forward: a task is a
// block of queries. Backward: a task is a part of a head's queries and runs over all blocks of keys: every score is
// computed once.
#include "ops/attention/tiled_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "ops/attention/tiled_products.h"

namespace camo::flash {
namespace {

/// One head of [B, N, H, D] memory.
template <class T>
struct Head {
  T* data;
  int64_t row, width;

  Head(const Tensor& x, int64_t b, int64_t h)
      : data(x.data<T>() + b * x.stride(0) + h * x.stride(2)), row(x.stride(1)), width(x.size(3)) {}

  /// Rows to stream: short ones where they lie, as copying them costs as much as a product; others in `space`, since
  /// their distances in memory may fall into few sets of the cache.
  Tile<T> tile(int64_t first, int64_t count, T* space) const {
    constexpr int64_t kShort = 32;
    if (width <= kShort) return {data + first * row, row, count, width};
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(space + i * width, data + (first + i) * row, sizeof(T) * static_cast<size_t>(width));
    }
    return {space, width, count, width};
  }
  /// lanes[d][lane] = factor * row first + lane; zeros in lanes from `count` on.
  void copy_lanes(int64_t first, int64_t count, T factor, T* lanes) const {
    std::fill(lanes, lanes + width * kLanes<T>, T(0));
    for (int64_t lane = 0; lane < count; ++lane) {
      const T* from = data + (first + lane) * row;
      for (int64_t d = 0; d < width; ++d) lanes[d * kLanes<T> + lane] = factor * from[d];
    }
  }
  void store_lanes(int64_t first, int64_t count, const T* factors, const T* lanes) const {
    for (int64_t lane = 0; lane < count; ++lane) {
      T* to = data + (first + lane) * row;
      for (int64_t d = 0; d < width; ++d) to[d] = factors[lane] * lanes[d * kLanes<T> + lane];
    }
  }
};

/// Where a block of scores lies: its rows are streamed, its lanes are owned.
struct Block {
  int64_t b, h, first_row, rows, first_lane, lanes;
  bool lanes_are_queries;
};

/// Masks, causality and dropout, which cost time only where they are asked for.
template <class T>
class ScoreRules {
 public:
  explicit ScoreRules(const AttentionProblem& problem)
      : problem_(problem), offset_(problem.keys() - problem.queries()), limit_(static_cast<float>(problem.dropout)) {
    keep_scale_ = problem.dropout < 1 ? static_cast<T>(1 / (1 - problem.dropout)) : T(0);
  }

  /// Keys [0, result) are all that queries before `end` may see.
  int64_t visible_keys(int64_t end) const {
    return problem_.causal ? std::clamp<int64_t>(end + offset_, 0, problem_.keys()) : problem_.keys();
  }
  /// The first query that may see keys from `first` on.
  int64_t first_query(int64_t first) const { return problem_.causal ? std::max<int64_t>(0, first - offset_) : 0; }

  void hide(const Block& block, T* scores) const {
    const int64_t last_key = block.lanes_are_queries ? block.first_row + block.rows : block.first_lane + block.lanes;
    const int64_t query = block.lanes_are_queries ? block.first_lane : block.first_row;
    const bool crossed = problem_.causal && last_key - 1 > query + offset_;
    if (!crossed && !problem_.mask.defined()) return;
    constexpr T kHidden = -std::numeric_limits<T>::infinity();
    for_each(block, [&](int64_t i, int64_t j, int64_t at) {
      if (crossed && j > i + offset_) {
        scores[at] = kHidden;
      } else if (problem_.mask.defined()) {
        const Shape& strides = problem_.mask_strides;
        const int64_t element = block.b * strides[0] + block.h * strides[1] + i * strides[2] + j * strides[3];
        if (problem_.mask.dtype() != boolean) scores[at] += problem_.mask.template data<T>()[element];
        else if (!problem_.mask.template data<bool>()[element]) scores[at] = kHidden;
      }
    });
  }
  bool drops() const { return problem_.dropout > 0; }
  /// values *= 0 or 1 / (1 - p).
  void drop(const Block& block, T* values) const {
    const int64_t first = (block.b * problem_.heads() + block.h) * problem_.queries();
    for_each(block, [&](int64_t i, int64_t j, int64_t at) {
      const auto element = static_cast<uint64_t>((first + i) * problem_.keys() + j);
      values[at] = problem_.dropout_key.uniform(element) < limit_ ? T(0) : values[at] * keep_scale_;
    });
  }

 private:
  template <class Fn>
  static void for_each(const Block& block, Fn fn) {
    for (int64_t row = 0; row < block.rows; ++row) {
      for (int64_t lane = 0; lane < block.lanes; ++lane) {
        const int64_t streamed = block.first_row + row, own = block.first_lane + lane;
        fn(block.lanes_are_queries ? own : streamed, block.lanes_are_queries ? streamed : own, row * kLanes<T> + lane);
      }
    }
  }
  const AttentionProblem& problem_;
  int64_t offset_;
  float limit_;
  T keep_scale_;
};

/// Calls body(b, h, first, count) for blocks of kLanes rows of every head.
template <class T, class Body>
void for_each_block(const AttentionProblem& problem, int64_t rows, Body body) {
  const int64_t blocks = (rows + kLanes<T> - 1) / kLanes<T>;
  parallel_for(problem.batch() * problem.heads() * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / blocks, first = task % blocks * kLanes<T>;
      body(head / problem.heads(), head % problem.heads(), first, std::min(kLanes<T>, rows - first));
    }
  });
}

/// Of one block of queries, while keys stream past: the largest score so far, and the sum of exp(score - largest).
template <class T>
struct RunningSoftmax {
  using Vector = typename VectorOf<T>::type;
  alignas(64) T top[kLanes<T>], sum[kLanes<T>], factor[kLanes<T>];

  RunningSoftmax() {
    std::fill_n(top, kLanes<T>, -std::numeric_limits<T>::infinity());
    std::fill_n(sum, kLanes<T>, T(0));
  }
  /// scores become weights; `factor` is what earlier sums are to be multiplied by.
  void add(T* scores, int64_t rows) {
    Vector largest[kVectors], total[kVectors], shift[kVectors];
    for (int u = 0; u < kVectors; ++u) largest[u] = vectors(top)[u];
    for (int64_t row = 0; row < rows; ++row) {
      const Vector* at = vectors(scores) + row * kVectors;
      for (int u = 0; u < kVectors; ++u) largest[u] = at[u] > largest[u] ? at[u] : largest[u];
    }
    for (int u = 0; u < kVectors; ++u) {
      shift[u] = largest[u] == -std::numeric_limits<T>::infinity() ? Vector{} : largest[u];
      const Vector rescale = exp_nonpositive(vectors(top)[u] - shift[u]);
      vectors(factor)[u] = rescale;
      vectors(top)[u] = largest[u];
      total[u] = vectors(sum)[u] * rescale;
    }
    for (int64_t row = 0; row < rows; ++row) {
      Vector* at = vectors(scores) + row * kVectors;
      for (int u = 0; u < kVectors; ++u) {
        at[u] = exp_nonpositive(at[u] - shift[u]);
        total[u] += at[u];
      }
    }
    for (int u = 0; u < kVectors; ++u) vectors(sum)[u] = total[u];
  }
};

template <class T>
void forward(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp) {
  const ScoreRules<T> rules(problem);
  const int64_t width = problem.width();
  for_each_block<T>(problem, problem.queries(), [&](int64_t b, int64_t h, int64_t first, int64_t count) {
    const Head<T> k(problem.k, b, h), v(problem.v, b, h);
    Scratch<T> queries(width * kLanes<T>), space(kStreamed * width), scores(kStreamed * kLanes<T>);
    Scratch<T> result(width * kLanes<T>);
    Head<T>(problem.q, b, h).copy_lanes(first, count, static_cast<T>(problem.scale), queries);
    std::fill_n(static_cast<T*>(result), width * kLanes<T>, T(0));
    RunningSoftmax<T> softmax;
    const int64_t keys = rules.visible_keys(first + count);
    for (int64_t key = 0; key < keys; key += kStreamed) {
      const Block block{b, h, key, std::min(kStreamed, keys - key), first, count, true};
      multiply_by_depth<T>(k.tile(key, block.rows, space), queries, scores);
      rules.hide(block, scores);
      softmax.add(scores, block.rows);
      if (rules.drops()) rules.drop(block, scores);
      add_by_rows_scaled<T>(v.tile(key, block.rows, space), scores, softmax.factor, result);
    }
    T* log_sums = log_sum_exp.data<T>() + (b * problem.heads() + h) * problem.queries() + first;
    for (int64_t lane = 0; lane < count; ++lane) {
      const T sum = softmax.sum[lane];
      log_sums[lane] = softmax.top[lane] + std::log(sum);  // -infinity where no key was seen
      softmax.factor[lane] = sum == 0 ? T(0) : 1 / sum;
    }
    Head<T>(y, b, h).store_lanes(first, count, softmax.factor, result);
  });
}

/// rowsum(dy * y), [B, H, Nq].
template <class T>
Tensor weighted_output(const AttentionProblem& problem, const Tensor& y, const Tensor& dy) {
  const Tensor delta = empty({problem.batch(), problem.heads(), problem.queries()}, y.dtype(), cpu);
  parallel_for(problem.batch() * problem.heads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      const Head<T> y_head(y, head / problem.heads(), head % problem.heads());
      const Head<T> dy_head(dy, head / problem.heads(), head % problem.heads());
      for (int64_t i = 0; i < problem.queries(); ++i) {
        T sum = 0;
        for (int64_t d = 0; d < y_head.width; ++d)
          sum += y_head.data[i * y_head.row + d] * dy_head.data[i * dy_head.row + d];
        delta.data<T>()[head * problem.queries() + i] = sum;
      }
    }
  });
  return delta;
}

/// What to subtract from the scores of a query: 0 instead of -infinity where it sees nothing.
template <class T>
T shift_of(T log_sum) {
  return log_sum == -std::numeric_limits<T>::infinity() ? T(0) : log_sum;
}

/// Queries are cut into so many parts at most, each for a task of its own, which writes its own sums for dk and dv: a
/// number that does not depend on the threads, so that results do not.
constexpr int64_t kMostParts = 4, kLeastPart = 1024;

/// Gradients of one head from queries [begin, end): dq of these, and their shares of dk and dv. Tensors may be
/// undefined.
template <class T>
void backward_part(const AttentionProblem& problem, const ScoreRules<T>& rules, const T* log_sums, const T* deltas,
                   const Tensor& dy, int64_t b, int64_t h, int64_t begin, int64_t end,
                   const AttentionGradients& grads) {
  const int64_t width = problem.width(), pitch = padded_width<T>(width);
  const bool wants_keys = grads.dk.defined() || grads.dv.defined(), wants_queries = grads.dq.defined();
  const Head<T> q(problem.q, b, h), k(problem.k, b, h), out_grads(dy, b, h);
  const T scale = static_cast<T>(problem.scale);
  Scratch<T> keys(width * kLanes<T>), values(width * kLanes<T>), key_rows(wants_queries ? kLanes<T> * pitch : 0);
  Scratch<T> key_sums(width * kLanes<T>), value_sums(width * kLanes<T>);
  Scratch<T> query_sums(wants_queries ? (end - begin) * pitch : 0);
  Scratch<T> space(kStreamed * width), dy_space(kStreamed * width);
  Scratch<T> scores(kStreamed * kLanes<T>), grad_tile(kStreamed * kLanes<T>);
  alignas(64) T factor[kLanes<T>];
  const int64_t head = (b * problem.heads() + h) * problem.queries();
  if (wants_queries) {
    std::fill_n(static_cast<T*>(query_sums), (end - begin) * pitch, T(0));
    std::fill_n(static_cast<T*>(key_rows), kLanes<T> * pitch, T(0));
  }
  for (int64_t first = 0; first < problem.keys(); first += kLanes<T>) {
    const int64_t count = std::min(kLanes<T>, problem.keys() - first);
    k.copy_lanes(first, count, scale, keys);
    Head<T>(problem.v, b, h).copy_lanes(first, count, T(1), values);
    for (int64_t i = 0; wants_queries && i < count; ++i) {
      std::memcpy(key_rows + i * pitch, k.data + (first + i) * k.row, sizeof(T) * static_cast<size_t>(width));
    }
    std::fill_n(static_cast<T*>(key_sums), width * kLanes<T>, T(0));
    std::fill_n(static_cast<T*>(value_sums), width * kLanes<T>, T(0));
    for (int64_t query = std::max(begin, rules.first_query(first)); query < end; query += kStreamed) {
      const Block block{b, h, query, std::min(kStreamed, end - query), first, count, false};
      const Tile<T> tile = q.tile(query, block.rows, space), dy_tile = out_grads.tile(query, block.rows, dy_space);
      multiply_by_depth<T>(tile, keys, scores);
      multiply_by_depth<T>(dy_tile, values, grad_tile);
      rules.hide(block, scores);
      if (rules.drops()) rules.drop(block, grad_tile);
      for (int64_t row = 0; row < block.rows; ++row) {
        const T shift = shift_of(log_sums[head + query + row]), delta = deltas[head + query + row];
        auto* weight = vectors<T>(scores) + row * kVectors;
        auto* grad = vectors<T>(grad_tile) + row * kVectors;
        for (int u = 0; u < kVectors; ++u) {
          weight[u] = exp_nonpositive(weight[u] - shift);
          grad[u] = weight[u] * (grad[u] - delta);
        }
      }
      if (wants_queries) {
        add_by_lanes<T>(grad_tile, block.rows, count, key_rows, width, query_sums + (query - begin) * pitch);
      }
      if (!wants_keys) continue;
      if (rules.drops()) rules.drop(block, scores);
      add_by_rows<T>(dy_tile, scores, value_sums);
      add_by_rows<T>(tile, grad_tile, key_sums);
    }
    std::fill_n(factor, kLanes<T>, T(1));
    if (grads.dv.defined()) Head<T>(grads.dv, b, h).store_lanes(first, count, factor, value_sums);
    std::fill_n(factor, kLanes<T>, scale);
    if (grads.dk.defined()) Head<T>(grads.dk, b, h).store_lanes(first, count, factor, key_sums);
  }
  if (!wants_queries) return;
  const Head<T> dq(grads.dq, b, h);
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t d = 0; d < width; ++d) dq.data[i * dq.row + d] = scale * query_sums[(i - begin) * pitch + d];
  }
}

/// total += the others, which are contiguous, in order.
template <class T>
void add_parts(const Tensor& total, const Tensors& others) {
  const int64_t tokens = total.size(1), heads = total.size(2), width = total.size(3);
  parallel_for(total.numel() / width, 256, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* to = total.data<T>() + row / heads / tokens * total.stride(0) + row / heads % tokens * total.stride(1) +
              row % heads * total.stride(2);
      for (const Tensor& other : others) {
        const T* from = other.data<T>() + row * width;
        for (int64_t d = 0; d < width; ++d) to[d] += from[d];
      }
    }
  });
}

template <class T>
void backward(const AttentionProblem& problem, const T* log_sums, const T* deltas, const Tensor& dy,
              const AttentionGradients& grads) {
  const ScoreRules<T> rules(problem);
  const int64_t queries = problem.queries();
  const int64_t parts = std::clamp<int64_t>(queries / kLeastPart, 1, kMostParts);
  std::vector<AttentionGradients> of_part(static_cast<size_t>(parts), grads);
  Tensors more_dk, more_dv;
  const auto like = [](const Tensor& x) { return x.defined() ? empty(x.shape(), x.dtype(), cpu) : Tensor(); };
  for (size_t i = 1; i < of_part.size(); ++i) {
    more_dk.push_back(of_part[i].dk = like(grads.dk));
    more_dv.push_back(of_part[i].dv = like(grads.dv));
  }
  parallel_for(problem.batch() * problem.heads() * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / parts, part = task % parts;
      backward_part<T>(problem, rules, log_sums, deltas, dy, head / problem.heads(), head % problem.heads(),
                       queries * part / parts, queries * (part + 1) / parts, of_part[static_cast<size_t>(part)]);
    }
  });
  if (parts == 1) return;
  if (grads.dk.defined()) add_parts<T>(grads.dk, more_dk);
  if (grads.dv.defined()) add_parts<T>(grads.dv, more_dv);
}

}  // namespace

void forward_cpu(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp) {
  dispatch_floating(problem.q.dtype(), "scaled_dot_product_attention",
                    [&]<class T>() { forward<T>(problem, y, log_sum_exp); });
}

void backward_cpu(const AttentionProblem& problem, const Tensor& y, const Tensor& log_sum_exp, const Tensor& dy,
                  const AttentionGradients& gradients) {
  dispatch_floating(problem.q.dtype(), "scaled_dot_product_attention", [&]<class T>() {
    const Tensor delta = weighted_output<T>(problem, y, dy);
    const T *log_sums = log_sum_exp.data<T>(), *deltas = delta.data<T>();
    backward<T>(problem, log_sums, deltas, dy, gradients);
  });
}

}  // namespace camo::flash
