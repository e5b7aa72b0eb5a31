#include "apps/camoxpert/training/trainer.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "apps/camoxpert/training/board.h"
#include "apps/camoxpert/training/report.h"
#include "apps/camoxpert/training/stop_signals.h"
#include "core/random.h"
#include "models/camoxpert/checkpoint.h"
#include "models/camoxpert/warm_up.h"
#include "models/weights/state.h"

namespace camo::app {

Trainer::Trainer(const TrainOptions& options, const std::string& config_toml)
    : options_(options), config_(config_toml), stop_request_(StopSignals::received) {
  options_.check();
  on_nan_ = parse_on_nan(options_.on_nan);
  device_ = options_.common.apply();
  autocast_ = options_.common.autocast();
  loss_ = make_loss(options_.loss);
  data_ = plan_data(options_);
  const auto resume_point = find_resume_point(options_, config_, data_.fingerprint(), warnings_);
  resumed_ = resume_point.has_value();
  seed_everything(options_.seed);
  network_ = std::make_unique<CamoXpert>(options_.network);
  if (!resumed_ && !options_.pretrained.empty()) {
    weights_report_ = load_weights(*network_, options_.pretrained, {.partial = options_.partial}).str();
  }
  network_->to(device_, f32);
  if (options_.use_ema) ema_ = std::make_unique<Ema>(*network_, options_.ema_decay);
  make_loader();
  stages_ = plan_stages(options_, loader_->batches_per_epoch());
  if (resumed_) restore(*resume_point);
  state_.config = config_;
  state_.data_fingerprint = data_.fingerprint();
  make_stepper();
  const bool goes_on = resumed_ && is_of_run(resume_point->file, options_.checkpoint_dir);
  folder_ = std::make_unique<RunFolder>(options_.checkpoint_dir, config_, resumed_ ? state_.step : -1, !goes_on);
  saves_at_once_ = resumed_ && options_.resume != "auto";
}

void Trainer::make_loader() {
  LoaderOptions loading = loader_options(options_, data_, device_);
  loading.on_bad_image = [this](const std::string& message) { folder_->log("replaced a damaged picture: " + message); };
  loader_ = std::make_unique<DataLoader>(data_.train, loading);
  batches_ = std::make_unique<DeviceBatches>(*loader_, device_);
}

void Trainer::make_stepper() {
  stepper_ = std::make_unique<Stepper>(*network_, *loss_, *loader_, *batches_, ema_.get(),
                                       StepOptions{.clip_norm = options_.clip_norm,
                                                   .autocast = autocast_,
                                                   .loss_scale = options_.loss_scale,
                                                   .cuda_graphs = parse_cuda_graphs(options_.common.cuda_graphs)});
  if (stepper_->scaler() != nullptr && !state_.scaler.is_null()) load_scaler(*stepper_->scaler(), state_.scaler);
}

void Trainer::set_loss(std::unique_ptr<Loss> loss) {
  loss_ = std::move(loss);
  make_stepper();
}

void Trainer::restore(const ResumePoint& point) {
  try {
    network_->load_state_dict(point.contents.weights);
    if (ema_) ema_->load_state_dict(point.contents.averages);
  } catch (const Error& error) {
    throw error.with_context("while going on from " + point.file.string());
  }
  weights_report_ = "of " + point.file.string();
  restored_optimizer_ = point.contents.optimizer;
  state_ = point.state;
  seconds_before_ = state_.seconds;
  default_generator().set_state(state_.random);
}

double Trainer::seconds() const {
  return seconds_before_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

bool Trainer::epoch_done(const Stage& stage) const {
  return state_.batch >= loader_->batches_per_epoch() || state_.stage_step >= stage.steps;
}

bool Trainer::stopped_early() const {
  return options_.patience > 0 && is_last_stage() && state_.validations_without_gain >= options_.patience;
}

void Trainer::save(const char* name) {
  state_.random = default_generator().state();
  state_.seconds = seconds();
  state_.scaler = stepper_->scaler() != nullptr ? scaler_to_json(*stepper_->scaler()) : nlohmann::json();
  const double iou = state_.history.empty() ? 0 : state_.history.back().value("val_iou", 0.0);
  save_checkpoint(
      checkpoint_path(folder_->path(), name), *network_,
      {.spec = options_.network, .img_size = options_.img_size, .epoch = state_.epoch, .step = state_.step, .iou = iou},
      {.ema = ema_.get(), .optimizer = stepper_->optimizer(), .run_state = to_text(state_)});
  if (progressed_) rollbacks_in_a_row_ = 0;
}

void Trainer::stop_if_asked() {
  if (const int signal = stop_request_(); signal != 0) save_and_stop(signal);
}

void Trainer::save_and_stop(int signal) {
  read_steps();
  save("last");
  folder_->log(
      fmt::format("stopped by signal {} after step {}; --resume auto goes on from there", signal, state_.step));
  throw StoppedBySignal{signal};
}

std::unique_ptr<AdamW> Trainer::make_optimizer() const {
  return std::make_unique<AdamW>(parameter_groups(*network_, options_.backbone_lr_scale),
                                 AdamWOptions{.lr = options_.lr, .weight_decay = options_.weight_decay});
}

void Trainer::begin_stage(const Stage& stage) {
  network_->backbone().set_requires_grad(!stage.backbone_frozen);
  std::unique_ptr<AdamW> optimizer = make_optimizer();
  optimizer->load_state_dict(std::exchange(restored_optimizer_, {}));
  stepper_->set_optimizer(std::move(optimizer));
  folder_->log(fmt::format("{}: epochs {} to {}, {} steps, {:L} trainable parameters", stage.name,
                           stage.first_epoch + 1, stage.end_epoch, stage.steps, network_->parameter_count(true)));
}

void Trainer::book(const StepReport& report) {
  const StepPlan& plan = report.plan;
  state_.epoch_losses.add(report.losses);
  state_.expert_counts.resize(report.expert_counts.size());
  for (size_t layer = 0; layer < report.expert_counts.size(); ++layer) {
    state_.expert_counts[layer].resize(report.expert_counts[layer].size());
    for (size_t e = 0; e < report.expert_counts[layer].size(); ++e) {
      state_.expert_counts[layer][e] += report.expert_counts[layer][e];
    }
  }
  state_.images += plan.batches * options_.batch_size;
  shown_ = report.losses;
  progressed_ = true;
  nlohmann::json row{
      {"step", plan.step}, {"epoch", plan.epoch + 1}, {"lr", plan.lr}, {"gradient_norm", report.gradient_norm}};
  if (stepper_->scaler() != nullptr) row["loss_scale"] = report.loss_scale;
  report.losses.write_to(row);
  folder_->add_metrics(row);
  const bool frozen = stages_[static_cast<size_t>(state_.stage)].backbone_frozen;
  add_step(folder_->tensorboard(), report, frozen ? 0 : options_.backbone_lr_scale);
  if (GradScaler* scaler = stepper_->scaler()) {
    add_scaler(folder_->tensorboard(), plan.step, report.loss_scale, scaler->state().skipped);
  }
}

void Trainer::read_steps() {
  if (stepper_->pending() == 0) return;
  const Stepper::Outcome outcome = stepper_->read();
  for (const StepReport& report : outcome.reports) book(report);
  if (outcome.bad) handle(*outcome.bad);
}

void Trainer::handle(const BadStep& bad) {
  state_.step = bad.plan.step;
  state_.stage_step = bad.plan.stage_step;
  state_.batch = bad.plan.first_batch + bad.plan.batches;
  if (bad.overflow) return skip_overflow(bad);
  const std::string what = fmt::format("step {} is not finite: {}", bad.plan.step, bad.reason);
  const bool skips = on_nan_.action == OnNan::Action::skip && state_.skipped_steps < on_nan_.limit;
  const bool rolls_back = on_nan_.action == OnNan::Action::rollback && rollbacks_in_a_row_ < on_nan_.limit;
  if (!skips && !rolls_back) {
    // The state before the step: a resumed run meets it again, perhaps with another --lr or --on-nan.
    state_.step = bad.plan.step - 1;
    state_.stage_step = bad.plan.stage_step - 1;
    state_.batch = bad.plan.first_batch;
    default_generator().set_state(bad.before);
    save("last");
    const char* const given_up = on_nan_.action == OnNan::Action::skip       ? " after as many skips as --on-nan allows"
                                 : on_nan_.action == OnNan::Action::rollback ? " after as many rollbacks as help"
                                                                             : "";
    const std::string message = fmt::format(
        "train: {}{}; the weights are those of the step before, saved in {}; go on with --resume auto and a "
        "lower --lr or --clip-norm, or --on-nan skip:N",
        what, given_up, checkpoint_path(folder_->path(), "last").string());
    folder_->log(message);
    fail(ErrorCode::not_finite, message);
  }
  folder_->add_metrics({{"step", bad.plan.step},
                        {"epoch", bad.plan.epoch + 1},
                        {"lr", bad.plan.lr},
                        {"not_finite", bad.reason},
                        {"action", skips ? "skip" : "rollback"}});
  if (skips) {
    ++state_.skipped_steps;
    folder_->log(fmt::format("warning: {}; skipped, {} of at most {}", what, state_.skipped_steps, on_nan_.limit));
  } else {
    folder_->log("warning: " + what);
    roll_back();
  }
}

void Trainer::skip_overflow(const BadStep& bad) {
  folder_->add_metrics({{"step", bad.plan.step},
                        {"epoch", bad.plan.epoch + 1},
                        {"lr", bad.plan.lr},
                        {"not_finite", bad.reason},
                        {"action", "lower the loss scale"}});
  folder_->log(fmt::format("step {} overflows f16 and is skipped: {}", bad.plan.step, bad.reason));
  add_scaler(folder_->tensorboard(), bad.plan.step, stepper_->scaler()->scale(), stepper_->scaler()->state().skipped);
}

void Trainer::roll_back() {
  const ResumePoint point = *newest_resume_point(folder_->path(), warnings_);
  for (const std::string& warning : std::exchange(warnings_, {})) folder_->log(warning);
  network_->load_state_dict(point.contents.weights);
  if (ema_) ema_->load_state_dict(point.contents.averages);
  std::unique_ptr<AdamW> optimizer = make_optimizer();
  // Of an earlier stage, its state belongs to other parameters.
  if (point.state.stage == state_.stage) optimizer->load_state_dict(point.contents.optimizer);
  stepper_->set_optimizer(std::move(optimizer));
  ++state_.rollbacks;
  ++rollbacks_in_a_row_;
  progressed_ = false;
  folder_->log(fmt::format("rolled back to the weights of step {} ({}); going on behind step {}", point.state.step,
                           point.file.string(), state_.step));
}

void Trainer::show_progress(Progress& progress, const Stage& stage) const {
  int64_t left = stage.steps - state_.stage_step;
  for (size_t s = static_cast<size_t>(state_.stage) + 1; s < stages_.size(); ++s) left += stages_[s].steps;
  const double per_step = state_.training_seconds / static_cast<double>(std::max<int64_t>(1, state_.step));
  const GradScaler* const scaler = stepper_->scaler();
  progress.update(
      state_.batch * options_.batch_size,
      fmt::format(
          "{}  lr {:.1e}{}  mem {}  run ETA {}", shown_.count > 0 ? shown_.str() : "", stepper_->optimizer()->lr(),
          scaler == nullptr ? "" : fmt::format("  scale {} ({} skipped)", scaler->scale(), scaler->state().skipped),
          format_bytes(memory_stats(device_).peak_bytes), format_duration(per_step * static_cast<double>(left))));
}

void Trainer::train_epoch(const Stage& stage) {
  network_->train();
  loader_->start_epoch(state_.epoch, state_.batch);
  const int64_t total = loader_->batches_per_epoch();
  const size_t read_every = steps_between_reads(device_);
  Progress progress(fmt::format("epoch {}/{}", state_.epoch + 1, options_.epochs), total * options_.batch_size,
                    "images");
  while (true) {
    if (epoch_done(stage) || out_of_time_) read_steps();  // may set the state back
    if (epoch_done(stage) || out_of_time_) break;
    stop_if_asked();
    const double before = seconds();
    StepPlan plan{.step = state_.step + 1,
                  .stage_step = state_.stage_step + 1,
                  .epoch = state_.epoch,
                  .first_batch = state_.batch,
                  .batches = std::min(options_.accumulation_steps, total - state_.batch),
                  .lr = learning_rate(options_, stage, state_.stage_step)};
    const bool had_graphs = stepper_->graphs_given_up().empty();
    stepper_->run(plan);
    if (had_graphs && !stepper_->graphs_given_up().empty()) {
      folder_->log("warning: going on without CUDA graphs: " + stepper_->graphs_given_up());
    }
    state_.step = plan.step;
    state_.stage_step = plan.stage_step;
    state_.batch = plan.first_batch + plan.batches;
    const bool saves = options_.save_every > 0 && state_.step % options_.save_every == 0;
    const bool reads = plan.step == 1 || stepper_->pending() >= read_every || saves;
    if (reads) read_steps();
    state_.training_seconds += seconds() - before;
    if (plan.step == 1) {
      folder_->log(
          fmt::format("memory       {} at the peak of the first step", format_bytes(memory_stats(device_).peak_bytes)));
    }
    if (saves) save("last");
    if (reads) show_progress(progress, stage);
    out_of_time_ = options_.max_time > 0 && seconds() - seconds_before_ >= options_.max_time;
  }
}

void Trainer::validate_now() {
  const int64_t epoch = state_.step == 0 ? 0 : state_.epoch + 1;
  const std::filesystem::path sheet = folder_->sample(fmt::format("epoch_{:03}", epoch));
  Validation result;
  try {
    Progress progress("validation", static_cast<int64_t>(data_.validation.size()), "images");
    result = validate(*network_, ema_.get(), data_, options_, sheet, [&](int64_t done) {
      progress.update(done);
      if (const int signal = stop_request_(); signal != 0) throw StoppedBySignal{signal};
    });
  } catch (const StoppedBySignal& stop) {
    save_and_stop(stop.signal);  // a resumed run validates again
  }
  for (const std::string& message : result.left_out) {
    if (reported_bad_.insert(message).second) folder_->log("left out of the validation: " + message);
  }
  const double score = result.at(best_score_name(options_.best_by));
  nlohmann::json row{{"epoch", epoch}, {"step", state_.step}, {"seconds", seconds()}};
  for (const auto& [name, value] : result.scores) row["val_" + name] = value;
  add_validation(folder_->tensorboard(), state_.step, result, sheet);
  state_.validated_step = state_.step;
  if (state_.step == 0) {
    state_.untrained_score = score;
    folder_->log(fmt::format("untrained: validation {}; answering 'everything': IoU {:.4f}", result.str(),
                             result.everything_iou));
  } else {
    state_.epoch_losses.write_to(row);
    row["expert_counts"] = state_.expert_counts;
    const bool best = score > state_.best.value;
    if (best) state_.best = {.value = score, .epoch = epoch, .step = state_.step};
    state_.validations_without_gain = best ? 0 : state_.validations_without_gain + 1;
    folder_->log(fmt::format("epoch {:3}/{}  step {}  {}  |  validation {}{}  |  {}", epoch, options_.epochs,
                             state_.step, state_.epoch_losses.str(), result.str(), best ? "  best" : "",
                             format_duration(seconds())));
  }
  state_.history.push_back(row);
  folder_->write_history(state_.history);
}

void Trainer::end_epoch(const Stage& stage) {
  const bool complete = epoch_done(stage);
  const int64_t epoch = state_.epoch + 1;
  const bool last = !complete || epoch == stage.end_epoch || state_.stage_step >= stage.steps;
  const bool validates = state_.epoch_losses.count > 0 && state_.validated_step != state_.step &&
                         (last || epoch % options_.validate_every == 0);
  if (validates) validate_now();
  if (complete) {
    add_expert_load(folder_->tensorboard(), state_.step, state_.expert_counts);
    if (epoch % options_.expert_report_every == 0 || (last && is_last_stage())) {
      folder_->log(expert_table(state_.expert_counts));
    }
    state_.epoch = epoch;
    state_.batch = 0;
    state_.epoch_losses = {};
    state_.expert_counts = {};
  }
  if (validates && state_.best.step == state_.step) save("best");
  save("last");
}

void Trainer::run() {
  const StopSignals signals;
  try {
    run_stages();
  } catch (const Error& error) {
    // The loader knows a batch of the files, the validation its own: name all of the run.
    if (error.code() == ErrorCode::data) data_.check_files();
    throw;
  }
}

void Trainer::run_stages() {
  start_ = std::chrono::steady_clock::now();
  report_start(*folder_, options_, *network_, data_, device_, loader_->is_caching(), weights_report_);
  for (const std::string& warning : std::exchange(warnings_, {})) folder_->log(warning);
  if (resumed_) folder_->log(fmt::format("going on after step {}, in epoch {}", state_.step, state_.epoch + 1));
  else if (!options_.resume.empty()) folder_->log("no checkpoint to go on from yet: a new run");
  if (device_.is_cuda()) {
    const double before = seconds();
    warm_up_experts(*network_, options_.batch_size, options_.img_size, options_.img_size, autocast_);
    folder_->log(fmt::format("made the experts' plans for 1 to {} pictures in {}", options_.batch_size,
                             format_duration(seconds() - before)));
  }
  if (state_.validated_step < 0) {
    validate_now();
    save("last");  // what fails here would fail hours later
  }
  while (true) {
    const Stage& stage = stages_[static_cast<size_t>(state_.stage)];
    begin_stage(stage);
    if (std::exchange(saves_at_once_, false)) save("last");
    const auto has_more = [&] {  // an epoch that was begun is ended, even when all its steps are done
      return state_.batch > 0 || (state_.epoch < stage.end_epoch && state_.stage_step < stage.steps);
    };
    while (!out_of_time_ && !stopped_early() && has_more()) {
      train_epoch(stage);
      end_epoch(stage);
    }
    if (out_of_time_ || is_last_stage()) break;
    ++state_.stage;
    state_.stage_step = 0;
    state_.validations_without_gain = 0;
  }
  if (stepper_->scaler() != nullptr) state_.scaler = scaler_to_json(*stepper_->scaler());
  folder_->log(run_summary(state_, options_,
                           stopped_early() ? "; stopped early"
                           : out_of_time_  ? "; out of time"
                                           : "",
                           memory_stats(device_).peak_bytes));
}

}  // namespace camo::app
