// What observers of operations are told.
#include "core/op_observer.h"

#include "ops/elementwise.h"
#include "tests/support/test_support.h"

namespace camo {
namespace {

class Recorder final : public OpObserver {
 public:
  Recorder() { observe_ops(this); }
  ~Recorder() override { observe_ops(nullptr); }
  void recorded(const Node& node, std::span<const Tensor>, std::span<const Tensor> inputs) override {
    log.push_back(concat_text(node.name(), " of ", inputs[0].shape(), " in '", op_scope(), "'"));
  }
  void backward_begins(const Node& node) override { log.push_back("begin " + node.name()); }
  void backward_ended(const Node& node) override { log.push_back("end " + node.name()); }
  void differentiated(const Node& node, std::span<const Tensor> gradients) override {
    log.push_back(concat_text("gradients of ", node.name(), ": ", gradients[0].shape()));
  }

  std::vector<std::string> log;
};

TEST(OpObserver, SeesOperationsAndTheirGradients) {
  const Tensor x = test::uniform({2, 3});
  x.set_requires_grad(true);
  Recorder recorder;
  Tensor y;
  {
    const OpScope outer("outer");
    {
      const OpScope inner("inner");
      y = mul(x, x);
    }
    y = relu(y);
  }
  {
    const NoGrad no_grad;
    relu(y);  // not recorded: not seen
  }
  backward(y, ones({2, 3}, f64));
  const std::vector<std::string> expected{"mul of [2, 3] in 'inner'",
                                          "relu of [2, 3] in 'outer'",
                                          "begin relu",
                                          "gradients of relu: [2, 3]",
                                          "end relu",
                                          "begin mul",
                                          "gradients of mul: [2, 3]",
                                          "end mul"};
  EXPECT_EQ(recorder.log, expected);
  EXPECT_STREQ(op_scope(), "");
}

}  // namespace
}  // namespace camo
