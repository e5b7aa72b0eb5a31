// The right-hand side of docs/FROM_PYTORCH.md: every piece runs, and its results are compared with those that
// from_pytorch.py gets from PyTorch.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <string>

#include "core/autocast.h"
#include "core/autograd.h"
#include "core/pth/pth.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "data/loader.h"
#include "data/synthetic.h"
#include "nn/layers.h"
#include "nn/optim/adamw.h"
#include "nn/optim/ema.h"
#include "nn/optim/schedule.h"
#include "ops/ops.h"

using namespace camo;

namespace {

int failures = 0;
void expect(bool holds, const char* what) {
  if (!holds) ++failures;
  std::printf("%s %s\n", holds ? "ok    " : "FAILED", what);
}

bool close(double a, double b, double tolerance = 1e-6) {
  return std::abs(a - b) <= tolerance * std::max(1.0, std::abs(b));
}

bool values_are(const Tensor& x, const Shape& shape, const std::vector<double>& wanted) {
  const std::vector<double> values = x.detach().to_vector<double>();
  bool same = x.shape() == shape && values.size() == wanted.size();
  for (size_t i = 0; same && i < values.size(); ++i) same = close(values[i], wanted[i]);
  return same;
}

const std::filesystem::path folder = std::filesystem::temp_directory_path() / "camo_from_pytorch";

void tensors() {
  // [doc: tensors]
  Tensor x = from_vector<float>({0, 1, 2, 3, 4, 5}, {2, 3});
  Tensor y = transpose(slice(x, 1, 1, 3), 0, 1);  // a view: strides [1, 3]
  Tensor z = concat({x, unsqueeze(mean(x, {1}), 1)}, 1);
  Tensor w = where(greater(x, 2.0), x, zeros_like(x)) / 2;
  double total = sum(w).item();
  std::vector<float> row = select(z, 0, 1).to_vector<float>();
  // [doc end]
  expect(y.shape() == Shape{2, 2} && y.strides() == Shape{1, 3} && y.storage() == x.storage(), "a view");
  expect(values_are(y, {2, 2}, {1, 4, 2, 5}), "slice, transpose");
  expect(row == std::vector<float>{3, 4, 5, 4}, "mean, unsqueeze, concat, select");
  expect(total == 6, "greater, where, division, sum");
}

void layouts() {
  // [doc: layouts]
  Tensor image = from_vector<float>({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {1, 3, 2, 2});  // NCHW, from elsewhere
  Tensor x = permute(image, {0, 2, 3, 1});                                                   // NHWC, a view
  Conv2d conv({.in = 3, .out = 1, .kernel = 2, .padding = 1});
  conv.load_state_dict({{"weight", ones({1, 3, 2, 2})}, {"bias", zeros({1})}});  // files: [O, I, KH, KW]
  Tensor y = conv(x);                                                            // [1, 3, 3, 1]
  Tensor pooled = mean(y, {1, 2});                                               // [1, 1]
  Tensor tokens = reshape(x, {1, 4, 3});                                         // [N, H * W, C]
  // [doc end]
  expect(values_are(y, {1, 3, 3, 1}, {15, 33, 18, 36, 78, 42, 21, 45, 24}), "convolution of channels-last maps");
  expect(values_are(pooled, {1, 1}, {312.0 / 9}), "pooling");
  expect(values_are(tokens, {1, 4, 3}, {1, 5, 9, 2, 6, 10, 3, 7, 11, 4, 8, 12}), "tokens");
}

void autograd() {
  // [doc: autograd]
  Tensor x = from_vector<float>({1, 2, 3}, {3}).set_requires_grad(true);
  Tensor loss = sum(x * x * x);
  backward(loss, {}, {.retain_graph = true});
  backward(loss);              // gradients add up: 2 * 3 x^2
  Tensor frozen = x.detach();  // the same memory outside of the graph
  Tensor y;
  {
    NoGrad no_grad;
    y = x * 2;
  }
  uint64_t hook = add_gradient_hook(x, [](const Tensor& leaf) { leaf.set_grad(leaf.grad() * 10); });
  // [doc end]
  expect(values_are(x.grad(), {3}, {6, 24, 54}), "two backward passes");
  expect(!frozen.requires_grad() && frozen.storage() == x.storage() && !y.requires_grad(), "detach, no_grad");
  x.set_grad({});
  backward(sum(x * x));
  expect(values_are(x.grad(), {3}, {20, 40, 60}), "hook");
  remove_gradient_hook(hook);
}

void recompute() {
  Linear layer({.in = 2, .out = 2});
  layer.load_state_dict({{"weight", from_vector<float>({1, 2, 3, 4}, {2, 2})}, {"bias", zeros({2})}});
  const Tensor x = ones({1, 2}).set_requires_grad(true);
  // [doc: checkpoint]
  Tensor y = checkpoint([&](const Tensors& in) { return square(layer(in[0])); }, {x});
  // [doc end]
  backward(sum(y));
  expect(values_are(y, {1, 2}, {9, 49}) && values_are(x.grad(), {1, 2}, {48, 68}), "checkpoint");
}

// [doc: module]
class Block : public Module {
 public:
  explicit Block(int64_t channels)
      : norm_(child<LayerNorm>("norm", channels)),
        fc_(child<Linear>("fc", LinearSpec{.in = channels, .out = channels})),
        gamma_(param("gamma", full({channels}, 1e-6))),
        calls_(buffer("calls", zeros({}, i64))) {}
  Tensor operator()(const Tensor& x) const { return x + gelu(fc_(norm_(x))) * gamma_; }

 private:
  LayerNorm& norm_;  // owned by Module
  Linear& fc_;
  Tensor gamma_, calls_;
};
// [doc end]

void modules() {
  // [doc: use]
  Block block(4);
  block.to(f64);
  block.eval();
  block.freeze();
  int64_t count = block.parameter_count();
  StateDict state = block.state_dict();  // gamma, calls, norm.weight, norm.bias, fc.weight, fc.bias
  block.load_state_dict(state);          // strict
  // [doc end]
  std::string keys;
  for (const auto& [name, tensor] : state) keys += name + " ";
  expect(keys == "gamma calls norm.weight norm.bias fc.weight fc.bias ", "keys in PyTorch's order");
  expect(count == 32 && block.parameter_count(true) == 0 && !block.training(), "count, freeze, eval");
}

void training() {
  // [doc: training]
  Linear model({.in = 2, .out = 1});
  model.load_state_dict({{"weight", from_vector<float>({0.5, -0.5}, {1, 2})}, {"bias", zeros({1})}});
  AdamW optimizer(model, {.lr = 0.1, .weight_decay = 0.01});
  OneCycleSchedule schedule{.max_lr = 0.1, .total_steps = 10};
  Ema ema(model, 0.9);
  Tensor x = from_vector<float>({1, 2, 3, 4}, {2, 2}), target = from_vector<float>({1, 0}, {2, 1});
  for (int step = 0; step < 10; ++step) {
    optimizer.set_lr(schedule.lr(step));
    Tensor loss = bce_with_logits(model(x), target);
    optimizer.zero_grad();
    backward(loss);
    clip_gradient_norm(model.parameters(), 1.0);
    optimizer.step();
    ema.update(model);
  }
  // [doc end]
  const double loss = bce_with_logits(model(x), target).item();
  std::printf("loss after 10 steps: %.7f\n", loss);
  expect(close(loss, 0.5986111), "ten steps of AdamW, OneCycle, clipping");
  ema.swap(model);
  expect(values_are(model.parameters()[0], {1, 2}, {0.3242257, -0.5160974}), "averaged weights");
}

void precision_and_devices() {
  Linear model({.in = 2, .out = 2});
  const Tensor x = ones({1, 2});
  // [doc: devices]
  Device device = parse_device("auto");  // "cpu", "cuda:1"; what is asked for and not there is an error
  model.to(device);
  Tensor input = to(x, device);
  Tensor y;
  {
    const Autocast scope(bf16);
    y = model(input);
  }
  int64_t peak = memory_stats(device).peak_bytes;
  // [doc end]
  expect((y.dtype() == bf16 || device.is_cpu()) && model.parameters()[0].dtype() == f32 && peak > 0,
         "devices, autocast");
}

void random_numbers() {
  // [doc: random]
  seed_everything(7);
  Tensor a = random_normal({3}), b = random_uniform({3}, -1, 1);
  RandomKey state = default_generator().state();
  Tensor c = dropout(ones({8}), 0.5, /*training=*/true);
  default_generator().set_state(state);
  Tensor d = dropout(ones({8}), 0.5, true);
  // [doc end]
  expect(c.to_vector<float>() == d.to_vector<float>(), "the state of the generator");
  seed_everything(7);
  expect(random_normal({3}).to_vector<float>() == a.to_vector<float>() && b.numel() == 3, "the seed");
}

void data() {
  const std::string path = (folder / "data").string();
  write_synthetic_dataset({.folder = path, .train_count = 5, .test_count = 1, .scene = {.width = 40, .height = 40}});
  int64_t seen = 0;
  // [doc: data]
  std::vector<Sample> samples = find_dataset(path, Split::train).samples;  // pairs picture and mask by file name
  DataLoader loader(samples, {.image_size = 32, .batch_size = 2, .workers = 2, .seed = 1});
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    loader.start_epoch(epoch);
    while (std::optional<Batch> batch = loader.next()) {
      seen += batch->images.size(0);  // images [B, 32, 32, 3], masks [B, 32, 32, 1]
    }
  }
  // [doc end]
  expect(seen == 10, "every sample once an epoch");
}

void files() {
  Linear model({.in = 2, .out = 1});
  const std::filesystem::path pth = folder / "model.pth", safe = folder / "model.safetensors";
  // [doc: files]
  PthDict dict;
  for (const auto& [name, tensor] : model.state_dict()) dict.emplace_back(name, PthValue{tensor});
  write_pth(pth, {{"model", {dict}}, {"epoch", {int64_t{3}}}});
  write_safetensors(safe, {.tensors = model.state_dict(), .metadata = {{"epoch", "3"}}});

  StateDict state;
  std::unique_ptr<TensorFile> file = open_tensor_file(pth);  // or a .safetensors
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const std::string& name = file->tensors()[i].name;  // model/weight, model/bias
    if (name.starts_with("model/")) state.emplace_back(name.substr(6), file->read(i));
  }
  model.load_state_dict(state);
  // [doc end]
  expect(file->metadata().at("epoch") == "3", "a .pth, written and read");
  expect(read_safetensors(safe).metadata.at("epoch") == "3", "a .safetensors, written and read");
}

}  // namespace

int main() {
  std::filesystem::remove_all(folder);  // of a run that failed
  std::filesystem::create_directories(folder);
  tensors();
  layouts();
  autograd();
  recompute();
  modules();
  training();
  precision_and_devices();
  random_numbers();
  data();
  files();
  std::filesystem::remove_all(folder);
  return failures == 0 ? 0 : 1;
}
