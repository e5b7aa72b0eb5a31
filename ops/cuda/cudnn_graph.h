// Descriptors of cuDNN's graph API (its C backend) with ownership and typed attributes.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/cuda/cudnn.h"

namespace camo::cuda {

/// The attribute type that goes with a C++ type.
template <class T>
struct AttributeType;
template <>
struct AttributeType<int64_t> {
  static constexpr auto value = CUDNN_TYPE_INT64;
};
template <>
struct AttributeType<bool> {
  static constexpr auto value = CUDNN_TYPE_BOOLEAN;
};
template <>
struct AttributeType<float> {
  static constexpr auto value = CUDNN_TYPE_FLOAT;
};
template <>
struct AttributeType<double> {
  static constexpr auto value = CUDNN_TYPE_DOUBLE;
};
template <>
struct AttributeType<cudnnHandle_t> {
  static constexpr auto value = CUDNN_TYPE_HANDLE;
};
template <>
struct AttributeType<cudnnDataType_t> {
  static constexpr auto value = CUDNN_TYPE_DATA_TYPE;
};
template <>
struct AttributeType<cudnnConvolutionMode_t> {
  static constexpr auto value = CUDNN_TYPE_CONVOLUTION_MODE;
};
template <>
struct AttributeType<cudnnPointwiseMode_t> {
  static constexpr auto value = CUDNN_TYPE_POINTWISE_MODE;
};
template <>
struct AttributeType<cudnnBackendHeurMode_t> {
  static constexpr auto value = CUDNN_TYPE_HEUR_MODE;
};
template <>
struct AttributeType<cudnnBackendNumericalNote_t> {
  static constexpr auto value = CUDNN_TYPE_NUMERICAL_NOTE;
};
template <>
struct AttributeType<void*> {
  static constexpr auto value = CUDNN_TYPE_VOID_PTR;
};

class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) { CAMO_CUDNN(cudnnBackendCreateDescriptor(type, &raw_)); }
  ~Descriptor() {
    if (raw_ != nullptr) cudnnBackendDestroyDescriptor(raw_);
  }
  Descriptor(Descriptor&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }

  template <class T>
  void set(cudnnBackendAttributeName_t name, const T& value) {
    set_raw(name, AttributeType<T>::value, 1, &value);
  }
  template <class T>
  void set_all(cudnnBackendAttributeName_t name, std::span<const T> values) {
    set_raw(name, AttributeType<T>::value, static_cast<int64_t>(values.size()), values.data());
  }
  void set(cudnnBackendAttributeName_t name, const Descriptor& value) {
    set_raw(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.raw_);
  }
  void set_all(cudnnBackendAttributeName_t name, std::span<const Descriptor* const> values) {
    std::vector<cudnnBackendDescriptor_t> raw;
    for (const Descriptor* value : values) raw.push_back(value->raw_);
    set_raw(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, static_cast<int64_t>(raw.size()), raw.data());
  }

  int64_t get_int(cudnnBackendAttributeName_t name) const {
    int64_t value = 0, count = 0;
    CAMO_CUDNN(cudnnBackendGetAttribute(raw_, name, CUDNN_TYPE_INT64, 1, &count, &value));
    return value;
  }
  /// At most `limit` values.
  template <class T>
  std::vector<T> get_all(cudnnBackendAttributeName_t name, int64_t limit) const {
    std::vector<T> values(static_cast<size_t>(limit));
    int64_t count = 0;
    CAMO_CUDNN(cudnnBackendGetAttribute(raw_, name, AttributeType<T>::value, limit, &count, values.data()));
    values.resize(static_cast<size_t>(std::min(count, limit)));
    return values;
  }
  /// Descriptors of `type` that this one holds.
  std::vector<Descriptor> get_descriptors(cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type,
                                          int64_t limit) const {
    std::vector<Descriptor> values;
    if (limit == 0) return values;
    std::vector<cudnnBackendDescriptor_t> raw;
    for (int64_t i = 0; i < limit; ++i) raw.push_back(values.emplace_back(type).raw_);
    int64_t count = 0;
    CAMO_CUDNN(cudnnBackendGetAttribute(raw_, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, limit, &count, raw.data()));
    values.erase(values.begin() + std::min(count, limit), values.end());
    return values;
  }
  int64_t count_of(cudnnBackendAttributeName_t name) const {
    int64_t count = 0;
    CAMO_CUDNN(cudnnBackendGetAttribute(raw_, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count, nullptr));
    return count;
  }

  void finalize() { CAMO_CUDNN(cudnnBackendFinalize(raw_)); }
  /// For what cuDNN may not support: false, and why.
  bool try_finalize(std::string& why) {
    const cudnnStatus_t status = cudnnBackendFinalize(raw_);
    if (status != CUDNN_STATUS_SUCCESS) why = cudnn_error(status);
    return status == CUDNN_STATUS_SUCCESS;
  }
  cudnnBackendDescriptor_t raw() const { return raw_; }

 private:
  void set_raw(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
    const cudnnStatus_t status = cudnnBackendSetAttribute(raw_, name, type, count, values);
    if (status != CUDNN_STATUS_SUCCESS) {
      fail(ErrorCode::device, "cudnn: setting attribute ", static_cast<int>(name), " (see cudnn_graph.h) to ", count,
           " values failed: ", cudnn_error(status));
    }
  }

  cudnnBackendDescriptor_t raw_ = nullptr;
};

}  // namespace camo::cuda
