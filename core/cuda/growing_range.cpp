#include "core/cuda/growing_range.h"

#include <cudaTypedefs.h>

#include "core/cuda/runtime.h"

namespace camo::cuda {

namespace {

/// The driver's functions, found at run time: the program starts where there is no driver.
struct Driver {
  PFN_cuMemAddressReserve_v10020 reserve = nullptr;
  PFN_cuMemAddressFree_v10020 free = nullptr;
  PFN_cuMemCreate_v10020 create = nullptr;
  PFN_cuMemRelease_v10020 release = nullptr;
  PFN_cuMemMap_v10020 map = nullptr;
  PFN_cuMemUnmap_v10020 unmap = nullptr;
  PFN_cuMemSetAccess_v10020 set_access = nullptr;
  PFN_cuDeviceGetAttribute_v2000 attribute = nullptr;
  bool complete = false;

  Driver() {
    complete = find("cuMemAddressReserve", reserve) && find("cuMemAddressFree", free) && find("cuMemCreate", create) &&
               find("cuMemRelease", release) && find("cuMemMap", map) && find("cuMemUnmap", unmap) &&
               find("cuMemSetAccess", set_access) && find("cuDeviceGetAttribute", attribute);
  }

  static const Driver& get() {
    static const Driver driver;
    return driver;
  }

 private:
  template <class Function>
  static bool find(const char* name, Function& function) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const auto status = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
    function = reinterpret_cast<Function>(found);
    return status == cudaSuccess && result == cudaDriverEntryPointSuccess;
  }
};

CUmemLocation location_of(Device device) {
  CUmemLocation location{};
  location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  location.id = device.index;
  return location;
}

constexpr int64_t kPage = int64_t{2} << 20;

}  // namespace

std::unique_ptr<GrowingRange> GrowingRange::reserve(Device device) {
  const Driver& driver = Driver::get();
  int supported = 0;
  if (!driver.complete ||
      driver.attribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device.index) !=
          CUDA_SUCCESS ||
      supported == 0) {
    return nullptr;
  }
  const int64_t bytes = (device_info(device).total_bytes + kPage - 1) / kPage * kPage;
  CUdeviceptr begin = 0;
  if (driver.reserve(&begin, static_cast<size_t>(bytes), 0, 0, 0) != CUDA_SUCCESS) return nullptr;
  return std::unique_ptr<GrowingRange>(new GrowingRange(device, begin, bytes));
}

GrowingRange::~GrowingRange() {
  const Driver& driver = Driver::get();
  if (bytes_ > 0) driver.unmap(begin_, static_cast<size_t>(bytes_));
  driver.free(begin_, static_cast<size_t>(reserved_));
}

cudaError_t GrowingRange::grow(int64_t bytes) {
  const Driver& driver = Driver::get();
  if (bytes > reserved_ - bytes_) return cudaErrorMemoryAllocation;
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = location_of(device_);
  CUmemAccessDesc access{};
  access.location = location_of(device_);
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;

  const auto size = static_cast<size_t>(bytes);
  const CUdeviceptr end = begin_ + static_cast<uint64_t>(bytes_);
  CUmemGenericAllocationHandle memory{};
  CUresult status = driver.create(&memory, size, &properties, 0);
  if (status != CUDA_SUCCESS) return status == CUDA_ERROR_OUT_OF_MEMORY ? cudaErrorMemoryAllocation : cudaErrorUnknown;
  status = driver.map(end, size, 0, memory, 0);
  driver.release(memory);  // lives as long as it is mapped
  if (status != CUDA_SUCCESS) return cudaErrorMemoryAllocation;
  if (driver.set_access(end, size, &access, 1) != CUDA_SUCCESS) {
    driver.unmap(end, size);
    return cudaErrorMemoryAllocation;
  }
  bytes_ += bytes;
  return cudaSuccess;
}

}  // namespace camo::cuda
