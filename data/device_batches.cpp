#include "data/device_batches.h"

#include <array>
#include <chrono>
#include <cstring>

#include "ops/elementwise.h"
#ifdef CAMO_WITH_CUDA
#include "core/cuda/runtime.h"
#endif

namespace camo {

#ifdef CAMO_WITH_CUDA

/// Two buffers on either side, used in turn: one is filled while the device still works on the other.
class DeviceBatches::Upload {
 public:
  explicit Upload(Device device) : device_((cuda::use(device), device)) {}  // events belong to the current device
  ~Upload() {
    for (const Slot& slot : slots_) {
      try {
        if (slot.used) slot.copied.synchronize();  // the copy engine reads what is freed now
      } catch (const Error&) {                     // of earlier work: whoever waits for the device next says so
      }
    }
  }
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  Batch run(const Batch& raw) {
    turn_ = 1 - turn_;
    Slot& slot = slots_[turn_];
    const int64_t image_bytes = raw.images.numel(), mask_bytes = raw.masks.numel();
    cudaStream_t compute = cuda::use(device_), copy = cuda::copy_stream(device_);
    if (slot.used) slot.copied.synchronize();  // until then the copy engine reads the host's side
    if (!slot.host || slot.host->bytes() < image_bytes + mask_bytes) {
      Tensor device = empty({image_bytes + mask_bytes}, u8, device_);  // either may lack memory: both or none change
      slot.host = std::make_unique<cuda::PinnedBuffer>(image_bytes + mask_bytes);
      slot.device = std::move(device);
      slot.consumed.record(compute);  // work that is ahead in the stream may still use this memory
    }
    auto* const bytes = static_cast<uint8_t*>(slot.host->data());
    std::memcpy(bytes, raw.images.data<uint8_t>(), static_cast<size_t>(image_bytes));
    std::memcpy(bytes + image_bytes, raw.masks.data<uint8_t>(), static_cast<size_t>(mask_bytes));
    slot.consumed.block(copy);
    CAMO_CUDA(cudaMemcpyAsync(slot.device.raw_data(), bytes, static_cast<size_t>(image_bytes + mask_bytes),
                              cudaMemcpyHostToDevice, copy));
    slot.copied.record(copy);
    slot.copied.block(compute);
    slot.used = true;
    const Shape &images = raw.images.shape(), &masks = raw.masks.shape();
    const Batch there{make_view(slot.device, images, images.contiguous_strides(), 0),
                      make_view(slot.device, masks, masks.contiguous_strides(), image_bytes), raw.indices,
                      raw.augmentations, raw.mask_levels};
    Batch done = normalize_batch(there);
    slot.consumed.record(compute);
    return done;
  }

 private:
  struct Slot {
    std::unique_ptr<cuda::PinnedBuffer> host;
    Tensor device;
    cuda::Event copied, consumed;
    bool used = false;
  };
  Device device_;
  std::array<Slot, 2> slots_;
  size_t turn_ = 0;
};

#else

class DeviceBatches::Upload {
 public:
  explicit Upload(Device) {}
  Batch run(const Batch& raw) { return raw; }
};

#endif

DeviceBatches::DeviceBatches(DataLoader& loader, Device device) : loader_(loader), device_(device) {
  if (device.is_cuda()) upload_ = std::make_unique<Upload>(device);
}
DeviceBatches::~DeviceBatches() = default;

std::optional<Batch> DeviceBatches::next() {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  std::optional<Batch> batch = loader_.next();
  seconds_waited_ += std::chrono::duration<double>(Clock::now() - start).count();
  if (!batch) return batch;
  if (!upload_) return normalize_batch(*batch);
  if (batch->images.dtype() == u8) return upload_->run(*batch);
  batch->images = to(batch->images, device_);
  batch->masks = to(batch->masks, device_);
  return batch;
}

}  // namespace camo
