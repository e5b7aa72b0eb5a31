// PNG, BMP and JPEG through the real decoders.
#include <cstdlib>
#include <string_view>
#include <vector>

#include "core/crc32.h"
#include "core/error.h"
#include "data/image.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"

namespace camo::fuzz {
namespace {

uint32_t big_endian(std::span<const uint8_t> bytes, size_t at, size_t count) {
  uint32_t value = 0;
  for (size_t i = 0; i < count && at + i < bytes.size(); ++i) value = value << 8 | bytes[at + i];
  return value;
}

/// Pictures that say they are large take seconds to decode, as they may: fuzzing would do nothing else.
bool says_it_is_large(std::span<const uint8_t> bytes) {
  constexpr uint64_t kPixels = 1 << 14;
  const auto large = [](uint64_t width, uint64_t height) { return width * height > kPixels; };
  if (bytes.size() > 24 && bytes[0] == 0x89) return large(big_endian(bytes, 16, 4), big_endian(bytes, 20, 4));
  if (bytes.size() > 26 && bytes[0] == 'B') return false;  // stored pixels, as large as the file
  for (size_t at = 2; at + 9 < bytes.size(); ++at) {       // any frame header that a decoder could meet
    if (bytes[at] == 0xff && (bytes[at + 1] & 0xf0) == 0xc0 &&
        large(big_endian(bytes, at + 7, 2), big_endian(bytes, at + 5, 2))) {
      return true;
    }
  }
  return false;
}

bool run_picture(std::span<const uint8_t> bytes) {
  if (says_it_is_large(bytes)) return false;
  try {
    for (const int channels : {1, 3}) {
      const Image image = decode_image(bytes, channels, "input");
      const auto pixels = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
      if (image.pixels.size() != pixels * static_cast<size_t>(channels)) std::abort();
    }
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string big_endian_text(uint64_t value, int count) {
  std::string text;
  for (int i = count - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i));
  return text;
}

/// A chunk of a PNG, or a segment of a JPEG.
struct Piece {
  std::string head;  // the type, or the marker
  std::string body;
};

/// One piece changed, moved, repeated or left out. False when there is nothing to change.
bool mutate_pieces(std::vector<Piece>& pieces, Random& random) {
  if (pieces.empty()) return false;
  const size_t at = random.below(pieces.size());
  switch (random.below(8)) {
    case 0: pieces.erase(pieces.begin() + static_cast<std::ptrdiff_t>(at)); break;
    case 1: pieces.insert(pieces.begin() + static_cast<std::ptrdiff_t>(at), pieces[random.below(pieces.size())]); break;
    case 2: std::swap(pieces[at], pieces[random.below(pieces.size())]); break;
    case 3: pieces[at].head = mutate_bytes(pieces[at].head, random).substr(0, pieces[at].head.size()); break;
    case 4:
      if (!pieces[at].body.empty()) {  // one byte: most fields of headers have no more
        pieces[at].body[random.below(pieces[at].body.size())] = static_cast<char>(random.number());
      }
      break;
    default: pieces[at].body = mutate_bytes(pieces[at].body, random);
  }
  return true;
}

/// The checksums of all chunks fit again.
std::string mutate_png(const std::string& bytes, Random& random) {
  constexpr size_t kSignature = 8, kFrame = 12;  // length, type and checksum
  std::vector<Piece> chunks;
  for (size_t at = kSignature; at + kFrame <= bytes.size();) {
    const size_t length = std::min<size_t>(big_endian(bytes_of(bytes), at, 4), bytes.size() - at - kFrame);
    chunks.push_back({bytes.substr(at + 4, 4), bytes.substr(at + 8, length)});
    at += kFrame + length;
  }
  if (!mutate_pieces(chunks, random)) return mutate_bytes(bytes, random);
  std::string out = bytes.substr(0, kSignature);
  for (const Piece& chunk : chunks) {
    const std::string checked = chunk.head + chunk.body;
    out += big_endian_text(chunk.body.size(), 4) + checked + big_endian_text(crc32(checked.data(), checked.size()), 4);
  }
  return out;
}

/// The lengths of all segments fit again; what follows the first scan's header is one piece.
std::string mutate_jpeg(const std::string& bytes, Random& random) {
  std::vector<Piece> segments;
  size_t at = 2;
  while (at + 4 <= bytes.size() && bytes[at] == '\xff') {
    const bool is_scan = bytes[at + 1] == '\xda';
    const size_t length = std::max<size_t>(big_endian(bytes_of(bytes), at + 2, 2), 2);
    segments.push_back({bytes.substr(at, 2), bytes.substr(std::min(at + 4, bytes.size()), length - 2)});
    at = std::min(at + 2 + length, bytes.size());
    if (is_scan) break;
  }
  std::string data = bytes.substr(std::min(at, bytes.size()));
  if (random.one_in(3)) data = mutate_bytes(data, random);
  else if (!mutate_pieces(segments, random)) return mutate_bytes(bytes, random);
  std::string out = bytes.substr(0, 2);
  for (const Piece& segment : segments)
    out += segment.head + big_endian_text(segment.body.size() + 2, 2) + segment.body;
  return out + data;
}

std::string mutate_picture(const std::string& bytes, uint64_t seed) {
  using namespace std::string_view_literals;
  Random random(seed);
  if (bytes.starts_with("\x89PNG"sv)) return mutate_png(bytes, random);
  if (bytes.starts_with("\xff\xd8"sv)) return mutate_jpeg(bytes, random);
  std::string out = bytes;
  constexpr size_t kHeader = 54;  // of a BMP
  if (out.size() < kHeader) return mutate_bytes(bytes, random);
  const size_t field = 2 + random.below(kHeader - 2);
  const uint64_t value = random.one_in(2) ? random.number() : random.below(64);
  for (size_t b = 0; b < size_t{1} << random.below(3) && field + b < out.size(); ++b) {
    out[field + b] = static_cast<char>(value >> (8 * b));
  }
  return out;
}

}  // namespace

Target picture_target() { return {"picture", run_picture, mutate_picture}; }

}  // namespace camo::fuzz
