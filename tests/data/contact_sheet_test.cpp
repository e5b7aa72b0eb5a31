#include "data/contact_sheet.h"

#include <algorithm>

#include "tests/support/test_support.h"

namespace camo {
namespace {

uint8_t pixel(const Image& image, int x, int y, int channel = 0) { return image.row(y)[x * image.channels + channel]; }

TEST(ContactSheet, PlacesPanelsInAGrid) {
  const Image red = [] {
    Image image(30, 30, 3);
    for (size_t i = 0; i < image.pixels.size(); i += 3) image.pixels[i] = 200;
    return image;
  }();
  const Image sheet = make_contact_sheet({{{red, ""}, {Image(10, 10, 1, 99), ""}}, {{Image(7, 7, 1, 50), ""}}}, 40);
  EXPECT_EQ(sheet.width, 2 + 2 * 42);
  EXPECT_EQ(sheet.height, 2 + 2 * 55);
  EXPECT_EQ(pixel(sheet, 20, 20, 0), 200);
  EXPECT_EQ(pixel(sheet, 20, 20, 1), 0);
  for (int c = 0; c < 3; ++c) EXPECT_EQ(pixel(sheet, 60, 20, c), 99);
  EXPECT_EQ(pixel(sheet, 20, 70), 50);
  EXPECT_NE(pixel(sheet, 60, 70), 50);                  // no panel
  EXPECT_EQ(pixel(sheet, 0, 0), pixel(sheet, 43, 20));  // separators
}

TEST(ContactSheet, FitsPicturesKeepingTheirProportions) {
  const Image sheet = make_contact_sheet({{{Image(80, 40, 1, 255), ""}}}, 40);
  EXPECT_EQ(pixel(sheet, 22, 22), 255);
  EXPECT_NE(pixel(sheet, 22, 5), 255);
  EXPECT_NE(pixel(sheet, 22, 38), 255);
}

TEST(ContactSheet, CaptionIsDrawnBelowAndCut) {
  const Image without = make_contact_sheet({{{Image(8, 8, 1), ""}, {Image(8, 8, 1), ""}}}, 40);
  const Image with = make_contact_sheet({{{Image(8, 8, 1), "IoU 0.71 and much more"}, {Image(8, 8, 1), ""}}}, 40);
  int changed_below = 0;
  for (int y = 0; y < with.height; ++y) {
    for (int x = 0; x < with.width; ++x) {
      if (pixel(with, x, y) == pixel(without, x, y)) continue;
      EXPECT_GE(y, 42);
      EXPECT_LT(x, 42);
      ++changed_below;
    }
  }
  EXPECT_GT(changed_below, 50);
}

TEST(ContactSheet, ChecksItsPanels) {
  EXPECT_ERROR(make_contact_sheet({}, 40), "contact_sheet: at least one panel is needed");
  EXPECT_ERROR(make_contact_sheet({{{Image(), "a"}}}, 40), "panels must be grey or RGB pictures; got 0 x 0 x 0");
  EXPECT_ERROR(make_contact_sheet({{{Image(4, 4, 1), "a"}}}, 4), "panel size must be within 8 and 2048; got 4");
  const std::vector<std::vector<ContactPanel>> many(20, {{Image(4, 4, 1), "a"}});
  EXPECT_ERROR(make_contact_sheet(many, 2000), "use fewer rows or smaller panels");
  const std::vector<std::vector<ContactPanel>> square(12, std::vector<ContactPanel>(12, {Image(4, 4, 1), "a"}));
  EXPECT_ERROR(make_contact_sheet(square, 2000), "268435456 in all; got 24026 x 24182");
}

TEST(DrawText, DrawsTheGlyph) {
  Image image(8, 9, 1);
  draw_text(image, 1, 1, "L", 7);
  for (int y = 0; y < 9; ++y)
    for (int x = 0; x < 8; ++x)
      EXPECT_EQ(pixel(image, x, y), (x == 1 && y >= 1 && y <= 7) || (y == 7 && x >= 1 && x <= 5) ? 7 : 0);
  draw_text(image, 4, 5, "\x80W");  // beyond the borders, beyond ASCII: no harm
}

TEST(ErrorMap, ColoursHitsFalseAlarmsAndMisses) {
  Image prediction(4, 1, 1), mask(4, 1, 1);
  prediction.pixels = {255, 255, 0, 128};
  mask.pixels = {255, 0, 255, 0};
  EXPECT_EQ(error_map(prediction, mask).pixels,
            (std::vector<uint8_t>{255, 255, 255, 255, 0, 0, 0, 90, 255, 255, 0, 0}));
  prediction.pixels = {90, 60, 20, 10};  // dim: what counts is its own range, as in the scores
  EXPECT_EQ(error_map(prediction, mask).pixels, (std::vector<uint8_t>{255, 255, 255, 255, 0, 0, 0, 90, 255, 0, 0, 0}));
  EXPECT_ERROR(error_map(prediction, Image(4, 2, 1)), "of one size; got 4 x 1 x 1 and 4 x 2 x 1");
}

}  // namespace
}  // namespace camo
