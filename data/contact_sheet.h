// Contact sheets: pictures side by side in one, with captions.
#pragma once

#include <string>
#include <vector>

#include "data/image.h"

namespace camo {

struct ContactPanel {
  Image image;  // grey or RGB, any size
  std::string caption;
};

/// One row of panels per entry, each picture fitted into panel_size x panel_size and its caption below it; thin
/// separators between. Characters beyond ASCII are drawn as '?'; captions are cut at their panel's width.
Image make_contact_sheet(const std::vector<std::vector<ContactPanel>>& rows, int panel_size = 192);

/// Where a prediction is right and wrong, cut as for its IoU (stretched, then above 0.5; metrics.h): hits white, false
/// alarms red, misses blue. Sizes must agree.
Image error_map(const Image& prediction, const Image& mask);

/// Draws text with its upper left corner at (x, y), cut at `end_x` and at the picture's borders: 5 x 7 pixels a
/// character, 6 from one to the next.
void draw_text(Image& image, int x, int y, const std::string& text, uint8_t value = 255, int end_x = INT32_MAX);

}  // namespace camo
