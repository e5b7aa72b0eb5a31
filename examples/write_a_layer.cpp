// Writes a layer, checks its gradients in double precision, and fits it to another one.
// Built in this tree, and by examples/external_layer/ against an installed camo.
#include <cstdio>

#include "core/random.h"
#include "nn/gradcheck.h"
#include "nn/layers.h"
#include "nn/optim/adamw.h"
#include "ops/ops.h"

using camo::Tensor;

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
  camo::Linear& mix_;  // owned by Module
};

bool check_gradients() {
  ChannelGate gate(3);
  gate.to(camo::f64);
  const Tensor x = camo::random_uniform({2, 5, 4, 3}, -1, 1, camo::f64);
  const camo::GradcheckResult check =
      camo::gradcheck(gate, [&](const camo::Tensors& inputs) { return camo::Tensors{gate(inputs[0])}; }, {x});
  std::printf("gradients: %s\n", check.ok ? "agree with central differences" : check.message.c_str());
  return check.ok;
}

bool fit() {
  ChannelGate teacher(8), student(8);
  camo::AdamW optimizer({{.parameters = student.named_parameters()}}, {.lr = 0.05, .weight_decay = 0});
  double first = 0, last = 0;
  for (int step = 0; step < 200; ++step) {
    const Tensor x = camo::random_uniform({16, 6, 6, 8}, -1, 2);
    Tensor target;
    {
      camo::NoGrad no_grad;
      target = teacher(x);
    }
    const Tensor error = student(x) - target;
    const Tensor loss = mean(error * error);
    optimizer.zero_grad();
    backward(loss);
    optimizer.step();
    last = loss.item();
    if (step == 0) first = last;
  }
  std::printf("loss: %.2e at first, %.2e after 200 steps\n", first, last);
  return last < first / 100;
}

int main() {
  const bool ok = check_gradients() && fit();
  return ok ? 0 : 1;
}
