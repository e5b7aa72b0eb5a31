#include "apps/camoxpert/common_options.h"

#include <CLI/CLI.hpp>
#include <filesystem>

#include "apps/camoxpert/inference.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/attention.h"
#include "ops/math_mode.h"

namespace camo::app {

void CommonOptions::add_to(CLI::App& command) {
  command.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command.add_option("--threads", threads, "CPU threads; 0 uses all cores")->capture_default_str();
  command
      .add_flag("--tf32,!--no-tf32", tf32,
                "On a GPU, round the factors of products, convolutions and attention to TF32 (default: on)")
      ->default_str("true");  // config.toml says false of flags without a default
  command.add_flag("--autotune", autotune, "On a GPU, time the candidates for each convolution at its first use");
  command.add_option("--sdpa-backend", sdpa_backend, "Attention: flash (tiles of scores), math (all scores) or auto")
      ->check(CLI::IsMember({"auto", "flash", "math"}))
      ->capture_default_str();
  command.add_flag("--no-flash-attention", no_flash_attention, "The same as --sdpa-backend math, and stronger");
}

void CommonOptions::add_amp(CLI::App& command) {
  command.add_option("--amp", amp, "Compute in 16 bit, with f32 sums and parameters: off, bf16 or fp16")
      ->check(CLI::IsMember({"off", "bf16", "fp16"}))
      ->capture_default_str();
}

void CommonOptions::add_cuda_graphs(CLI::App& command) {
  command
      .add_option(
          "--cuda-graphs", cuda_graphs,
          "On a GPU, record the network's kernels and launch them at once: auto (from the third batch of a size "
          "on, and without where memory does not last), on (inference: from the first batch) or off")
      ->check(CLI::IsMember({"auto", "on", "off"}))
      ->capture_default_str();
}

Device CommonOptions::apply() const {
  constexpr int kMostThreads = 4096;
  CAMO_CHECK_CODE(usage, threads >= 0 && threads <= kMostThreads, "--threads: must be within 0 and ", kMostThreads,
                  "; got ", threads);
  if (threads > 0) set_num_threads(threads);
  set_allow_tf32(tf32);
  set_conv_autotune(autotune);
  const bool math = no_flash_attention || sdpa_backend == "math";
  set_attention_backend(math                      ? AttentionBackend::math
                        : sdpa_backend == "flash" ? AttentionBackend::flash
                                                  : AttentionBackend::automatic);
  return parse_device(device);
}

DType CommonOptions::autocast() const { return amp == "bf16" ? bf16 : amp == "fp16" ? f16 : f32; }

std::string CommonOptions::precision(Device where) const {
  if (amp != "off") return amp + " products, f32 sums and parameters";
  if (where.is_cpu()) return "f32";
  return tf32 ? "f32, factors of products rounded to TF32 (--no-tf32 turns that off)" : "f32";
}

void check_made_file(const std::string& in, const std::string& out) {
  std::error_code none;
  CAMO_CHECK_CODE(usage, !std::filesystem::equivalent(in, out, none), "out: must be another file than in; got ", out);
  check_output_file("out", out);
}

void check_img_size(int64_t size) {
  CAMO_CHECK_CODE(usage, size == 0 || (size >= kSmallestSide && size <= kLargestSide),
                  "--img-size: must be 0 or within ", kSmallestSide, " and ", kLargestSide, "; got ", size);
}

void add_tta(CLI::App& command, std::string& text) {
  command
      .add_option(
          "--tta", text,
          "Average the probabilities of several views: flip, rotate and scales, joined with ','; off unless given")
      ->expected(0, 1)
      ->default_str(kDefaultTta);
}

void check_output_file(const char* flag, const std::string& file) {
  if (file.empty() || file == "-") return;
  const std::filesystem::path folder = std::filesystem::path(file).has_parent_path()
                                           ? std::filesystem::path(file).parent_path()
                                           : std::filesystem::path(".");
  CAMO_CHECK_CODE(usage, std::filesystem::is_directory(folder), flag, ": the file's folder must exist; got ", file,
                  "; make ", folder.string(), " first");
  CAMO_CHECK_CODE(usage, !std::filesystem::is_directory(file), flag, ": must name a file; got the folder ", file);
}

}  // namespace camo::app
