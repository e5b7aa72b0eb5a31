// Meijster, Roerdink, Hesselink: A general algorithm for computing distance transforms in linear time (2000), with the
// nearest pixel carried along.
#include "data/nearest_pixel.h"

#include <algorithm>

#include "core/error.h"

namespace camo {
namespace {

// Row of the nearest marked pixel of the same column, -1 when the column has none. Of two the upper one.
std::vector<int32_t> nearest_rows(const std::vector<uint8_t>& marked, int width, int height) {
  std::vector<int32_t> rows(marked.size(), -1);
  const auto at = [width](int y, int x) {
    return static_cast<size_t>(y) * static_cast<size_t>(width) + static_cast<size_t>(x);
  };
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) rows[at(y, x)] = marked[at(y, x)] ? y : y > 0 ? rows[at(y - 1, x)] : -1;
  for (int y = height - 2; y >= 0; --y) {
    for (int x = 0; x < width; ++x) {
      int32_t& above = rows[at(y, x)];
      const int32_t below = rows[at(y + 1, x)];
      if (below > y && (above < 0 || below - y < y - above)) above = below;
    }
  }
  return rows;
}

}  // namespace

NearestPixels nearest_marked(const std::vector<uint8_t>& marked, int width, int height) {
  CAMO_CHECK(width > 0 && height > 0 && marked.size() == static_cast<size_t>(width) * static_cast<size_t>(height) &&
                 std::any_of(marked.begin(), marked.end(), [](uint8_t m) { return m != 0; }),
             "nearest_marked: a map of width * height flags with at least one set is needed; got ", marked.size(),
             " flags for ", width, " x ", height);
  const std::vector<int32_t> rows = nearest_rows(marked, width, height);
  NearestPixels nearest{std::vector<int32_t>(marked.size()), std::vector<int32_t>(marked.size())};
  // Along a row, column c offers the distance (x - c)^2 + height_of[c]^2: the lower envelope of these parabolas is
  // found from left to right. `site[q]` owns the stretch that begins at `start[q]`.
  const int64_t nothing = int64_t{width} + height;  // farther than any pixel
  std::vector<int64_t> height_of(static_cast<size_t>(width));
  std::vector<int> site(static_cast<size_t>(width)), start(static_cast<size_t>(width));
  for (int y = 0; y < height; ++y) {
    const size_t row = static_cast<size_t>(y) * static_cast<size_t>(width);
    for (size_t x = 0; x < height_of.size(); ++x) {
      const int32_t marked_row = rows[row + x];
      const int64_t distance = marked_row < 0 ? nothing : std::abs(int64_t{y} - marked_row);
      height_of[x] = distance * distance;
    }
    const auto cost = [&](int x, int c) { return int64_t{x - c} * (x - c) + height_of[static_cast<size_t>(c)]; };
    size_t last = 0;
    site[0] = start[0] = 0;
    for (int x = 1; x < width; ++x) {
      bool beaten = false;
      while (cost(start[last], site[last]) > cost(start[last], x)) {
        if (last == 0) {
          beaten = true;
          break;
        }
        --last;
      }
      if (beaten) {
        site[0] = x;
        continue;
      }
      const int c = site[last];  // wins up to and including the floor of the parabolas' intersection
      const int64_t difference =
          int64_t{x} * x - int64_t{c} * c + height_of[static_cast<size_t>(x)] - height_of[static_cast<size_t>(c)];
      const int64_t next = 1 + difference / (2 * int64_t{x - c});  // both positive: c is not beaten at its start
      if (next < width) {
        ++last;
        site[last] = x;
        start[last] = static_cast<int>(next);
      }
    }
    for (int x = width - 1; x >= 0; --x) {
      const int c = site[last];
      nearest.squared_distance[row + static_cast<size_t>(x)] = static_cast<int32_t>(cost(x, c));
      nearest.index[row + static_cast<size_t>(x)] = rows[row + static_cast<size_t>(c)] * width + c;
      if (x == start[last] && last > 0) --last;
    }
  }
  return nearest;
}

}  // namespace camo
