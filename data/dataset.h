// Data sets on disk: pictures and their masks, found by the layout of the folders and paired by file name.
//
// Layouts (names in any case; `{Train,Test}` stands for split folders):
//   Imgs+GT, Image+GT_Object, Image+GT, Image+Mask, Images+Masks, im+gt     pictures and masks side by side
//   {Train,Test}/ with one of these pairs inside                            COD10K-v3
//   {TrainDataset,TrainValDataset,TestDataset}/ with a pair inside, or several data sets each with a pair
//   Train+TrainGT and Test+TestGT
//   Images/{Train,Test} + GT                                                CAMO-V.1.0
// Pictures are jpg, jpeg, png or bmp, masks png, jpg, jpeg or bmp.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data/image.h"

namespace camo {

/// A picture and its mask. The name is the file's stem; when a data set comes from several folders it is LABEL/stem, so
/// that names differ.
struct Sample {
  std::string name;
  std::filesystem::path image;
  std::filesystem::path mask;
};

/// Which samples to take where a folder has both: those for training, those for testing, or all.
enum class Split { train, test, all };

/// One pair of folders that samples were found in.
struct DatasetSource {
  std::string label;
  std::filesystem::path images;
  std::filesystem::path masks;
  int64_t count = 0;
  bool shared_masks = false;  // `masks` also holds those of the other split (CAMO-V.1.0), so some have no picture here
};

struct Dataset {
  std::vector<Sample> samples;  // in the order of `sources`, then by name
  std::vector<DatasetSource> sources;
  std::vector<std::string> unpaired;  // a message per picture without mask and mask without picture, when collected
};

/// Whether pictures and masks without partner are an error or are listed and left out.
enum class Unpaired { refuse, collect };

/// Finds the samples below a folder, or below several joined with '+'. A folder that itself is a pair of pictures and
/// masks belongs to every split. Throws ErrorCode::data, naming the folder and the rule, when there is no such folder,
/// nothing that looks like a layout, no picture, a picture without mask or a mask without picture (up to five named,
/// and how many; Unpaired::collect lists them instead), two pictures of one stem, or one folder given twice.
Dataset find_dataset(const std::string& folders, Split split, Unpaired unpaired = Unpaired::refuse);

/// The samples for training, and those that the same folders hold besides.
struct DatasetSplits {
  std::vector<Sample> train, test;
  std::vector<std::string> unpaired;  // as in Dataset
};

/// Folders without splits hold training samples only. `test_folders` (may be empty) are the test samples instead.
DatasetSplits find_splits(const std::string& folders, const std::string& test_folders = {},
                          Unpaired unpaired = Unpaired::refuse);

/// The picture files (jpg, jpeg, png, bmp) of a folder by stem. Throws ErrorCode::data when two share one.
std::map<std::string, std::filesystem::path> pictures_by_stem(const std::filesystem::path& folder);

/// Decodes two files that belong together, each to so many channels. Throws ErrorCode::data naming each that can't be
/// decoded.
std::pair<Image, Image> decode_both(const std::filesystem::path& first, int first_channels,
                                    const std::filesystem::path& second, int second_channels);

/// A decoded sample at its original size: RGB picture and grey mask of equal extents.
struct LoadedSample {
  Image image;
  Image mask;
};

/// Throws ErrorCode::data when files can't be decoded, naming each, or the sizes differ.
LoadedSample load_sample(const Sample& sample);

}  // namespace camo
