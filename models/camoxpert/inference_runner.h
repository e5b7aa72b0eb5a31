// Forward passes without gradients: what inference runs, on a GPU as CUDA graphs.
//
// Eager, the host sends some 700 kernels for one picture, which takes three times as long as they run. The network's
// own code knows nothing of graphs: encode(), the experts and decode() are recorded as they are.
#pragma once

#include <array>
#include <memory>
#include <string_view>
#include <vector>

#include "models/camoxpert/network.h"

namespace camo {

/// automatic: from the third batch of one shape on, on a GPU, until memory does not last for it; on: always, and an
/// error where that can't be.
enum class CudaGraphs { automatic, on, off };

/// "auto", "on" or "off". Throws ErrorCode::usage.
CudaGraphs parse_cuda_graphs(std::string_view text);

class ForwardGraphs;

class InferenceRunner {
 public:
  /// The network must be in evaluation mode during calls. Its weights may change between calls: what was recorded is
  /// then recorded again. Settings such as allow_tf32() must not.
  explicit InferenceRunner(const CamoXpert& network, CudaGraphs graphs = CudaGraphs::automatic);
  ~InferenceRunner();
  InferenceRunner(const InferenceRunner&) = delete;
  InferenceRunner& operator=(const InferenceRunner&) = delete;

  /// Logits [N, H, W, 1] of pictures [N, H, W, 3], the bits that the network itself computes. With graphs, the next
  /// call with pictures of this shape overwrites them.
  Tensor operator()(const Tensor& x);
  /// What the layers decided in the last call. May wait for the device.
  const std::array<RoutingReport, 4>& routing();
  /// Whether the last call was launched as graphs.
  bool used_graphs() const { return last_ != nullptr; }

 private:
  /// Recordings of one shape and precision.
  struct Entry {
    Shape shape;
    DType dtype = f32, autocast = f32;
    int calls = 0;
    std::unique_ptr<ForwardGraphs> graphs;
  };
  Entry& entry_of(const Tensor& x);
  void forget_if_weights_changed();
  /// Sets last_ and returns the logits where there are graphs for x, or are now.
  Tensor run_graphs(const Tensor& x);

  const CamoXpert& network_;
  CudaGraphs mode_;
  std::vector<Entry> entries_;  // the last used first
  Tensors weights_;             // handles that the network shares, and what they held at recording
  std::vector<std::pair<const void*, uint64_t>> recorded_weights_;
  ForwardGraphs* last_ = nullptr;
  bool routing_known_ = false;
  std::array<RoutingReport, 4> routing_;
};

}  // namespace camo
