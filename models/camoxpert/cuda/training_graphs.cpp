#include "models/camoxpert/cuda/training_graphs.h"

#include "ops/ops.h"

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

/// Shaped like the maps that experts leave, which are like those that they get.
Tensors examples_of_maps(const Tensors& packed) {
  Tensors maps;
  for (size_t s = 0; s < kStages; ++s) {
    maps.push_back(empty(packed[s].shape(), packed[s].dtype(), packed[s].device()).set_requires_grad(true));
  }
  return maps;
}

}  // namespace

TrainingGraphs::TrainingGraphs(const CamoXpert& network, const Tensor& x)
    : network_(network),
      encode_memory_(x.device()),
      decode_memory_(x.device()),
      encode_(
          "recorded encoding", network,
          [this](const Tensors& in) {
            const CamoXpertEncoding encoding = network_.encode(in[0]);
            for (size_t s = 0; s < kStages; ++s) choices_[s] = encoding.routing[s].indices_on_host;
            return packed(encoding);
          },
          {x}, encode_memory_, decode_memory_),
      decode_(
          "recorded decoding", network,
          [&network, pictures = x.shape()](const Tensors& in) { return decoded(network, in, pictures); },
          examples_of_maps(encode_.results()), decode_memory_, decode_memory_) {}

CamoXpertOutput TrainingGraphs::run(const Tensor& x) {
  CamoXpertEncoding encoding = unpacked(encode_({x}), choices_);
  CamoXpertMixture mixture = network_.mix(encoding);
  Tensors maps;
  for (size_t s = 0; s < kStages; ++s) maps.push_back(to(mixture.maps[s], encode_.results()[s].dtype()));
  const Tensors decoded = decode_(maps);
  CamoXpertOutput output;
  output.logits = decoded.front();
  output.deep.assign(decoded.begin() + 1, decoded.end());
  for (const RoutingReport& layer : mixture.routing) output.aux += layer.aux;
  output.routing = std::move(mixture.routing);
  return output;
}

}  // namespace camo
