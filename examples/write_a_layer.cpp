// Writes a layer, checks its gradients in double precision, uses it in a network, saves and loads that, and fits it.
// docs/WRITE_A_LAYER.md explains it. Built in this tree, and by examples/external_layer/ against an installed camo.
#include <cstdio>
#include <filesystem>
#include <string>

// [doc: includes]
#include "core/autocast.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "nn/gradcheck.h"
#include "nn/layers.h"
#include "nn/optim/adamw.h"
#include "ops/ops.h"
// [doc end]

using camo::Tensor;

// [doc: layer]
/// One gate per channel: y = x * sigmoid(W mean_hw(x) + b).    x, y: [N, H, W, C]
class ChannelGate : public camo::Module {
 public:
  explicit ChannelGate(int64_t channels)
      : mix_(child<camo::Linear>("mix", camo::LinearSpec{.in = channels, .out = channels})) {}

  Tensor operator()(const Tensor& x) const {
    Tensor gate = sigmoid(mix_(mean(x, {1, 2})));  // [N, C]
    return x * unsqueeze(unsqueeze(gate, 1), 1);
  }

 private:
  camo::Linear& mix_;  // owned by Module; its checkpoint keys are mix.weight and mix.bias
};
// [doc end]

// [doc: network]
/// Two convolutions with a gate between them.    x: [N, H, W, 3] -> logits [N, H, W, 1]
class SmallNetwork : public camo::Module {
 public:
  explicit SmallNetwork(int64_t width)
      : body_(child<camo::Sequential>("body")),
        head_(child<camo::Conv2d>("head", camo::Conv2dSpec{.in = width, .out = 1})) {
    body_.add<camo::Conv2d>(camo::Conv2dSpec{.in = 3, .out = width, .kernel = 3, .padding = 1})
        .add<camo::BatchNorm2d>(width)
        .add(camo::gelu)
        .add<ChannelGate>(width);
  }

  Tensor operator()(const Tensor& x) const { return head_(body_(x)); }
  /// The same with less memory: body_ keeps only its input and runs again during backward.
  Tensor recomputed(const Tensor& x) const {
    return head_(camo::checkpoint([this](const camo::Tensors& in) { return body_(in[0]); }, {x}));
  }

 private:
  camo::Sequential& body_;
  camo::Conv2d& head_;
};
// [doc end]

int failures = 0;
void expect(bool holds, const std::string& what) {
  if (!holds) ++failures;
  std::printf("%s %s\n", holds ? "ok    " : "FAILED", what.c_str());
}

void check_gradients() {
  // [doc: gradcheck]
  ChannelGate gate(3);
  gate.to(camo::f64);
  auto check = camo::gradcheck(gate, [&](const camo::Tensors& in) { return camo::Tensors{gate(in[0])}; },
                               {camo::random_uniform({2, 5, 4, 3}, -1, 1, camo::f64)});
  // check.ok, or check.message names the worst element: parameter, index, both values
  // [doc end]
  expect(check.ok, "gradients agree with central differences " + check.message);
}

void check_keys() {
  const SmallNetwork network(4);
  std::string keys;
  for (const auto& [name, tensor] : network.state_dict()) keys += name + " " + tensor.shape().str() + "\n";
  expect(keys ==
             // [doc: keys]
             "body.0.weight [4, 3, 3, 3]\n"  // [O, I, KH, KW]; in memory [O, KH, KW, I]
             "body.0.bias [4]\n"
             "body.1.weight [4]\n"
             "body.1.bias [4]\n"
             "body.1.running_mean [4]\n"
             "body.1.running_var [4]\n"
             "body.1.num_batches_tracked []\n"
             "body.3.mix.weight [4, 4]\n"  // body.2, the GELU, has no parameters but a number
             "body.3.mix.bias [4]\n"
             "head.weight [1, 4, 1, 1]\n"
             "head.bias [1]\n",
         // [doc end]
         "checkpoint keys");
}

void save_and_load() {
  SmallNetwork network(4), other(4);
  const std::filesystem::path file = std::filesystem::temp_directory_path() / "camo_write_a_layer.safetensors";
  // [doc: file]
  camo::write_safetensors(file, {.tensors = network.state_dict(), .metadata = {{"width", "4"}}});
  other.load_state_dict(camo::read_safetensors(file).tensors);  // throws and changes nothing unless all of it fits
  // [doc end]
  std::filesystem::remove(file);
  network.eval();
  other.eval();
  const Tensor x = camo::random_uniform({1, 8, 8, 3});
  expect(max(abs(network(x).detach() - other(x).detach())).item() == 0, "the loaded network gives the same bits");

  std::string message;
  try {
    SmallNetwork(5).load_state_dict(network.state_dict());
  } catch (const camo::Error& error) {
    message = error.what();
  }
  expect(message.find("body.3.mix.bias: module [5], file [4]") != std::string::npos, "another width is refused");
}

/// The gradient of every parameter, in one row.
Tensor gradients(const camo::Module& module) {
  camo::Tensors rows;
  for (const Tensor& parameter : module.parameters()) rows.push_back(flatten(parameter.grad()));
  return concat(rows, 0);
}

/// |a - b| <= tolerance * largest |b|.
bool close_to(const Tensor& a, const Tensor& b, double tolerance) {
  return max(abs(a - b)).item() <= tolerance * max(abs(b)).item();
}

void recompute_and_autocast() {
  SmallNetwork network(4);
  const Tensor x = camo::random_uniform({2, 16, 16, 3});
  backward(mean(square(network(x))));
  const Tensor kept = gradients(network);
  network.zero_grad();
  backward(mean(square(network.recomputed(x))));
  expect(max(abs(gradients(network) - kept)).item() == 0, "recomputing gives the same bits");

  network.zero_grad();
  {
    // [doc: autocast]
    const camo::Autocast scope(camo::bf16);
    const Tensor y = network(x);
    // [doc end]
    backward(mean(square(to(y, camo::f32))));
  }
  expect(gradients(network).dtype() == camo::f32 && close_to(gradients(network), kept, 0.05),
         "under autocast parameters and their gradients stay f32");
}

void fit() {
  ChannelGate teacher(8), student(8);
  // [doc: fit]
  camo::AdamW optimizer(student, {.lr = 0.05, .weight_decay = 0});
  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    const Tensor x = camo::random_uniform({16, 6, 6, 8}, -1, 2);
    Tensor target;
    {
      camo::NoGrad no_grad;
      target = teacher(x);
    }
    const Tensor loss = mean(square(student(x) - target));
    optimizer.zero_grad();
    backward(loss);
    optimizer.step();
    last = loss.item();
    if (step == 0) first = last;
  }
  // [doc end]
  std::printf("loss: %.2e at first, %.2e after 200 steps\n", first, last);
  expect(last < first / 100, "the student learns the teacher's gate");
}

int main() {
  check_gradients();
  check_keys();
  save_and_load();
  recompute_and_autocast();
  fit();
  return failures == 0 ? 0 : 1;
}
