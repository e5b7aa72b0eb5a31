#include "data/contact_sheet.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "data/font.h"
#include "data/metrics.h"
#include "data/resize_image.h"
#include "data/transforms.h"

namespace camo {
namespace {

constexpr int kSeparator = 2;
constexpr int kCaptionHeight = 13;  // 7 for the text, 3 above and below
constexpr uint8_t kSeparatorGrey = 70, kBackgroundGrey = 24, kTextGrey = 235;

void paste_fitted(Image& sheet, const Image& image, int left, int top, int panel_size) {
  const double scale = static_cast<double>(panel_size) / std::max(image.width, image.height);
  const int width = std::max(1, static_cast<int>(std::lround(image.width * scale)));
  const int height = std::max(1, static_cast<int>(std::lround(image.height * scale)));
  const Image fitted = resize_bilinear(image, width, height);
  const int x0 = left + (panel_size - width) / 2, y0 = top + (panel_size - height) / 2;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c)
        sheet.row(y0 + y)[3 * (x0 + x) + c] = fitted.row(y)[fitted.channels * x + (fitted.channels == 3 ? c : 0)];
}

void fill_rectangle(Image& sheet, int left, int top, int width, int height, uint8_t value) {
  for (int y = top; y < top + height; ++y) std::fill_n(sheet.row(y) + 3 * left, 3 * width, value);
}

}  // namespace

void draw_text(Image& image, int x, int y, const std::string& text, uint8_t value, int end_x) {
  for (char character : text) {
    if (x + 5 > end_x) return;
    const int glyph = character >= ' ' && character <= '~' ? character - ' ' : '?' - ' ';
    for (int column = 0; column < 5; ++column) {
      for (int row = 0; row < 7; ++row) {
        const int px = x + column, py = y + row;
        if (!(detail::kFont[glyph][column] >> row & 1) || px < 0 || py < 0 || px >= image.width || py >= image.height)
          continue;
        std::fill_n(image.row(py) + px * image.channels, image.channels, value);
      }
    }
    x += 6;
  }
}

Image make_contact_sheet(const std::vector<std::vector<ContactPanel>>& rows, int panel_size) {
  CAMO_CHECK(panel_size >= 8 && panel_size <= 2048, "contact_sheet: panel size must be within 8 and 2048; got ",
             panel_size);
  size_t columns = 0;
  for (const auto& row : rows) {
    columns = std::max(columns, row.size());
    for (const ContactPanel& panel : row)
      CAMO_CHECK(!panel.image.pixels.empty() && (panel.image.channels == 1 || panel.image.channels == 3),
                 "contact_sheet: panels must be grey or RGB pictures; got ", panel.image.width, " x ",
                 panel.image.height, " x ", panel.image.channels);
  }
  CAMO_CHECK(columns > 0, "contact_sheet: at least one panel is needed");
  const int cell_width = panel_size + kSeparator, cell_height = panel_size + kCaptionHeight + kSeparator;
  const int64_t width = static_cast<int64_t>(columns) * cell_width + kSeparator;
  const int64_t height = static_cast<int64_t>(rows.size()) * cell_height + kSeparator;
  CAMO_CHECK(width <= kMaxImageSide && height <= kMaxImageSide && width * height <= kMaxImagePixels,
             "contact_sheet: the sheet has at most ", kMaxImageSide, " pixels a side and ", kMaxImagePixels,
             " in all; got ", width, " x ", height, "; use fewer rows or smaller panels");

  Image sheet(static_cast<int>(width), static_cast<int>(height), 3, kSeparatorGrey);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < columns; ++c) {
      const int left = kSeparator + static_cast<int>(c) * cell_width;
      const int top = kSeparator + static_cast<int>(r) * cell_height;
      fill_rectangle(sheet, left, top, panel_size, panel_size + kCaptionHeight, kBackgroundGrey);
      if (c >= rows[r].size()) continue;
      paste_fitted(sheet, rows[r][c].image, left, top, panel_size);
      draw_text(sheet, left + 3, top + panel_size + 3, rows[r][c].caption, kTextGrey, left + panel_size);
    }
  }
  return sheet;
}

Image error_map(const Image& prediction, const Image& mask) {
  CAMO_CHECK(prediction.channels == 1 && mask.channels == 1 && prediction.width == mask.width &&
                 prediction.height == mask.height,
             "error_map: prediction and mask must be grey and of one size; got ", prediction.width, " x ",
             prediction.height, " x ", prediction.channels, " and ", mask.width, " x ", mask.height, " x ",
             mask.channels);
  Image map(mask.width, mask.height, 3);
  if (mask.pixels.empty()) return map;
  const std::array<double, 256> values = stretched_levels(prediction);
  for (size_t i = 0; i < mask.pixels.size(); ++i) {
    const bool predicted = values[prediction.pixels[i]] > 0.5, wanted = mask.pixels[i] > kMaskThreshold;
    map.pixels[3 * i] = predicted ? 255 : 0;
    map.pixels[3 * i + 1] = predicted && wanted ? 255 : wanted ? 90 : 0;
    map.pixels[3 * i + 2] = wanted ? 255 : 0;
  }
  return map;
}

}  // namespace camo
