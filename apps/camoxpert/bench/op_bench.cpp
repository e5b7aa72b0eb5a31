#include "apps/camoxpert/bench/op_bench.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "apps/camoxpert/bench/op_cost.h"
#include "core/autograd.h"
#include "core/error.h"
#include "core/random.h"
#include "nn/optim/adamw.h"
#include "ops/math_mode.h"
#include "ops/ops.h"

namespace camo::app {

namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

/// `op` and `settings` say what is computed, for whoever wants to compute the same elsewhere.
struct Case {
  std::string op;
  std::vector<Shape> inputs;
  Json settings = Json::object();
  std::function<Tensor(const Tensors&)> fn;
  bool splits_gradients = false;  // time the gradient of each of the first two inputs
};

/// x [n, size, size, in], weight [out, k, k, in / groups], with a bias.
Case conv_case(int64_t n, int64_t size, int64_t in, int64_t out, int64_t kernel, int64_t groups = 1,
               int64_t dilation = 1, int64_t stride = 1) {
  const int64_t padding = stride > 1 ? 0 : dilation * (kernel / 2);
  const Conv2dOptions options{
      .stride = {stride, stride}, .padding = {padding, padding}, .dilation = {dilation, dilation}, .groups = groups};
  return {groups == in && in == out ? "depthwise" : "conv2d",
          {{n, size, size, in}, {out, kernel, kernel, in / groups}, {out}},
          {{"stride", stride}, {"padding", padding}, {"dilation", dilation}, {"groups", groups}},
          [options](const Tensors& in_) { return conv2d(in_[0], in_[1], in_[2], options); },
          true};
}

/// What edgenext_base computes at 384 pixels: maps of 96, 48, 24 and 12 with 80, 160, 288 and 584 channels. Experts see
/// three sevenths of the images.
std::vector<Case> network_cases(int64_t n) {
  const int64_t some = std::max<int64_t>(1, 3 * n / 7);
  constexpr int64_t kSizes[] = {96, 48, 24, 12}, kChannels[] = {80, 160, 288, 584}, kKernels[] = {3, 5, 7, 9};
  std::vector<Case> cases;
  for (int s = 0; s < 4; ++s) {
    const int64_t size = kSizes[s], channels = kChannels[s];
    cases.push_back(conv_case(n, size, channels, channels, kKernels[s], channels));
  }
  for (int s = 0; s < 4; ++s) cases.push_back(conv_case(some, kSizes[s], kChannels[s], kChannels[s], 5, kChannels[s]));
  for (int s = 0; s < 4; ++s) cases.push_back(conv_case(some, kSizes[s], kChannels[s], kChannels[s], 3, kChannels[s]));
  cases.push_back(conv_case(n, 384, 3, 80, 4, 1, 1, 4));
  cases.push_back(conv_case(n, 96, 80, 160, 2, 1, 1, 2));
  cases.push_back(conv_case(n, 24, 872, 288, 3));
  cases.push_back(conv_case(n, 48, 448, 160, 3));
  cases.push_back(conv_case(n, 96, 240, 80, 3));
  cases.push_back(conv_case(n, 192, 80, 64, 3));
  cases.push_back(conv_case(n, 192, 64, 64, 3));
  cases.push_back(conv_case(n, 384, 64, 32, 3));
  cases.push_back(conv_case(some, 96, 20, 20, 3, 1, 3));
  cases.push_back(conv_case(n, 96, 80, 20, 3, 20));
  for (int s = 0; s < 4; ++s) cases.push_back(conv_case(n, kSizes[s], kChannels[s], 4 * kChannels[s], 1));
  const auto add = [&](const char* op, std::vector<Shape> inputs, std::function<Tensor(const Tensors&)> fn,
                       Json settings = Json::object()) {
    cases.push_back({op, std::move(inputs), std::move(settings), std::move(fn)});
  };
  for (int s = 0; s < 4; s += 2) {
    const int64_t size = kSizes[s], channels = kChannels[s];
    const Shape map{n, size, size, channels}, wide{n, size, size, 4 * channels};
    add("layer_norm", {map, {channels}, {channels}},
        [](const Tensors& in) { return layer_norm(in[0], in[1], in[2], 1e-6); });
    add("gelu", {wide}, [](const Tensors& in) { return gelu(in[0]); });
    add("add", {map, map}, [](const Tensors& in) { return camo::add(in[0], in[1]); });
    add("mul", {map, {channels}}, [](const Tensors& in) { return mul(in[0], in[1]); });
  }
  add("batch_norm", {{n, 192, 192, 64}, {64}, {64}}, [](const Tensors& in) {
    const Tensor mean = zeros({64}, in[0].dtype(), in[0].device()), var = ones({64}, in[0].dtype(), in[0].device());
    return batch_norm(in[0], in[1], in[2], mean, var, {.training = true, .momentum = 0.1, .eps = 1e-5});
  });
  add("relu", {{n, 192, 192, 64}}, [](const Tensors& in) { return relu(in[0]); });
  add("resize_bilinear", {{n, 192, 192, 64}}, [](const Tensors& in) { return resize_bilinear(in[0], 384, 384); },
      {{"size", 384}});
  add("concat", {{n, 96, 96, 160}, {n, 96, 96, 80}}, [](const Tensors& in) { return concat({in[0], in[1]}, 3); });
  add("avg_pool2d", {{some, 96, 96, 80}},
      [](const Tensors& in) {
        return avg_pool2d(in[0], {.kernel = {5, 5}, .stride = {1, 1}, .padding = {2, 2}});
      },
      {{"kernel", 5}});
  add("adaptive_avg_pool2d", {{some, 96, 96, 80}}, [](const Tensors& in) { return adaptive_avg_pool2d(in[0], 8, 8); },
      {{"size", 8}});
  add("global_avg_pool2d", {{n, 96, 96, 80}}, [](const Tensors& in) { return global_avg_pool2d(in[0]); });
  add("global_max_pool2d", {{n, 96, 96, 80}}, [](const Tensors& in) { return global_max_pool2d(in[0]); });
  add("edge_magnitude", {{some, 96, 96, 80}}, [](const Tensors& in) { return edge_magnitude(in[0], 1e-8); });
  add("laplacian", {{some, 96, 96, 80}}, [](const Tensors& in) { return laplacian(in[0]); });
  add("softmax", {{n, 8, 584, 584 / 8}}, [](const Tensors& in) { return softmax(in[0], -1); });
  const Shape tokens{some, 48 * 48, 8, 20};
  add("scaled_dot_product_attention", {tokens, tokens, tokens},
      [](const Tensors& in) { return scaled_dot_product_attention(in[0], in[1], in[2]); });
  add("bce_with_logits", {{n, 384, 384, 1}, {n, 384, 384, 1}},
      [](const Tensors& in) { return bce_with_logits(in[0], in[1].detach()); });
  return cases;
}

/// Median milliseconds of one call, of several runs of several calls.
double milliseconds_of(Device device, const std::function<void()>& run) {
  constexpr int kRuns = 5;
  constexpr double kRunSeconds = 0.01;
  const auto seconds_of = [&](int calls) {
    wait_for(device);
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) run();
    wait_for(device);
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  seconds_of(2);  // makes plans
  const int calls = std::clamp(static_cast<int>(kRunSeconds / seconds_of(1)), 1, 200);
  std::vector<double> seconds;
  for (int i = 0; i < kRuns; ++i) seconds.push_back(seconds_of(calls) / calls);
  std::sort(seconds.begin(), seconds.end());
  return 1e3 * seconds[kRuns / 2];
}

/// The gradients of the inputs named in `wanted`, from a graph that is kept.
double gradient_milliseconds(const Case& entry, const Tensors& inputs, std::initializer_list<size_t> wanted) {
  Tensors leaves;
  for (const Tensor& x : inputs) leaves.push_back(x.detach());
  for (const size_t i : wanted) leaves[i].set_requires_grad(true);
  const Tensor y = entry.fn(leaves);
  const Tensor dy = to(random_uniform(y.shape(), -1, 1, f32, cpu), y.device());
  return milliseconds_of(y.device(), [&] {
    backward(y, dy, {.retain_graph = true});
    for (const Tensor& leaf : leaves) leaf.set_grad({});
  });
}

Json shapes_json(const std::vector<Shape>& shapes) {
  Json list = Json::array();
  for (const Shape& shape : shapes) list.push_back(std::vector<int64_t>(shape.begin(), shape.end()));
  return list;
}

Json measure(const Case& entry, Device device, const Peaks& peaks) {
  Tensors inputs;
  for (const Shape& shape : entry.inputs) inputs.push_back(to(random_uniform(shape, -1, 1, f32, cpu), device));
  Json row{{"op", entry.op}, {"inputs", shapes_json(entry.inputs)}, {"settings", entry.settings}};
  const std::string node = entry.op == "depthwise" ? "conv2d" : entry.op;
  {
    const NoGrad no_grad;
    const Tensors outputs{entry.fn(inputs)};
    row["forward_ms"] = milliseconds_of(device, [&] { entry.fn(inputs); });
    row["forward_floor_ms"] = peaks.floor_ms(forward_cost(node, outputs, inputs));
    for (const Tensor& x : inputs) x.set_requires_grad(true);
    row["backward_floor_ms"] = peaks.floor_ms(backward_cost(node, outputs, inputs));
  }
  if (entry.splits_gradients) {
    row["data_ms"] = gradient_milliseconds(entry, inputs, {0});
    row["filter_ms"] = gradient_milliseconds(entry, inputs, {1, 2});
    row["backward_ms"] = row["data_ms"].get<double>() + row["filter_ms"].get<double>();
  } else if (inputs.size() == 1) {
    row["backward_ms"] = gradient_milliseconds(entry, inputs, {0});
  } else if (inputs.size() == 2) {
    row["backward_ms"] = gradient_milliseconds(entry, inputs, {0, 1});
  } else {
    row["backward_ms"] = gradient_milliseconds(entry, inputs, {0, 1, 2});
  }
  return row;
}

/// A step over as many numbers in as many tensors as edgenext_base's network has.
Json measure_adamw(Device device, const Peaks& peaks) {
  constexpr int64_t kTensors = 1000, kNumbers = 32000;
  ParameterGroup group;
  for (int64_t i = 0; i < kTensors; ++i) {
    const Tensor parameter = full({kNumbers}, 1, f32, device);
    parameter.set_requires_grad(true);
    parameter.set_grad(full({kNumbers}, 1e-3, f32, device));
    group.parameters.push_back({std::to_string(i), parameter});
  }
  AdamW optimizer({group}, AdamWOptions{.lr = 1e-5});
  const double bytes = 4.0 * 7 * kTensors * kNumbers;  // reads four arrays, writes three
  return {{"op", "adamw"},
          {"inputs", Json::array({Json::array({kTensors, kNumbers})})},
          {"settings", Json::object()},
          {"forward_ms", milliseconds_of(device, [&] { optimizer.step(); })},
          {"forward_floor_ms", peaks.floor_ms({0, bytes})}};
}

void print_row(const Json& row) {
  std::string shapes;
  for (const Json& shape : row["inputs"]) shapes += (shapes.empty() ? "" : " ") + shape.dump();
  if (shapes.size() > 46) shapes = shapes.substr(0, 43) + "...";
  const auto number = [&](const char* key) {
    return row.contains(key) ? fmt::format("{:9.3f}", row[key].get<double>()) : std::string("         ");
  };
  fmt::print("{:<28} {:<46} {} {} {} {} {} {}\n", row["op"].get<std::string>(), shapes, number("forward_ms"),
             number("forward_floor_ms"), number("data_ms"), number("filter_ms"), number("backward_ms"),
             number("backward_floor_ms"));
}

}  // namespace

Json run_op_bench(const OpBenchOptions& options, Device device) {
  if (options.convolution == "cudnn") set_cuda_convolution(CudaConvolution::cudnn);
  if (options.convolution == "direct") set_cuda_convolution(CudaConvolution::direct);
  const Peaks peaks = measure_peaks(device, f32);
  fmt::print("operations on {}, f32{}, convolutions: {}; milliseconds, floors over {:.3g} TFLOP/s and {:.2f} TB/s\n",
             device.str(), allow_tf32() && device.is_cuda() ? " with TF32" : "", options.convolution,
             peaks.flops_per_second * 1e-12, peaks.bytes_per_second * 1e-12);
  fmt::print("{:<28} {:<46} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "operation", "inputs", "forward", "floor", "d data",
             "d filter", "backward", "floor");
  Json rows = Json::array();
  const auto add = [&](const Json& row) {
    print_row(row);
    rows.push_back(row);
  };
  const auto wanted = [&](const std::string& name) { return name.find(options.filter) != std::string::npos; };
  for (const Case& entry : network_cases(options.batch_size)) {
    if (wanted(entry.op)) add(measure(entry, device, peaks));
  }
  if (wanted("adamw")) add(measure_adamw(device, peaks));
  set_cuda_convolution(CudaConvolution::automatic);
  CAMO_CHECK_CODE(usage, !rows.empty(), "--filter: no operation's name contains '", options.filter, "'");
  return {{"bench", "op"},
          {"device", device.str()},
          {"convolution", options.convolution},
          {"tf32", allow_tf32() && device.is_cuda()},
          {"flops_per_second", peaks.flops_per_second},
          {"bytes_per_second", peaks.bytes_per_second},
          {"rows", rows}};
}

}  // namespace camo::app
