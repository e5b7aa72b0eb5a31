#include "apps/camoxpert/bench/network_workloads.h"

#include "apps/camoxpert/training/data_plan.h"
#include "apps/camoxpert/training/stepper.h"
#include "core/autocast.h"
#include "core/error.h"
#include "core/random.h"
#include "models/camoxpert/inference_runner.h"
#include "models/camoxpert/training_runner.h"
#include "models/camoxpert/warm_up.h"
#include "ops/ops.h"

namespace camo::app {

namespace {

/// Which experts random gates choose decides what a step costs; with this they choose what is to be measured.
void prefer_expert(const CamoXpert& network, int64_t expert) {
  constexpr double kBeyondLogits = 1e4;
  for (const NamedTensor& parameter : network.named_parameters()) {
    if (parameter.name.ends_with("gate.fusion.3.bias"))
      fill(slice(parameter.tensor.detach(), 0, expert, expert + 1), kBeyondLogits);
  }
}

std::unique_ptr<CamoXpert> make_network(const NetworkBenchOptions& options, Device device) {
  CamoXpertSpec spec = options.train.network;
  if (spec.attention_heads == 0) spec.attention_heads = edgenext_spec(spec.backbone).dims[2] % 8 == 0 ? 8 : 4;
  seed_everything(options.train.seed);
  auto network = std::make_unique<CamoXpert>(spec);
  for (const int64_t expert : options.experts) prefer_expert(*network, expert);
  network->to(device, f32);
  network->train(options.trains);
  return network;
}

std::unique_ptr<AdamW> make_optimizer(const CamoXpert& network, const TrainOptions& options) {
  return std::make_unique<AdamW>(parameter_groups(network, 1.0),
                                 AdamWOptions{.lr = options.lr, .weight_decay = options.weight_decay});
}

void make_group_plans(CamoXpert& network, const NetworkBenchOptions& options, Device device) {
  if (!device.is_cuda() || !options.group_plans) return;
  const TrainOptions& train = options.train;
  network.zero_grad();
  warm_up_experts(network, train.batch_size, train.img_size, train.img_size, train.common.autocast());
}

/// A batch that stays on the device.
struct RandomPictures {
  RandomPictures(const TrainOptions& options, Device device) {
    const Shape shape{options.batch_size, options.img_size, options.img_size, 3};
    images = to(random_uniform(shape, -2, 2, f32, cpu), device);
    const Tensor noise = random_uniform({shape[0], shape[1], shape[2], 1}, 0, 1, f32, cpu);
    masks = to(to(greater(noise, 0.5), f32), device);
  }

  /// A batch as the loader hands it over, which training overlaps with the step before.
  void upload() const {
    normalize_batch({to(zeros(images.shape(), u8, cpu), images.device()),
                     to(zeros(masks.shape(), u8, cpu), images.device()),
                     {},
                     std::vector<Augmentation>(static_cast<size_t>(images.size(0)))});
  }

  Tensor images, masks;
};

using Counts = std::vector<std::vector<int64_t>>;

Counts counts_of(const CamoXpertOutput& output) {
  Counts counts;
  for (const RoutingReport& stage : output.routing) counts.push_back(stage.counts);
  return counts;
}

/// One element: reading it waits for the device.
double first_of(const Tensor& x) { return slice(reshape(x, {-1}), 0, 0, 1).item(); }

class RandomTraining final : public Workload {
 public:
  RandomTraining(const NetworkBenchOptions& options, Device device)
      : options_(options.train),
        network_(make_network(options, device)),
        runner_(*network_, parse_cuda_graphs(options_.common.cuda_graphs)),
        pictures_(options_, device),
        loss_(make_loss(options_.loss)),
        optimizer_(make_optimizer(*network_, options_)) {
    make_group_plans(*network_, options, device);
  }

  void run() override {
    step([](const char*, const char*) {});
    finish();
  }

  double finish() override { return first_of(result_); }

  void run_recorded(const Mark& mark) override {
    pictures_.upload();
    mark("upload and normalise a batch", "data");
    step(mark);
  }

  Counts pictures_per_expert() const override { return counts_; }
  bool used_graphs() const override { return runner_.used_graphs(); }

 private:
  void step(const Mark& mark) {
    network_->zero_grad();
    const LossOutput loss = [&] {
      const Autocast scope(options_.common.autocast());
      const CamoXpertOutput output = runner_(pictures_.images);
      counts_ = counts_of(output);
      return (*loss_)(output, pictures_.masks);
    }();
    mark("forward of the rest", "other");
    backward(loss.total);
    mark("sums of gradients", "other");
    const Tensor norm = clip_gradients(network_->parameters(), options_.clip_norm);
    mark("clip gradients", "other");
    optimizer_->step(norm);
    mark("AdamW", "other");
    result_ = loss.total;
  }

  TrainOptions options_;
  std::unique_ptr<CamoXpert> network_;
  TrainingRunner runner_;
  RandomPictures pictures_;
  std::unique_ptr<Loss> loss_;
  std::unique_ptr<AdamW> optimizer_;
  Tensor result_;
  Counts counts_;
};

class RandomInference final : public Workload {
 public:
  RandomInference(const NetworkBenchOptions& options, Device device)
      : autocast_(options.train.common.autocast()),
        network_(make_network(options, device)),
        pictures_(options.train, device),
        runner_(*network_, parse_cuda_graphs(options.train.common.cuda_graphs)) {}

  void run() override {
    const NoGrad no_grad;
    const Autocast scope(autocast_);
    result_ = sigmoid(runner_(pictures_.images));
    finish();
  }

  double finish() override { return first_of(result_); }

  void run_recorded(const Mark& mark) override {
    pictures_.upload();
    mark("upload and normalise a batch", "data");
    const Autocast scope(autocast_);
    const CamoXpertOutput output = (*network_)(pictures_.images);
    counts_ = counts_of(output);
    result_ = sigmoid(output.logits);
    mark("forward of the rest", "other");
  }

  bool used_graphs() const override { return runner_.used_graphs(); }
  Counts pictures_per_expert() const override { return counts_; }

 private:
  DType autocast_;
  std::unique_ptr<CamoXpert> network_;
  RandomPictures pictures_;
  InferenceRunner runner_;
  Tensor result_;
  Counts counts_;
};

/// Steps of one epoch after the other. Numbers are read as seldom as Trainer reads them.
class DiskTraining final : public Workload {
 public:
  DiskTraining(const NetworkBenchOptions& options, Device device)
      : options_(options.train),
        plan_(plan_data(options_)),
        network_(make_network(options, device)),
        loss_(make_loss(options_.loss)),
        loader_(plan_.train, loader_options(options_, plan_, device)),
        batches_(loader_, device),
        stepper_(*network_, *loss_, loader_, batches_, nullptr,
                 {.clip_norm = options_.clip_norm,
                  .autocast = options_.common.autocast(),
                  .loss_scale = options_.loss_scale,
                  .cuda_graphs = parse_cuda_graphs(options_.common.cuda_graphs)}),
        steps_between_reads_(steps_between_reads(device)) {
    stepper_.set_optimizer(make_optimizer(*network_, options_));
    make_group_plans(*network_, options, device);
    loader_.start_epoch(0);
  }

  void run() override {
    if (batch_ == loader_.batches_per_epoch()) {
      finish();  // may set the position back
      if (batch_ == loader_.batches_per_epoch()) {
        loader_.start_epoch(++epoch_);
        batch_ = 0;
      }
    }
    ++step_;
    stepper_.run({.step = step_, .stage_step = step_, .epoch = epoch_, .first_batch = batch_, .lr = options_.lr});
    ++batch_;
    if (stepper_.pending() >= steps_between_reads_) finish();
  }

  double finish() override {
    const Stepper::Outcome outcome = stepper_.read();
    if (!outcome.reports.empty()) loss_value_ = outcome.reports.back().losses.sums.front().second;
    if (outcome.bad) {
      CAMO_CHECK_CODE(not_finite, outcome.bad->overflow, "bench: a step is not finite: ", outcome.bad->reason);
      epoch_ = outcome.bad->plan.epoch;
      batch_ = outcome.bad->plan.first_batch + 1;
    }
    return loss_value_;
  }

  void run_recorded(const Mark& mark) override {
    run();
    finish();
    mark("a step", "other");
  }

  double seconds_waited() const override { return batches_.seconds_waited(); }
  bool used_graphs() const override { return stepper_.used_graphs(); }

 private:
  TrainOptions options_;
  DataPlan plan_;
  std::unique_ptr<CamoXpert> network_;
  std::unique_ptr<Loss> loss_;
  DataLoader loader_;
  DeviceBatches batches_;
  Stepper stepper_;
  size_t steps_between_reads_;
  int64_t epoch_ = 0, batch_ = 0, step_ = 0;
  double loss_value_ = 0;
};

}  // namespace

TrainOptions single_steps() {
  TrainOptions options;
  options.cache_mb = 0;
  options.network = {.attention_heads = 0};
  options.stage1_epochs = 0;
  options.accumulation_steps = 1;
  options.lr = 1e-5;
  options.seed = 0;
  return options;
}

void NetworkBenchOptions::check() const {
  train.check();
  CAMO_CHECK_CODE(usage, warmup >= 0, "--warmup: must not be negative; got ", warmup);
  CAMO_CHECK_CODE(usage, steps >= 1, "--steps: must be at least 1; got ", steps);
  CAMO_CHECK_CODE(usage, rows >= 0, "--rows: must not be negative; got ", rows);
  CAMO_CHECK_CODE(usage, max_time >= 0, "--max-time: must not be negative; got ", max_time);
  CAMO_CHECK_CODE(usage, profile_steps >= 1, "--profile-steps: must be at least 1; got ", profile_steps);
  for (const int64_t expert : experts) {
    CAMO_CHECK_CODE(usage, expert >= 0 && expert < train.network.num_experts, "--experts: must be from 0 to ",
                    train.network.num_experts - 1, "; got ", expert);
  }
}

std::unique_ptr<Workload> make_workload(const NetworkBenchOptions& options, Device device) {
  if (!options.trains) return std::make_unique<RandomInference>(options, device);
  if (options.train.dataset_path.empty()) return std::make_unique<RandomTraining>(options, device);
  return std::make_unique<DiskTraining>(options, device);
}

}  // namespace camo::app
