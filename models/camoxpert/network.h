// CamoXpert: EdgeNeXt, an enhancement and a mixture of experts per stage, and a decoder with skip maps.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "models/camoxpert/decoder.h"
#include "models/camoxpert/moe.h"
#include "models/camoxpert/sdta.h"
#include "models/edgenext/edgenext.h"
#include "nn/optim/adamw.h"

namespace camo {

struct CamoXpertSpec {
  std::string backbone = "edgenext_base";
  int64_t num_experts = 7;
  int64_t attention_heads = 8;  // of the attention experts; divides the channels of every stage
  double dropout = 0.1;
  bool deep_supervision = true;  // off: the deep heads keep their parameters, but do not run
  bool gradient_checkpointing = false;
  bool use_flash_attention = true;  // off: attention makes the matrix of scores, whatever the environment says
};

/// Intermediate maps of one stage.
struct StageTrace {
  Tensor feature;      // of the backbone
  Tensor enhanced;     // after the SDTA block
  Tensor mixed;        // after the experts
  Tensor gate_logits;  // [N, experts]
};

/// What the network knows of pictures before experts run.
struct CamoXpertEncoding {
  std::array<Tensor, 4> features;  // of the backbone
  std::array<Tensor, 4> enhanced;  // after the SDTA blocks
  std::array<Routing, 4> routing;  // per stage, on the pictures' device
};

/// What its experts made of them.
struct CamoXpertMixture {
  std::array<Tensor, 4> maps;            // per stage
  std::array<RoutingReport, 4> routing;  // per stage
};

struct CamoXpertOptions {
  bool keep_stages = false;  // fill CamoXpertOutput::stages
};

struct CamoXpertOutput {
  Tensor logits;   // [N, H, W, 1]
  Tensors deep;    // logits of the deep heads at strides 16, 8, 4; empty without deep supervision
  double aux = 0;  // sum of the layers' load-balance losses; a constant
  std::array<RoutingReport, 4> routing{};  // per stage
  std::vector<StageTrace> stages;          // on request, outside of the graph
};

class CamoXpert : public Module {
 public:
  /// Throws ErrorCode::usage on an unknown backbone and on numbers that do not fit.
  explicit CamoXpert(const CamoXpertSpec& spec = {});
  /// x [N, H, W, 3], at least 32 x 32.
  CamoXpertOutput operator()(const Tensor& x, const CamoXpertOptions& options = {}) const;

  // The parts that operator() is made of. encode() is for each stage features(), enhance() and moe_layer().route();
  // nothing in it waits for the device. mix() lies between it and decode(), moe_layer().report() and .mix() of each
  // stage.
  CamoXpertEncoding encode(const Tensor& x) const;
  std::array<Tensor, 4> features(const Tensor& x) const;
  Tensor enhance(size_t stage, const Tensor& feature) const { return sdta_blocks_[stage](feature); }
  const MoELayer& moe_layer(size_t stage) const { return moe_layers_[stage]; }
  /// report() and mix() of each stage. Releases encoding.enhanced, which inference needs no longer than the experts.
  CamoXpertMixture mix(CamoXpertEncoding& encoding) const;
  /// Logits (and deep ones) at height x width from the mixed maps of the stages.
  CamoXpertOutput decode(const std::array<Tensor, 4>& maps, int64_t height, int64_t width) const;

  const CamoXpertSpec& spec() const { return spec_; }
  EdgeNeXt& backbone() const { return backbone_; }
  /// Probability of every dropout.
  void set_dropout(double p);
  void set_gradient_checkpointing(bool on);

 private:
  /// What the first stage of the backbone gets, and what others get of its stages.
  Tensor begin(const Tensor& x) const;
  Tensor leave_backbone(const Tensor& map) const;

  CamoXpertSpec spec_;
  std::array<int64_t, 4> dims_;
  EdgeNeXt& backbone_;
  ModuleList<SDTABlock>& sdta_blocks_;
  ModuleList<MoELayer>& moe_layers_;
  ModuleList<DecoderBlock>& decoder_blocks_;
  ModuleList<Conv2d>& deep_heads_;
  Sequential& final_conv_;
};

/// The parameters that require a gradient in up to two groups: the backbone's at `backbone_scale` times the learning
/// rate, and all others. Empty groups are left out.
std::vector<ParameterGroup> parameter_groups(const CamoXpert& network, double backbone_scale);

}  // namespace camo
