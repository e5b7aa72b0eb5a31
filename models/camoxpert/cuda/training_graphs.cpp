#include "models/camoxpert/cuda/training_graphs.h"

#include <utility>

namespace camo {

namespace {

constexpr size_t kStages = 4;
using ChoicesOnHost = std::array<std::shared_ptr<const HostCopy>, kStages>;

/// The tensors of an encoding that the experts need, one kind after the other.
Tensors packed(const CamoXpertEncoding& encoding) {
  Tensors tensors;
  for (const Tensor& map : encoding.enhanced) tensors.push_back(map);
  for (const Routing& routing : encoding.routing) {
    for (const Tensor& x : {routing.weights, routing.indices, routing.gate_logits}) tensors.push_back(x);
  }
  return tensors;
}

CamoXpertEncoding unpacked(const Tensors& tensors, const ChoicesOnHost& choices) {
  CamoXpertEncoding encoding;
  for (size_t s = 0; s < kStages; ++s) {
    const size_t first = kStages + 3 * s;
    encoding.enhanced[s] = tensors[s];
    encoding.routing[s] = {.gate_logits = tensors[first + 2],
                           .indices = tensors[first + 1],
                           .weights = tensors[first],
                           .indices_on_host = choices[s]};
  }
  return encoding;
}

Tensors decoded(const CamoXpert& network, const Tensors& maps, const Shape& pictures) {
  const CamoXpertOutput output = network.decode({maps[0], maps[1], maps[2], maps[3]}, pictures[1], pictures[2]);
  Tensors tensors{output.logits};
  tensors.insert(tensors.end(), output.deep.begin(), output.deep.end());
  return tensors;
}

}  // namespace

TrainingGraphs::TrainingGraphs(const CamoXpert& network, Device device)
    : network_(network),
      memory_(std::make_shared<cuda::MemoryPool>(device)),
      encode_(
          "recorded encoding", network,
          [this](const Tensors& in) {
            const CamoXpertEncoding encoding = network_.encode(in[0]);
            for (size_t s = 0; s < kStages; ++s) choices_[s] = encoding.routing[s].indices_on_host;
            return packed(encoding);
          },
          memory_),
      decode_(
          "recorded decoding", network, [this](const Tensors& in) { return decoded(network_, in, pictures_); },
          memory_) {}

CamoXpertOutput TrainingGraphs::run(const Tensor& x) {
  pictures_ = x.shape();
  encode_.keep_gradients();
  decode_.keep_gradients();
  const Tensors encoded = encode_({x});
  CamoXpertEncoding encoding = unpacked(encoded, choices_);
  CamoXpertMixture mixture = network_.mix(encoding);
  const Tensors decoded = decode_({mixture.maps.begin(), mixture.maps.end()});
  CamoXpertOutput output;
  output.logits = decoded.front();
  output.deep.assign(decoded.begin() + 1, decoded.end());
  for (const RoutingReport& layer : mixture.routing) output.aux += layer.aux;
  output.routing = std::move(mixture.routing);
  return output;
}

}  // namespace camo
