#include "data/dataset.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"

namespace camo {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLayouts =
    "understood are: Imgs+GT, Image+GT_Object, Image+GT, Image+Mask, Images+Masks or im+gt side by side; the same "
    "below "
    "Train/ and Test/, or below TrainDataset/, TrainValDataset/ and TestDataset/[NAME/]; Train+TrainGT, Test+TestGT; "
    "Images/{Train,Test}+GT";

constexpr std::array<std::array<const char*, 2>, 7> kPairs = {{{"imgs", "gt"},
                                                               {"image", "gt_object"},
                                                               {"image", "gt"},
                                                               {"image", "mask"},
                                                               {"images", "masks"},
                                                               {"images", "gt"},
                                                               {"im", "gt"}}};

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

// What a folder holds, its subfolders and all else. A link that leads nowhere is no folder.
struct FolderContents {
  std::vector<fs::path> folders, files;
};

FolderContents list_folder(const fs::path& folder) {
  FolderContents contents;
  std::error_code failure;
  for (fs::directory_iterator entry(folder, failure), end; !failure && entry != end; entry.increment(failure)) {
    std::error_code unknown;
    (entry->is_directory(unknown) ? contents.folders : contents.files).push_back(entry->path());
  }
  CAMO_CHECK_CODE(data, !failure, folder.string(), ": can't list the folder (", failure.message(),
                  "); check its permissions");
  return contents;
}

// The subfolders of a folder by their names in lower case.
std::map<std::string, fs::path> subfolders(const fs::path& folder) {
  std::map<std::string, fs::path> found;
  for (const fs::path& path : list_folder(folder).folders) found[lower(path.filename().string())] = path;
  return found;
}

// The last part of a path that says something: "CAMO" for data/CAMO/train/.
std::string label_of(fs::path folder) {
  static const std::set<std::string> kSplitNames = {
      "train", "test", "traindataset", "testdataset", "trainset", "trainvaldataset", "testset", "images"};
  folder = fs::weakly_canonical(folder);
  fs::path named = folder;
  while (kSplitNames.contains(lower(named.filename().string())) && named.has_parent_path() &&
         named.parent_path() != named.root_path())
    named = named.parent_path();
  return named.filename().string();
}

using Sources = std::vector<DatasetSource>;

// Pictures and masks side by side in this folder.
std::optional<DatasetSource> find_pair(const fs::path& folder) {
  const auto inside = subfolders(folder);
  for (const auto& [images, masks] : kPairs) {
    const auto image_folder = inside.find(images), mask_folder = inside.find(masks);
    if (image_folder != inside.end() && mask_folder != inside.end())
      return DatasetSource{label_of(folder), image_folder->second, mask_folder->second, 0, false};
  }
  return std::nullopt;
}

void append_pair(Sources& sources, const fs::path& folder) {
  if (auto pair = find_pair(folder)) sources.push_back(*pair);
}

// The sources of one split ("train" or "test") below a root that is no pair itself.
Sources find_split(const fs::path& root, const std::string& split) {
  Sources sources;
  const auto inside = subfolders(root);
  const auto folder = [&](const std::string& name) -> const fs::path* {
    const auto found = inside.find(name);
    return found == inside.end() ? nullptr : &found->second;
  };

  if (folder("images") && folder("gt")) {  // CAMO-V.1.0: one mask folder for both splits
    const auto parts = subfolders(*folder("images"));
    if (parts.contains(split)) return {{label_of(root), parts.at(split), *folder("gt"), 0, true}};
  }
  if (folder(split) && folder(split + "gt")) return {{label_of(root), *folder(split), *folder(split + "gt"), 0, false}};

  std::vector<std::string> names = {split, split + "dataset"};
  if (split == "train") names.push_back("trainvaldataset");
  for (const std::string& name : names) {
    if (!folder(name)) continue;
    append_pair(sources, *folder(name));
    if (sources.empty())
      for (const auto& [_, set] : subfolders(*folder(name))) append_pair(sources, set);
    if (!sources.empty()) return sources;
  }
  return sources;
}

// CAMO-V.1.0 looks like a pair Images+GT, but its pictures are one level deeper.
bool has_split_images(const fs::path& root) {
  const auto inside = subfolders(root);
  const auto images = inside.find("images");
  if (images == inside.end() || !inside.contains("gt")) return false;
  const auto parts = subfolders(images->second);
  return parts.contains("train") || parts.contains("test");
}

// Whether a folder that has the other split only is an error or has no sources.
enum class OtherSplit { refuse, skip };

Sources find_sources(const fs::path& root, Split split, OtherSplit other) {
  std::error_code status;
  CAMO_CHECK_CODE(data, fs::exists(root, status), root.string(),
                  ": no such folder; give the folder of a data set, several joined with '+'");
  CAMO_CHECK_CODE(data, fs::is_directory(root, status), root.string(), ": a folder is wanted; this is a file");
  const FolderContents contents = list_folder(root);
  CAMO_CHECK_CODE(data, !contents.folders.empty() || !contents.files.empty(), root.string(), ": the folder is empty; ",
                  kLayouts);
  if (!has_split_images(root))
    if (auto pair = find_pair(root)) return {*pair};

  const Sources train = find_split(root, "train"), test = find_split(root, "test");
  Sources found;
  if (split != Split::test) found = train;
  if (split != Split::train) found.insert(found.end(), test.begin(), test.end());
  if (!found.empty()) return found;
  // A folder of data sets without splits, such as TestDataset itself.
  if (train.empty() && test.empty())
    for (const auto& [_, set] : subfolders(root)) append_pair(found, set);
  const bool has_other = found.empty() && (!train.empty() || !test.empty());
  if (has_other && other == OtherSplit::skip) return {};
  CAMO_CHECK_CODE(data, !has_other, root.string(), ": has no folder for ",
                  split == Split::train ? "training" : "testing", " beside the one for ",
                  split == Split::train ? "testing" : "training", "; give the folder of pictures and masks itself");
  CAMO_CHECK_CODE(data, !found.empty(), root.string(), ": no pictures and masks found in this folder; ", kLayouts);
  return found;
}

std::string first_names(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(names.size(), 5); ++i) text.append(i > 0 ? ", " : "").append(names[i]);
  return names.size() > 5 ? text + ", ..." : text;
}

std::vector<Sample> pair_by_stem(const DatasetSource& source, Unpaired policy, std::vector<std::string>& unpaired) {
  const auto images = pictures_by_stem(source.images);
  const auto masks = pictures_by_stem(source.masks);
  CAMO_CHECK_CODE(data, !images.empty(), source.images.string(),
                  ": no picture in this folder; jpg, jpeg, png and bmp files are read");
  std::vector<Sample> samples;
  std::vector<std::string> missing;
  for (const auto& [stem, image] : images) {
    const auto mask = masks.find(stem);
    if (mask != masks.end()) samples.push_back({stem, image, mask->second});
    else if (policy == Unpaired::refuse) missing.push_back(image.filename().string());
    else unpaired.push_back(concat_text(image.string(), ": has no mask of the same name in ", source.masks.string()));
  }
  CAMO_CHECK_CODE(data, missing.empty(), source.images.string(),
                  ": every picture must have a mask of the same name in ", source.masks.string(), "; ", missing.size(),
                  " of ", images.size(), " have none: ", first_names(missing),
                  "; add the masks or remove the pictures");
  if (source.shared_masks) return samples;
  for (const auto& [stem, mask] : masks) {
    if (images.contains(stem)) continue;
    if (policy == Unpaired::refuse) missing.push_back(mask.filename().string());
    else
      unpaired.push_back(concat_text(mask.string(), ": has no picture of the same name in ", source.images.string()));
  }
  CAMO_CHECK_CODE(data, missing.empty(), source.masks.string(), ": every mask must have a picture of the same name in ",
                  source.images.string(), "; ", missing.size(), " of ", masks.size(),
                  " have none: ", first_names(missing), "; add the pictures or remove the masks");
  return samples;
}

std::vector<std::string> split_at_plus(const std::string& text) {
  // A folder may have a '+' in its own name.
  if (fs::exists(text)) return {text};
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

void make_labels_unique(Sources& sources) {
  std::set<std::string> taken;
  for (DatasetSource& source : sources) {
    const std::string label = source.label;
    for (int number = 2; !taken.insert(source.label).second; ++number) source.label = concat_text(label, "_", number);
  }
}

Dataset find_dataset(const std::string& folders, Split split, Unpaired unpaired, OtherSplit other) {
  Dataset dataset;
  for (const std::string& folder : split_at_plus(folders)) {
    CAMO_CHECK_CODE(data, !folder.empty(), "'", folders,
                    "': folders joined with '+' must not be empty; remove the '+' too many");
    const Sources found = find_sources(folder, split, other);
    dataset.sources.insert(dataset.sources.end(), found.begin(), found.end());
  }
  make_labels_unique(dataset.sources);

  std::set<fs::path> image_folders;
  for (const DatasetSource& source : dataset.sources) {
    CAMO_CHECK_CODE(data, image_folders.insert(fs::canonical(source.images)).second, source.images.string(),
                    ": the folder is part of '", folders, "' twice; give it once");
  }
  for (DatasetSource& source : dataset.sources) {
    for (Sample& sample : pair_by_stem(source, unpaired, dataset.unpaired)) {
      if (dataset.sources.size() > 1) sample.name = concat_text(source.label, "/", sample.name);
      dataset.samples.push_back(std::move(sample));
      ++source.count;
    }
  }
  return dataset;
}

}  // namespace

std::map<std::string, fs::path> pictures_by_stem(const fs::path& folder) {
  static const std::set<std::string> kSuffixes = {".jpg", ".jpeg", ".png", ".bmp"};
  std::map<std::string, fs::path> found;
  for (const fs::path& path : list_folder(folder).files) {
    if (!kSuffixes.contains(lower(path.extension().string())) || path.filename().string().starts_with("._")) continue;
    const auto [other, is_new] = found.emplace(path.stem().string(), path);
    CAMO_CHECK_CODE(data, is_new, folder.string(), ": file names must differ in more than the suffix; got ",
                    std::min(path, other->second).filename().string(), " and ",
                    std::max(path, other->second).filename().string(), "; remove one");
  }
  return found;
}

Dataset find_dataset(const std::string& folders, Split split, Unpaired unpaired) {
  return find_dataset(folders, split, unpaired, OtherSplit::refuse);
}

DatasetSplits find_splits(const std::string& folders, const std::string& test_folders, Unpaired unpaired) {
  DatasetSplits splits;
  splits.unpaired = find_dataset(folders, Split::all, unpaired).unpaired;
  const auto part = [&](Split split) {
    return find_dataset(folders, split, Unpaired::collect, OtherSplit::skip).samples;
  };
  splits.train = part(Split::train);
  if (test_folders.empty()) {
    std::set<fs::path> train;
    for (const Sample& sample : splits.train) train.insert(sample.image);
    splits.test = part(Split::test);
    std::erase_if(splits.test, [&](const Sample& sample) { return train.contains(sample.image); });
  } else {
    Dataset test = find_dataset(test_folders, Split::test, unpaired);
    splits.test = std::move(test.samples);
    splits.unpaired.insert(splits.unpaired.end(), test.unpaired.begin(), test.unpaired.end());
  }
  return splits;
}

std::pair<Image, Image> decode_both(const fs::path& first, int first_channels, const fs::path& second,
                                    int second_channels) {
  std::pair<Image, Image> images;
  std::string bad;
  const auto decode = [&](const fs::path& path, int channels, Image& out) {
    try {
      out = decode_image(path, channels);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::data) throw;
      bad.append(bad.empty() ? "" : "\n  and ").append(error.what());
    }
  };
  decode(first, first_channels, images.first);
  decode(second, second_channels, images.second);
  if (!bad.empty()) throw Error(ErrorCode::data, bad);
  return images;
}

LoadedSample load_sample(const Sample& sample) {
  auto [image, mask] = decode_both(sample.image, 3, sample.mask, 1);
  CAMO_CHECK_CODE(data, image.width == mask.width && image.height == mask.height, sample.mask.string(),
                  ": a mask must have its picture's size; got mask ", mask.width, " x ", mask.height, ", picture ",
                  image.width, " x ", image.height, " (", sample.image.string(), ")");
  return {std::move(image), std::move(mask)};
}

}  // namespace camo
