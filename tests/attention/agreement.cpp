#include "tests/attention/agreement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "ops/attention/flash.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"

namespace camo::test {
namespace {

Tensor in_double(const Tensor& x) { return to(to(x.detach(), cpu), f64); }

/// The head of a result [B, N, H, D], or [B, H, N] for the log-sum-exp.
Tensor head_of(const Tensor& x, int64_t b, int64_t h) {
  const Tensor picture = select(x, 0, b);
  return in_double(clone(select(picture, picture.dims() == 3 ? 1 : 0, h)));
}

/// The root of the mean square of a - b.
double rms_difference(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  return x.empty() ? 0 : std::sqrt(sum / static_cast<double>(x.size()));
}
double largest(const Tensor& x) {
  double most = 1;
  for (const double value : x.to_vector<double>()) {
    if (std::isfinite(value)) most = std::max(most, std::abs(value));
  }
  return most;
}
/// Largest difference, relative to the largest element of b, as all_close() takes it.
double relative_error(const Tensor& a, const Tensor& b) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double most = 0;
  for (size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(x[i] - y[i]));
  return most / largest(b);
}
/// Whether each element of a is within its own `allowed`, and `more` of the largest element, of b's.
::testing::AssertionResult all_within(const Tensor& a, const Tensor& b, const Tensor& allowed, double more) {
  const auto x = a.to_vector<double>(), y = b.to_vector<double>(), most = allowed.to_vector<double>();
  const double floor = more * largest(b);
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::abs(x[i] - y[i]) <= most[i] + floor) continue;  // NaN is not
    return ::testing::AssertionFailure() << "element " << i << " in memory: " << x[i] << " and " << y[i]
                                         << " differ by " << std::abs(x[i] - y[i]) << ", rounding explains "
                                         << most[i] + floor;
  }
  return ::testing::AssertionSuccess();
}
/// Six standard deviations above the expected mean square of errors with these deviations, as its root.
double explained_rms(const Tensor& deviation) {
  double squares = 0, fourth_powers = 0;
  const auto values = deviation.to_vector<double>();
  for (const double value : values) squares += value * value, fourth_powers += std::pow(value, 4);
  return std::sqrt((squares + 6 * std::sqrt(2 * fourth_powers)) / static_cast<double>(values.size()));
}
double rms(const Tensor& x) { return rms_difference(x, zeros(x.shape(), f64, cpu)); }

/// In the order of AttentionOutputs::all().
std::array<Tensor, 5> values_of(const AttentionReference& reference) {
  return {reference.y, reference.log_sum_exp, reference.dq, reference.dk, reference.dv};
}
std::array<AttentionRounding, 5> roundings_of(const AttentionReference& reference) {
  return {reference.y_rounding, {}, reference.dq_rounding, reference.dk_rounding, reference.dv_rounding};
}
constexpr const char* kNames[] = {"output", "log-sum-exp", "gradient of q", "gradient of k", "gradient of v"};

bool all_finite(const Tensor& x) {
  const auto values = in_double(x).to_vector<double>();
  return std::all_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

/// A view of new memory filled with NaN, with these strides, that holds x.
Tensor placed(const Tensor& x, int64_t elements, const Shape& strides, int64_t start) {
  const Tensor view = make_view(full({elements}, std::nan(""), x.dtype(), x.device()), x.shape(), strides, start);
  copy_into(view, x);
  return view;
}

}  // namespace

bool flash_takes(DType dtype, int64_t width) {
  return flash::choose({default_device(), dtype, 16, 16, width}, AttentionBackend::flash).flash;
}

std::vector<DType> flash_dtypes() {
  if (default_device().is_cpu()) return {f64, f32};
  std::vector<DType> dtypes{f32, f16, bf16};
  std::erase_if(dtypes, [](DType dtype) { return !flash_takes(dtype, 16); });  // those of older GPUs
  return dtypes;
}

AttentionBounds attention_bounds(DType dtype) {
  // Inputs, weights and dS are rounded to 11 bits: scores of N(0, 1) numbers are off by 1.5e-4 (one standard
  // deviation), five times that where both factors are large, and twice that moves a row that hangs on two keys.
  if (dtype == f32 && default_device().is_cuda() && allow_tf32()) return {2e-3, 4e-3, 2e-3, 2e-3, {0x1p-11, 0x1p-21}};
  switch (dtype) {
    case DType::f64: return {1e-12, 1e-12, 1e-12, 1e-12, {0x1p-53, 0}};
    // An exponential is within 2^-22, and both factors of a product with weights keep 22 bits as pairs of halves.
    case DType::f32: return {5e-6, 1e-5, 3e-6, 3e-6, {0x1p-24, 0x1p-21}};
    // In 16 bits a row's weights are rounded before they are summed: log(1 + half a unit of the last place). Some of
    // the exponentials are cubic polynomials, within 7.5e-5.
    case DType::f16: return {5e-4, 1e-3, 5e-4, 2e-3, {0x1p-11, 7.5e-5}};
    default: return {4e-3, 8e-3, 4e-3, 1.6e-2, {0x1p-8, 7.5e-5}};
  }
}

std::string text(Layout layout) {
  constexpr const char* kNames[] = {"dense", "fused", "channels first", "padded", "misaligned"};
  return kNames[static_cast<int>(layout)];
}

AttentionInputs::AttentionInputs(int64_t batch, int64_t queries, int64_t keys, int64_t heads, int64_t width,
                                 DType dtype)
    : q(random_normal({batch, queries, heads, width}, 1, dtype)),
      k(random_normal({batch, keys, heads, width}, 1, dtype)),
      v(random_normal({batch, keys, heads, width}, 1, dtype)),
      dy(random_normal({batch, queries, heads, width}, 1, dtype)) {}

AttentionInputs AttentionInputs::as(Layout to) const {
  AttentionInputs result = *this;
  if (to == Layout::fused && q.shape() != k.shape()) to = Layout::dense;
  result.layout = to;
  const int64_t heads = q.size(2), width = q.size(3), channels = heads * width;
  if (to == Layout::fused) {
    const Tensor memory = full({q.size(0), q.size(1), 3, heads, width}, std::nan(""), q.dtype(), q.device());
    int part = 0;
    for (Tensor* x : {&result.q, &result.k, &result.v}) {
      const Tensor view = select(memory, 2, part++);
      copy_into(view, *x);
      *x = view;
    }
    return result;
  }
  for (Tensor* x : {&result.q, &result.k, &result.v, &result.dy}) {
    const int64_t tokens = x->size(1);
    switch (to) {
      case Layout::channels_first: {
        *x = placed(*x, x->numel(), {tokens * channels, 1, width * tokens, tokens}, 0);
        break;
      }
      case Layout::padded: {
        const int64_t head = width + 3, token = heads * head + 5;
        *x = placed(*x, x->size(0) * (tokens + 1) * token, {(tokens + 1) * token, token, head, 1}, 0);
        break;
      }
      case Layout::misaligned: {
        *x = placed(*x, x->numel() + 1, x->shape().contiguous_strides(), 1);
        break;
      }
      default: *x = clone(*x);
    }
  }
  return result;
}

std::string AttentionInputs::text() const {
  return concat_text(q.dtype(), ", batch ", q.size(0), ", ", q.size(1), " queries, ", k.size(1), " keys, ", q.size(2),
                     " heads of ", q.size(3), ", ", test::text(layout));
}

AttentionOutputs run_attention(const AttentionInputs& in, AttentionOptions options, AttentionBackend backend) {
  options.backend = backend;
  const Tensor q = in.q.detach(), k = in.k.detach(), v = in.v.detach();
  for (const Tensor& x : {q, k, v}) x.set_requires_grad(true);
  const AttentionResult result = attention_with_log_sum_exp(q, k, v, options);
  backward(result.y, in.dy);
  return {result.y.detach(), result.log_sum_exp, q.grad(), k.grad(), v.grad()};
}

void expect_explained(const AttentionInputs& in, const AttentionOutputs& got, const AttentionOptions& options) {
  const AttentionReference reference =
      attention_reference(in.q, in.k, in.v, in.dy, options, 0, 0, got.y, attention_bounds(in.q.dtype()).roundings);
  for (const size_t i : {0, 2, 3, 4}) {
    EXPECT_TRUE(all_within(head_of(got.all()[i], 0, 0), values_of(reference)[i], roundings_of(reference)[i].bound,
                           attention_bounds(f32).gradient))
        << kNames[i];
  }
}

void expect_agrees(const AttentionInputs& in, const AttentionOptions& options, const std::string& what, double gain) {
  SCOPED_TRACE(in.text() + (what.empty() ? "" : ", " + what));
  const AttentionBounds bounds = attention_bounds(in.q.dtype());
  const AttentionOutputs got = flash(in, options), plain = run_attention(in, options, AttentionBackend::math);
  EXPECT_TRUE(got.y.is_contiguous());
  const int64_t batch = in.q.size(0), heads = in.q.size(2);
  for (const auto& [b, h] :
       std::set<std::pair<int64_t, int64_t>>{{0, 0}, {batch / 2, heads / 2}, {batch - 1, heads - 1}}) {
    const auto expected = values_of(attention_reference(in.q, in.k, in.v, in.dy, options, b, h));
    AttentionReference stored;  // what follows from the output as it was stored, and what rounding does to it
    const auto explain = [&, b = b, h = h] {
      if (stored.y.defined()) return;
      stored = attention_reference(in.q, in.k, in.v, in.dy, options, b, h, got.y, bounds.roundings);
    };
    for (size_t i = 0; i < 5; ++i) {
      SCOPED_TRACE(concat_text(kNames[i], " of picture ", b, ", head ", h));
      const Tensor head = head_of(got.all()[i], b, h);
      const double bound = i == 0 ? bounds.output : i == 1 ? bounds.log_sum_exp : gain * bounds.gradient;
      double of_stored = 0;  // how far the stored output moves the result
      if (i != 1 && size_in_bytes(in.q.dtype()) == 2 && relative_error(head, expected[i]) > bound) {
        // With few keys or queries, or a result just above a power of two, single roundings reach the bound. Then no
        // element may be further off than they explain.
        explain();
        EXPECT_TRUE(all_within(head, values_of(stored)[i], roundings_of(stored)[i].bound,
                               gain * attention_bounds(f32).gradient));
        of_stored = relative_error(values_of(stored)[i], expected[i]);
      } else {
        EXPECT_TRUE(all_close(head, expected[i], bound));
      }
      if (i == 1 || in.q.dtype() == f64) continue;  // the reference is no more exact than f64
      // Of few rows, or of terms that are to cancel, means say little.
      if (in.q.size(1) < 16 || in.k.size(1) < 16 || gain != 1) continue;
      const double error = rms_difference(head, expected[i]);
      const double plain_error = rms_difference(head_of(plain.all()[i], b, h), expected[i]);
      double allowed = (i == 0 ? 2 : 3) * plain_error + 3 * bounds.roundings.stored * rms(expected[i]);
      if (error > allowed) {  // scores are rounded where flash does and math does not
        explain();
        allowed += explained_rms(roundings_of(stored)[i].deviation);
      }
      EXPECT_LE(error, allowed) << "of math: " << plain_error;
      EXPECT_LE(error, (i == 0 ? 1 : 2) * bounds.relative_l2 * rms(expected[i]) + 0.1 * (bound + of_stored));
    }
  }
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_TRUE(i == 1 || all_finite(got.all()[i])) << kNames[i] << " has elements that are not finite";
  }
}

}  // namespace camo::test
