#include "tests/attention/reference.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "ops/elementwise.h"
#include "ops/shape_ops.h"

namespace camo::test {
namespace {

using Row = std::vector<double>;

/// One head, turned: at(d) are the N numbers of column d, so that loops over tokens run along memory.
struct Turned {
  int64_t tokens = 0, width = 0;
  Row values;  // [D, N]

  Turned() = default;
  Turned(const Tensor& x, int64_t b, int64_t h) : tokens(x.size(1)), width(x.size(3)) {
    const Tensor head = permute(select(select(x.detach(), 0, b), 1, h), {1, 0});  // [D, N]
    values = to(clone(head), cpu).to_vector<double>();
  }
  const double* at(int64_t d) const { return values.data() + d * tokens; }
};

/// row[j] = sum over d of x(i, d) * y(j, d)
void products(const Turned& x, int64_t i, const Turned& y, Row& row) {
  std::fill(row.begin(), row.end(), 0.0);
  for (int64_t d = 0; d < x.width; ++d) {
    const double factor = x.at(d)[i];
    const double* from = y.at(d);
#pragma omp simd
    for (int64_t j = 0; j < y.tokens; ++j) row[static_cast<size_t>(j)] += factor * from[j];
  }
}
/// sum over j of row[j] * y(j, d)
double dot(const Row& row, const Turned& y, int64_t d) {
  const double* from = y.at(d);
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < y.tokens; ++j) sum += row[static_cast<size_t>(j)] * from[j];
  return sum;
}

/// The largest relative error of a number, and its standard deviation.
struct Relative {
  double most = 0, deviation = 0;
};

/// Errors of the terms of a sum that are rounded independently.
class TermErrors {
 public:
  void add(double term, const Relative& error) {
    const double most = error.most * std::abs(term);
    sum_ += most;
    squares_ += most * most;
    variance_ += error.deviation * error.deviation * term * term;
  }
  double bound() const { return std::min(sum_, 6 * std::sqrt(squares_)); }
  double variance() const { return variance_; }

 private:
  double sum_ = 0, squares_ = 0, variance_ = 0;
};

/// Of the weights of a row, whose largest score stands for all; reference.h says what is counted. Partial sums grow
/// evenly.
Relative weight_error(const AttentionRoundings& roundings, double width, double score, double log_sum_exp) {
  constexpr double kUnit = 0x1p-24;
  const double sums = width / 16, s = kUnit * std::abs(score), l = kUnit * std::abs(log_sum_exp);
  const double squares = 2 * (2 * 4 + sums * 4 / 3 + 3) * s * s + 2 * l * l + roundings.stored * roundings.stored +
                         roundings.weights * roundings.weights;
  return {roundings.stored + roundings.weights + 2 * (2 * 2 + sums + 3) * s + 2 * l, std::sqrt(squares / 3)};
}

/// The rounding of a result [D, N] while it is computed.
struct TurnedRounding {
  Row bound, deviation;

  explicit TurnedRounding(int64_t elements) : bound(static_cast<size_t>(elements)), deviation(bound.size()) {}
  /// Errors of terms, and of the whole sum.
  void set(int64_t at, const TermErrors& terms, double value, const Relative& whole) {
    const double most = std::abs(value) * whole.most, deviated = std::abs(value) * whole.deviation;
    bound[static_cast<size_t>(at)] = terms.bound() + most;
    deviation[static_cast<size_t>(at)] = std::sqrt(terms.variance() + deviated * deviated);
  }
};

/// The rules of one head.
struct HeadRules {
  const AttentionOptions& options;
  int64_t queries, keys, head;  // head: b * heads + h
  double scale;
  Row mask;                              // one number a score: 0, -infinity or what is added
  int64_t mask_query = 0, mask_key = 0;  // its strides

  HeadRules(const AttentionOptions& options_, const Tensor& q, const Tensor& k, int64_t b, int64_t h)
      : options(options_), queries(q.size(1)), keys(k.size(1)), head(b * q.size(2) + h) {
    scale = options.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
    if (!options.mask.defined()) return;
    const Shape all{q.size(0), q.size(2), queries, keys};
    const Tensor part = select(select(expand(options.mask, all), 0, b), 0, h);  // [Nq, Nk]
    mask = to(to(clone(part), cpu), f64).to_vector<double>();
    if (options.mask.dtype() == boolean) {
      for (double& value : mask) value = value != 0 ? 0 : -std::numeric_limits<double>::infinity();
    }
  }
  double score(double product, int64_t i, int64_t j) const {
    if (options.causal && j > i + keys - queries) return -std::numeric_limits<double>::infinity();
    return product * scale + (mask.empty() ? 0 : mask[static_cast<size_t>(i * keys + j)]);
  }
  double keep(int64_t i, int64_t j) const {
    if (options.dropout <= 0) return 1;
    const auto element = static_cast<uint64_t>((head * queries + i) * keys + j);
    if (options.dropout_key.uniform(element) < static_cast<float>(options.dropout)) return 0;
    return 1 / (1 - options.dropout);
  }
};

Tensor untransposed(const Row& turned, int64_t tokens, int64_t width) {
  return clone(permute(from_vector(turned, {width, tokens}), {1, 0}));
}
AttentionRounding untransposed(const TurnedRounding& turned, int64_t tokens, int64_t width) {
  return {untransposed(turned.bound, tokens, width), untransposed(turned.deviation, tokens, width)};
}

}  // namespace

AttentionReference attention_reference(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy,
                                       const AttentionOptions& options, int64_t b, int64_t h, const Tensor& stored_y,
                                       const AttentionRoundings& roundings) {
  const Device device = default_device();
  set_default_device(cpu);
  const Turned tq(q, b, h), tk(k, b, h), tv(v, b, h), tg = dy.defined() ? Turned(dy, b, h) : Turned();
  const Turned ty = stored_y.defined() ? Turned(stored_y, b, h) : Turned();
  const HeadRules rules(options, q, k, b, h);
  const int64_t queries = tq.tokens, keys = tk.tokens, width = tq.width;
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  Row y(size(queries * width)), dq(size(queries * width)), dk(size(keys * width)), dv(size(keys * width));
  Row sums(size(queries)), deltas(size(queries));
  const bool rounded = roundings.stored > 0;
  std::vector<Relative> errors_of_weights(size(rounded ? queries : 0));  // of each query
  const Relative stored{roundings.stored, roundings.stored / std::sqrt(3)};
  TurnedRounding y_rounding(rounded ? queries * width : 0), dq_rounding = y_rounding;
  TurnedRounding dk_rounding(rounded ? keys * width : 0), dv_rounding = dk_rounding;
  constexpr double kNone = -std::numeric_limits<double>::infinity();

  parallel_for(queries, 1, [&](int64_t begin, int64_t end) {
    Row p(size(keys)), kept(size(keys)), ds(size(keys));
    for (int64_t i = begin; i < end; ++i) {
      products(tq, i, tk, p);
      double top = kNone, sum = 0;
      for (int64_t j = 0; j < keys; ++j) top = std::max(top, p[size(j)] = rules.score(p[size(j)], i, j));
      for (int64_t j = 0; j < keys; ++j) sum += p[size(j)] = top == kNone ? 0 : std::exp(p[size(j)] - top);
      sums[size(i)] = top + std::log(sum);
      Relative error;
      if (rounded && sum > 0) {
        error = weight_error(roundings, static_cast<double>(width), top, sums[size(i)]);
        errors_of_weights[size(i)] = error;
      }
      for (double& value : p) value = sum == 0 ? 0 : value / sum;
      for (int64_t j = 0; j < keys; ++j) kept[size(j)] = p[size(j)] * rules.keep(i, j);
      for (int64_t d = 0; d < width; ++d) {
        const double value = y[size(d * queries + i)] = dot(kept, tv, d);
        if (!rounded) continue;
        TermErrors errors;  // where rounded weights are summed as well, their errors count against the mean
        for (int64_t j = 0; j < keys; ++j) {
          const double term = kept[size(j)] * tv.at(d)[j], against_mean = term - p[size(j)] * value;
          errors.add(std::max(std::abs(term), std::abs(against_mean)), error);
        }
        y_rounding.set(d * queries + i, errors, value, stored);
      }
      if (!dy.defined()) continue;
      products(tg, i, tv, ds);  // dP before dropout
      double delta = 0;
      if (stored_y.defined()) {
        for (int64_t d = 0; d < width; ++d) delta += tg.at(d)[i] * ty.at(d)[i];
      } else {
        for (int64_t j = 0; j < keys; ++j) delta += kept[size(j)] * ds[size(j)];
      }
      for (int64_t j = 0; j < keys; ++j) ds[size(j)] = p[size(j)] * (rules.keep(i, j) * ds[size(j)] - delta);
      for (int64_t d = 0; d < width; ++d) {
        const double value = dq[size(d * queries + i)] = rules.scale * dot(ds, tk, d);
        if (!rounded) continue;
        TermErrors errors;
        for (int64_t j = 0; j < keys; ++j) errors.add(rules.scale * ds[size(j)] * tk.at(d)[j], error);
        // The log-sum-exp is off by as much as the sum of the rounded weights.
        dq_rounding.set(d * queries + i, errors, value,
                        {error.most + stored.most, std::hypot(error.deviation, stored.deviation)});
      }
      deltas[size(i)] = delta;
    }
  });
  if (dy.defined()) {
    parallel_for(keys, 1, [&](int64_t begin, int64_t end) {
      Row p(size(queries)), ds(size(queries));
      for (int64_t j = begin; j < end; ++j) {
        products(tk, j, tq, p);
        products(tv, j, tg, ds);
        for (int64_t i = 0; i < queries; ++i) {
          const double score = rules.score(p[size(i)], i, j), keep = rules.keep(i, j);
          const double weight = score == kNone ? 0 : std::exp(score - sums[size(i)]);
          ds[size(i)] = weight * (keep * ds[size(i)] - deltas[size(i)]);
          p[size(i)] = weight * keep;
        }
        for (int64_t d = 0; d < width; ++d) {
          const double of_v = dv[size(d * keys + j)] = dot(p, tg, d);
          const double of_k = dk[size(d * keys + j)] = rules.scale * dot(ds, tq, d);
          if (!rounded) continue;
          TermErrors v_errors, k_errors;
          for (int64_t i = 0; i < queries; ++i) {
            // Of the weight or dS, and of the log-sum-exp.
            const Relative error = errors_of_weights[size(i)], both{2 * error.most, std::sqrt(2) * error.deviation};
            v_errors.add(p[size(i)] * tg.at(d)[i], both);
            k_errors.add(rules.scale * ds[size(i)] * tq.at(d)[i], both);
          }
          dv_rounding.set(d * keys + j, v_errors, of_v, stored);
          dk_rounding.set(d * keys + j, k_errors, of_k, stored);
        }
      }
    });
  }
  AttentionReference result;
  result.y = untransposed(y, queries, width);
  result.log_sum_exp = from_vector(sums, {queries});
  if (rounded) result.y_rounding = untransposed(y_rounding, queries, width);
  if (dy.defined() && rounded) {
    result.dq_rounding = untransposed(dq_rounding, queries, width);
    result.dk_rounding = untransposed(dk_rounding, keys, width);
    result.dv_rounding = untransposed(dv_rounding, keys, width);
  }
  if (dy.defined()) {
    result.dq = untransposed(dq, queries, width);
    result.dk = untransposed(dk, keys, width);
    result.dv = untransposed(dv, keys, width);
  }
  set_default_device(device);
  return result;
}

}  // namespace camo::test
