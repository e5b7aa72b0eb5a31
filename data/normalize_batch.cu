// Augmentation and normalisation of 8-bit batches: out(y, x) = table[channel][in(walk(y, x))], one read and one write.
#include "core/parallel.h"
#include "data/device_batches.h"
#include "ops/elementwise.h"
#ifdef __CUDACC__
#include "core/cuda/kernels.cuh"
#endif

namespace camo {

namespace {

void normalize_cpu(const Tensor& images, const Tensor& masks, const Batch& raw) {
  const int64_t size = raw.images.size(1), pixels = size * size;
  const ChannelTable& table = normalisation_table();
  parallel_for(raw.images.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const PixelWalk walk = walk_of(raw.augmentations[static_cast<size_t>(b)], static_cast<int>(size));
      const uint8_t* const image = raw.images.data<uint8_t>() + b * pixels * 3;
      const uint8_t* const mask = raw.masks.data<uint8_t>() + b * pixels;
      float* image_out = images.data<float>() + b * pixels * 3;
      float* mask_out = masks.data<float>() + b * pixels;
      for (int64_t y = 0; y < size; ++y) {
        for (int64_t x = 0; x < size; ++x) {
          const int64_t source = walk.start + y * walk.step_y + x * walk.step_x;
          for (size_t c = 0; c < 3; ++c) *image_out++ = table[c][image[3 * source + static_cast<int64_t>(c)]];
          *mask_out++ = mask[source];
        }
      }
    }
  });
}

#ifdef __CUDACC__
constexpr int kImagesPerLaunch = 512;

/// Kernel arguments: the walks of some images and the table of normalised values.
struct NormalizeTable {
  PixelWalk walks[kImagesPerLaunch];
  float values[3][256];
};

/// grid.y: the images of this launch; one thread an output pixel. The table is read at indices that differ between
/// threads, so it is kept in shared memory.
__global__ void __launch_bounds__(cuda::kBlock)
    normalize_batch_kernel(const __grid_constant__ NormalizeTable table, const uint8_t* images, const uint8_t* masks,
                           int size, float* images_out, float* masks_out) {
  __shared__ float values[3][256];
  for (int i = threadIdx.x; i < 3 * 256; i += cuda::kBlock) values[i / 256][i % 256] = table.values[i / 256][i % 256];
  __syncthreads();
  const int pixels = size * size;
  const int at = blockIdx.x * cuda::kBlock + threadIdx.x;
  if (at >= pixels) return;
  const PixelWalk walk = table.walks[blockIdx.y];
  const int64_t base = int64_t{blockIdx.y} * pixels;
  const int64_t source = base + walk.start + (at / size) * walk.step_y + (at % size) * walk.step_x;
  for (int c = 0; c < 3; ++c) images_out[3 * (base + at) + c] = values[c][images[3 * source + c]];
  masks_out[base + at] = masks[source];
}
#endif

void normalize_cuda([[maybe_unused]] const Tensor& images, [[maybe_unused]] const Tensor& masks,
                    [[maybe_unused]] const Batch& raw) {
#ifdef __CUDACC__
  const int64_t count = raw.images.size(0), size = raw.images.size(1), pixels = size * size;
  NormalizeTable table;
  const ChannelTable& values = normalisation_table();
  for (size_t c = 0; c < 3; ++c) std::copy(values[c].begin(), values[c].end(), table.values[c]);
  cudaStream_t stream = cuda::use(images.device());
  for (int64_t first = 0; first < count; first += kImagesPerLaunch) {
    const int64_t here = std::min<int64_t>(kImagesPerLaunch, count - first);
    for (int64_t i = 0; i < here; ++i) {
      table.walks[i] = walk_of(raw.augmentations[static_cast<size_t>(first + i)], static_cast<int>(size));
    }
    const dim3 grid(static_cast<unsigned>((pixels + cuda::kBlock - 1) / cuda::kBlock), static_cast<unsigned>(here));
    normalize_batch_kernel<<<grid, cuda::kBlock, 0, stream>>>(
        table, raw.images.data<uint8_t>() + first * pixels * 3, raw.masks.data<uint8_t>() + first * pixels,
        static_cast<int>(size), images.data<float>() + first * pixels * 3, masks.data<float>() + first * pixels);
    CAMO_LAUNCHED("normalize_batch");
  }
#endif
}

}  // namespace

Batch normalize_batch(const Batch& batch) {
  if (batch.images.dtype() != u8) return batch;
  const Shape &images = batch.images.shape(), &masks = batch.masks.shape();
  const Device device = batch.images.device();
  const bool fits = images.size() == 4 && images[3] == 3 && images[1] == images[2] &&
                    masks == Shape({images[0], images[1], images[2], 1}) && batch.masks.dtype() == u8 &&
                    batch.masks.device() == device && static_cast<int64_t>(batch.augmentations.size()) == images[0];
  CAMO_CHECK(fits, "normalize_batch: needs u8 images [B, S, S, 3], masks [B, S, S, 1] and B augmentations; got ",
             images, ", ", batch.masks.dtype(), " ", masks, " and ", batch.augmentations.size());
  Batch done{empty(images, f32, device), empty(masks, f32, device), batch.indices, {}};
  if (done.images.numel() == 0) return done;
  if (device.is_cuda()) normalize_cuda(done.images, done.masks, batch);
  else normalize_cpu(done.images, done.masks, batch);
  if (batch.mask_levels != 1) done.masks = done.masks * (1.0 / batch.mask_levels);
  return done;
}

}  // namespace camo
