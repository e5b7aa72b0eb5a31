#include "apps/camoxpert/training/stepper.h"

#include <fmt/core.h>

#include <cmath>
#include <utility>

#include "apps/camoxpert/training/finite_search.h"
#include "core/additions.h"
#include "core/autocast.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/shape_ops.h"

namespace camo::app {

size_t steps_between_reads(Device device) { return device.is_cuda() ? 10 : 1; }

Stepper::Stepper(CamoXpert& network, const Loss& loss, DataLoader& loader, DeviceBatches& batches, Ema* ema,
                 const StepOptions& options)
    : network_(network),
      runner_(network, options.cuda_graphs),
      loss_(loss),
      loader_(loader),
      batches_(batches),
      ema_(ema),
      options_(options),
      guard_(zeros({}, f64, network.parameters().front().device())) {
  if (options.autocast == f16) scaler_.emplace(GradScalerOptions{.initial = options.loss_scale});
  for (const NamedTensor& buffer : network.named_buffers()) {
    (is_floating(buffer.tensor.dtype()) ? buffers_ : counters_).push_back(buffer.tensor);
  }
}

void Stepper::set_optimizer(std::unique_ptr<AdamW> optimizer) {
  CAMO_ASSERT(pending_.empty());
  optimizer_ = std::move(optimizer);
}

void Stepper::accumulate(Pending& pending) {
  network_.zero_grad();
  for (int64_t i = 0; i < pending.plan.batches; ++i) {
    const std::optional<Batch> batch = batches_.next();
    CAMO_ASSERT(batch.has_value());
    const auto [output, loss] = [&] {
      const Autocast precision(options_.autocast);
      CamoXpertOutput predicted = runner_(batch->images);
      LossOutput computed = loss_(predicted, batch->masks);
      return std::pair(std::move(predicted), std::move(computed));
    }();
    if (pending.expert_counts.empty()) pending.expert_counts.resize(output.routing.size());
    for (size_t layer = 0; layer < output.routing.size(); ++layer) {
      const std::vector<int64_t>& counts = output.routing[layer].counts;
      pending.expert_counts[layer].resize(counts.size());
      for (size_t e = 0; e < counts.size(); ++e) pending.expert_counts[layer][e] += counts[e];
    }
    backward(loss.total * ((scaler_ ? scaler_->scale() : 1.0) / static_cast<double>(pending.plan.batches)));
    const NoGrad no_grad;
    Tensors values{reshape(loss.total, {1})};
    loss_names_ = {"loss"};
    for (const auto& [name, value] : loss.parts) {
      values.push_back(reshape(value, {1}));
      loss_names_.push_back(name);
    }
    const Tensor row = to(concat(values, 0), f64);
    if (pending.losses.defined()) add_into(pending.losses, row);
    else pending.losses = row;
  }
}

void Stepper::accumulate_or_give_graphs_up(Pending& pending) {
  try {
    return accumulate(pending);
  } catch (const Error& error) {
    const bool may_help = options_.cuda_graphs == CudaGraphs::automatic && runner_.used_graphs();
    if (error.code() != ErrorCode::out_of_memory || !may_help) throw;
    graphs_given_up_ = error.what();
  }
  network_.zero_grad();
  runner_.turn_graphs_off();
  restore_buffers(pending);
  default_generator().set_state(pending.before);
  loader_.start_epoch(pending.plan.epoch, pending.plan.first_batch);
  pending.losses = {};
  pending.expert_counts.clear();
  accumulate(pending);
}

void Stepper::run(const StepPlan& plan) {
  Pending pending{.plan = plan,
                  .losses = {},
                  .gradient_norm = {},
                  .statistics = {},
                  .expert_counts = {},
                  .before = default_generator().state(),
                  .after = {},
                  .scaler = scaler_,
                  .optimizer_steps = optimizer_->step_counts(),
                  .buffers = joined(buffers_),
                  .counters = {}};
  for (const Tensor& counter : counters_) pending.counters.push_back(clone(counter));
  accumulate_or_give_graphs_up(pending);
  pending.after = default_generator().state();
  pending.gradient_norm = clip_gradients(network_.parameters(), options_.clip_norm, scaler_ ? 1 / scaler_->scale() : 1);
  if (scaler_) scaler_->step_taken();
  pending.statistics = sum(to(joined(buffers_), f64));
  add_into(guard_, select(pending.losses, 0, 0));
  add_into(guard_, pending.gradient_norm);
  add_into(guard_, pending.statistics);
  optimizer_->set_lr(plan.lr);
  optimizer_->step(guard_);
  if (ema_ != nullptr) ema_->update(network_, guard_);
  pending_.push_back(std::move(pending));
}

Stepper::Outcome Stepper::read() {
  Outcome outcome;
  if (pending_.empty()) return outcome;
  Tensors numbers;
  for (const Pending& pending : pending_) {
    for (const Tensor& x : {pending.losses, pending.gradient_norm, pending.statistics}) numbers.push_back(x);
  }
  const std::vector<double> all = joined(numbers).to_vector<double>();  // the only wait
  auto number = all.begin();
  for (Pending& pending : std::exchange(pending_, {})) {
    const std::vector<double> values(number, number + pending.losses.numel());
    number += pending.losses.numel();
    const double norm = *number++, statistics = *number++;
    const auto wrong = [](const char* what, double value) {
      return std::isfinite(value) ? std::string() : fmt::format("{} {}", what, std::isnan(value) ? "nan" : "infinite");
    };
    std::string reason = wrong("the loss is", values[0]);
    if (reason.empty()) reason = wrong("the running statistics of batch norms are", statistics);
    const bool overflow =
        reason.empty() && !std::isfinite(norm) && pending.scaler.has_value() && pending.scaler->can_back_off();
    if (reason.empty()) reason = wrong("the gradient's norm is", norm);
    if (!reason.empty()) {
      outcome.bad = go_back(pending, reason, overflow);
      break;
    }
    StepReport report{.plan = pending.plan,
                      .losses = {.sums = {}, .count = pending.plan.batches},
                      .gradient_norm = norm,
                      .loss_scale = pending.scaler ? pending.scaler->scale() : 1,
                      .expert_counts = std::move(pending.expert_counts)};
    for (size_t i = 0; i < values.size(); ++i) report.losses.sums.emplace_back(loss_names_[i], values[i]);
    outcome.reports.push_back(std::move(report));
  }
  return outcome;
}

void Stepper::restore_buffers(const Pending& pending) const {
  int64_t position = 0;
  for (const Tensor& buffer : buffers_) {
    copy_into(buffer, reshape(slice(pending.buffers, 0, position, position + buffer.numel()), buffer.shape()));
    position += buffer.numel();
  }
  for (size_t i = 0; i < counters_.size(); ++i) copy_into(counters_[i], pending.counters[i]);
}

BadStep Stepper::go_back(const Pending& bad, const std::string& what, bool overflow) {
  guard_ = zeros({}, f64, guard_.device());
  optimizer_->set_step_counts(bad.optimizer_steps);
  scaler_ = bad.scaler;
  restore_buffers(bad);
  std::string reason = what;
  if (overflow) {
    reason += fmt::format("; loss scale {}, now ", scaler_->scale());
    scaler_->back_off();
    reason += fmt::format("{}", scaler_->scale());
  } else {
    try {
      const std::string found = search(bad);
      reason += found.empty() ? "; no tensor was non-finite when the step was repeated"
                              : "; the first non-finite tensor is " + found;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::out_of_memory) throw;
      reason += "; the memory is too small to repeat the step and look for the tensor";
    }
  }
  network_.zero_grad();
  restore_buffers(bad);
  if (ema_ != nullptr) ema_->copy_counts(network_);
  default_generator().set_state(bad.after);
  loader_.start_epoch(bad.plan.epoch, bad.plan.first_batch + bad.plan.batches);
  return {bad.plan, overflow, reason, bad.before, bad.after};
}

std::string Stepper::search(const Pending& bad) {
  struct KeepAll {  // recomputed operations would not be seen in their order
    CamoXpert& network;
    bool checkpointing;
    explicit KeepAll(CamoXpert& n) : network(n), checkpointing(n.spec().gradient_checkpointing) {
      network.set_gradient_checkpointing(false);
    }
    ~KeepAll() { network.set_gradient_checkpointing(checkpointing); }
    KeepAll(const KeepAll&) = delete;
    KeepAll& operator=(const KeepAll&) = delete;
  } const keep_all(network_);
  loader_.start_epoch(bad.plan.epoch, bad.plan.first_batch);
  default_generator().set_state(bad.before);
  Pending again;
  again.plan = bad.plan;
  return find_first_non_finite(network_, [&] { accumulate(again); });
}

}  // namespace camo::app
