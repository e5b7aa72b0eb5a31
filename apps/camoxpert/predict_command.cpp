// camoxpert predict: masks of pictures as 8-bit PNG at their own size.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <optional>
#include <set>

#include "apps/camoxpert/bad_images.h"
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
  std::string checkpoint, input, output_dir, backbone, tta, on_bad_image = "error";
  int64_t img_size = 0, batch_size = 4;
  std::optional<double> threshold;
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
      if (!entry.is_directory() && is_picture(entry.path())) pictures.push_back(entry.path());
    }
    std::sort(pictures.begin(), pictures.end());
    CAMO_CHECK_CODE(data, !pictures.empty(), "predict: the folder ", input.string(),
                    " holds no jpg, jpeg, png or bmp file");
  } else if (input.extension() == ".txt") {
    std::ifstream list(input);
    for (std::string line; std::getline(list, line);) {
      if (line.ends_with('\r')) line.pop_back();
      if (!line.empty()) pictures.emplace_back(line);
    }
    CAMO_CHECK_CODE(data, !pictures.empty(), "predict: the list ", input.string(), " is empty");
  } else {
    pictures.push_back(input);
  }
  return pictures;
}

/// Every picture has files of its own in the output folder, none is a picture to read, and none would be one the next
/// time.
void check_outputs(const fs::path& input, const std::vector<fs::path>& pictures, const fs::path& output, bool overlay) {
  std::set<fs::path> inputs;
  for (const fs::path& picture : pictures) inputs.insert(fs::weakly_canonical(picture));
  std::set<std::string> names;
  for (const fs::path& picture : pictures) {
    const std::string stem = picture.stem().string();
    for (const std::string& name : {stem + ".png", stem + "_overlay.png"}) {
      if (!overlay && name != stem + ".png") continue;
      CAMO_CHECK_CODE(data, names.insert(name).second, "predict: two pictures would be written to the same ", name,
                      "; got ", picture.string(), " as the second; give them other names or separate folders");
      CAMO_CHECK_CODE(data, !inputs.contains(fs::weakly_canonical(output / name)),
                      "predict: ", (output / name).string(),
                      " is a picture to read and would be overwritten; use another --output-dir");
    }
  }
  std::error_code none;
  CAMO_CHECK_CODE(data, !fs::is_directory(input) || !fs::equivalent(input, output, none),
                  "predict: masks would lie among the pictures of ", input.string(), "; use another --output-dir");
}

void check(const PredictOptions& options) {
  CAMO_CHECK_CODE(usage, options.batch_size >= 1, "--batch-size: must be at least 1; got ", options.batch_size);
  check_img_size(options.img_size);
  CAMO_CHECK_CODE(usage, !options.threshold || (*options.threshold >= 0 && *options.threshold <= 1),
                  "--threshold: must be within 0 and 1; got ", *options.threshold);
}

void write_masks(const PredictOptions& options, const fs::path& stem, const Image& picture, const ProbabilityMap& map) {
  Image mask = map.to_image();
  if (options.threshold) {
    for (size_t p = 0; p < mask.pixels.size(); ++p) {
      mask.pixels[p] = static_cast<double>(map.values[p]) >= *options.threshold ? 255 : 0;
    }
  }
  const fs::path output = options.output_dir;
  encode_png(output / (stem.string() + ".png"), mask);
  if (options.overlay) encode_png(output / (stem.string() + "_overlay.png"), overlay(picture, map));
}

void run_predict(const PredictOptions& options) {
  const Device device = options.common.apply();
  check(options);
  BadImages bad(parse_on_bad_image(options.on_bad_image));
  const auto augmentation = TestTimeAugmentation::parse(options.tta);
  const std::vector<fs::path> paths = find_pictures(options.input);
  check_outputs(options.input, paths, options.output_dir, options.overlay);
  const LoadedCheckpoint loaded = load_checkpoint(options.checkpoint, options.backbone);
  loaded.network->to(device, f32);
  const int img_size = static_cast<int>(options.img_size > 0 ? options.img_size : loaded.info.img_size);
  Predictor predict(*loaded.network, img_size, augmentation, options.common.autocast(),
                    parse_cuda_graphs(options.common.cuda_graphs));
  std::error_code failure;
  fs::create_directories(options.output_dir, failure);
  CAMO_CHECK_CODE(data, !failure && fs::is_directory(options.output_dir), "predict: can't create the folder ",
                  options.output_dir, ": ", failure.message());
  Progress progress("predict", static_cast<int64_t>(paths.size()), "images");
  TolerantReader<Image> reader(paths.size(), bad, [&](size_t i) { return decode_image(paths[i], 3); });
  const auto batch_size = static_cast<size_t>(options.batch_size);
  size_t written = 0;
  for (auto batch = reader.next(batch_size); !batch.empty(); batch = reader.next(batch_size)) {
    std::vector<const Image*> pictures;
    for (const auto& [number, picture] : batch) pictures.push_back(&picture);
    const std::vector<ProbabilityMap> maps = predict(pictures);
    parallel_for(static_cast<int64_t>(batch.size()), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        write_masks(options, paths[batch[i].first].stem(), batch[i].second, maps[i]);
      }
    });
    written += batch.size();
    progress.update(static_cast<int64_t>(reader.position()));
  }
  progress.finish();
  bad.report();
  fmt::print("{} masks written to {} in {} ({:.1f} images/s, {} at {} px{}{})\n", written, options.output_dir,
             format_duration(progress.seconds()), static_cast<double>(written) / progress.seconds(),
             loaded.info.spec.backbone, img_size, loaded.averaged ? ", averaged weights" : "",
             augmentation.passes() > 1 ? fmt::format(", {} views each", augmentation.passes()) : "");
}

}  // namespace

Command add_predict_command(CLI::App& app) {
  auto options = std::make_shared<PredictOptions>();
  CLI::App* flags = app.add_subcommand("predict", "Write the predicted mask of every picture as an 8-bit PNG");
  options->common.add_to(*flags);
  options->common.add_amp(*flags);
  options->common.add_cuda_graphs(*flags);
  flags->add_option("--checkpoint", options->checkpoint, "Checkpoint to use")->required();
  flags->add_option("--input", options->input, "Picture, folder of pictures, or .txt list of paths")->required();
  flags->add_option("--output-dir", options->output_dir, "Folder for the masks (made if missing)")->required();
  flags->add_option("--backbone", options->backbone, "Expected backbone; default: the checkpoint's");
  flags->add_option("--img-size", options->img_size, "Side the network sees; 0: the checkpoint's")
      ->capture_default_str();
  flags->add_option("--batch-size", options->batch_size, "Pictures at a time")->capture_default_str();
  flags->add_option("--threshold", options->threshold,
                    "Write 0 and 255 only, cut at this probability; default: grey masks");
  add_tta(*flags, options->tta);
  add_on_bad_image(*flags, options->on_bad_image);
  flags->add_flag("--overlay", options->overlay, "Also write NAME_overlay.png: the picture with the object tinted");
  return {flags, [options] { run_predict(*options); }};
}

}  // namespace camo::app
