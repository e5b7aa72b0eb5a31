#include "apps/camoxpert/training/board.h"

#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <sstream>

#include "models/camoxpert/experts.h"

namespace camo::app {

namespace {

/// Width and height of a PNG picture: bytes 16 to 23, most significant first.
int dimension(const std::string& png, size_t position) {
  int value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(png.at(position + i));
  return value;
}

}  // namespace

void add_step(TensorBoardWriter& board, const StepReport& report, double backbone_lr_scale) {
  const int64_t step = report.plan.step;
  for (size_t i = 0; i < report.losses.sums.size(); ++i) {
    board.scalar("train/" + report.losses.sums[i].first, step, report.losses.mean(i));
  }
  board.scalar("train/gradient_norm", step, report.gradient_norm);
  board.scalar("lr/head", step, report.plan.lr);
  if (backbone_lr_scale > 0) board.scalar("lr/backbone", step, report.plan.lr * backbone_lr_scale);
}

void add_scaler(TensorBoardWriter& board, int64_t step, double loss_scale, int64_t skipped) {
  board.scalar("train/loss_scale", step, loss_scale);
  board.scalar("train/overflowed_steps", step, static_cast<double>(skipped));
}

void add_validation(TensorBoardWriter& board, int64_t step, const Validation& validation,
                    const std::filesystem::path& sheet) {
  for (const auto& [name, value] : validation.scores) board.scalar("validation/" + name, step, value);
  std::ostringstream bytes;
  bytes << std::ifstream(sheet, std::ios::binary).rdbuf();
  const std::string png = bytes.str();
  constexpr size_t kWidth = 16, kHeight = 20;
  board.image("validation/pictures", step, png, dimension(png, kWidth), dimension(png, kHeight));
  board.flush();
}

void add_expert_load(TensorBoardWriter& board, int64_t step, const std::vector<std::vector<int64_t>>& counts) {
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    const int64_t total = std::accumulate(counts[layer].begin(), counts[layer].end(), int64_t{0});
    for (size_t e = 0; e < counts[layer].size(); ++e) {
      const size_t round = e / kExpertNames.size();
      board.scalar(fmt::format("experts_stage{}/{}{}", layer + 1, kExpertNames[e % kExpertNames.size()],
                               round > 0 ? fmt::format("_{}", round + 1) : ""),
                   step, static_cast<double>(counts[layer][e]) / static_cast<double>(std::max<int64_t>(1, total)));
    }
  }
  board.flush();
}

}  // namespace camo::app
