// camoxpert predict: masks of pictures as 8-bit PNG at their own size.
#include <fmt/core.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "apps/camoxpert/commands.h"
#include "apps/camoxpert/common_options.h"
#include "apps/camoxpert/inference.h"
#include "apps/camoxpert/progress.h"
#include "core/parallel.h"
#include "models/camoxpert/checkpoint.h"

namespace camo::app {

namespace fs = std::filesystem;

namespace {

struct PredictOptions {
  CommonOptions common;
  std::string checkpoint, input, output_dir, backbone;
  int64_t img_size = 0, batch_size = 4;
  double threshold = -1;
  bool overlay = false;
};

bool is_picture(const fs::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
  return suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png" || suffix == ".bmp";
}

/// The picture itself, all pictures of a folder by name, or the lines of a .txt list.
std::vector<fs::path> find_pictures(const fs::path& input) {
  CAMO_CHECK_CODE(data, fs::exists(input), "predict: --input does not exist; got ", input.string());
  std::vector<fs::path> pictures;
  if (fs::is_directory(input)) {
    for (const auto& entry : fs::directory_iterator(input)) {
      if (entry.is_regular_file() && is_picture(entry.path())) pictures.push_back(entry.path());
    }
    std::sort(pictures.begin(), pictures.end());
    CAMO_CHECK_CODE(data, !pictures.empty(), "predict: the folder ", input.string(),
                    " holds no jpg, jpeg, png or bmp file");
  } else if (input.extension() == ".txt") {
    std::ifstream list(input);
    for (std::string line; std::getline(list, line);) {
      if (!line.empty()) pictures.emplace_back(line);
    }
    CAMO_CHECK_CODE(data, !pictures.empty(), "predict: the list ", input.string(), " is empty");
  } else {
    pictures.push_back(input);
  }
  std::set<std::string> stems;
  for (const fs::path& picture : pictures) {
    CAMO_CHECK_CODE(data, stems.insert(picture.stem().string()).second, "predict: two pictures are called '",
                    picture.stem().string(), "' and would be written to the same mask; got ", picture.string());
  }
  return pictures;
}

void run_predict(const PredictOptions& options) {
  const Device device = options.common.apply();
  CAMO_CHECK_CODE(usage, options.batch_size >= 1, "--batch-size: must be at least 1; got ", options.batch_size);
  CAMO_CHECK_CODE(usage, options.threshold <= 1, "--threshold: must be within 0 and 1; got ", options.threshold);
  const std::vector<fs::path> paths = find_pictures(options.input);
  const LoadedCheckpoint loaded = load_checkpoint(options.checkpoint, options.backbone);
  loaded.network->to(device, f32);
  const int img_size = static_cast<int>(options.img_size > 0 ? options.img_size : loaded.info.img_size);
  const fs::path output = options.output_dir;
  std::error_code failure;
  fs::create_directories(output, failure);
  CAMO_CHECK_CODE(data, !failure && fs::is_directory(output), "predict: can't create the folder ", output.string(),
                  ": ", failure.message());
  Progress progress("predict", static_cast<int64_t>(paths.size()), "images");
  for_batches(static_cast<int64_t>(paths.size()), options.batch_size, [&](int64_t first, int64_t count) {
    std::vector<Image> pictures(static_cast<size_t>(count));
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        pictures[static_cast<size_t>(i)] = decode_image(paths[static_cast<size_t>(first + i)], 3);
      }
    });
    const std::vector<ProbabilityMap> maps = predict(*loaded.network, pictures, img_size);
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const std::string stem = paths[static_cast<size_t>(first + i)].stem().string();
        const ProbabilityMap& map = maps[static_cast<size_t>(i)];
        Image mask = map.to_image();
        if (options.threshold >= 0) {
          for (size_t p = 0; p < mask.pixels.size(); ++p) {
            mask.pixels[p] = static_cast<double>(map.values[p]) >= options.threshold ? 255 : 0;
          }
        }
        encode_png(output / (stem + ".png"), mask);
        if (options.overlay) {
          encode_png(output / (stem + "_overlay.png"), overlay(pictures[static_cast<size_t>(i)], map));
        }
      }
    });
    progress.update(first + count);
  });
  progress.finish();
  fmt::print("{} masks written to {} in {} ({:.1f} images/s, {} at {} px{})\n", paths.size(), output.string(),
             format_duration(progress.seconds()), static_cast<double>(paths.size()) / progress.seconds(),
             loaded.info.spec.backbone, img_size, loaded.averaged ? ", averaged weights" : "");
}

}  // namespace

Command add_predict_command(CLI::App& app) {
  auto options = std::make_shared<PredictOptions>();
  CLI::App* flags = app.add_subcommand("predict", "Write the predicted mask of every picture as an 8-bit PNG");
  options->common.add_to(*flags);
  flags->add_option("--checkpoint", options->checkpoint, "Checkpoint to use")->required();
  flags->add_option("--input", options->input, "Picture, folder of pictures, or .txt list of paths")->required();
  flags->add_option("--output-dir", options->output_dir, "Folder for the masks (made if missing)")->required();
  flags->add_option("--backbone", options->backbone, "Expected backbone; default: the checkpoint's");
  flags->add_option("--img-size", options->img_size, "Side the network sees; 0: the checkpoint's")
      ->capture_default_str();
  flags->add_option("--batch-size", options->batch_size, "Pictures at a time")->capture_default_str();
  flags->add_option("--threshold", options->threshold,
                    "Write 0 and 255 only, cut at this probability; default: grey masks");
  flags->add_flag("--overlay", options->overlay, "Also write NAME_overlay.png: the picture with the object tinted");
  return {flags, [options] { run_predict(*options); }};
}

}  // namespace camo::app
