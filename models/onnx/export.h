// CamoXpert for inference elsewhere, as an ONNX file.
#pragma once

#include <filesystem>

#include "models/camoxpert/network.h"

namespace camo {

/// Writes the network in f32 as it is in evaluation mode: "image" [batch, 3, img_size, img_size], normalised, to
/// "logits" [batch, 1, img_size, img_size]. Opset 18; the batch is open, the size of pictures is fixed. All experts are
/// evaluated and weighted exactly, 0 for those not chosen. Metadata name backbone, size, and the normalisation's mean
/// and deviation. Throws when img_size is below 32.
void export_onnx(const std::filesystem::path& path, const CamoXpert& network, int64_t img_size);

}  // namespace camo
