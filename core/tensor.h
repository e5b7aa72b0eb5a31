// Tensor: a small value handle on shared storage.
//
// Copying a Tensor copies the handle. Views (slices, permutations) are tensors of their own that share storage. Math
// lives in free functions in ops/. Feature maps are channels last: [N, H, W, C].
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "core/shape.h"
#include "core/storage.h"

namespace camo {

class Node;
struct TensorImpl;

/// What tensors exchange with vectors.
template <class T>
concept HostElement =
    std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, int64_t> || std::same_as<T, uint8_t>;

class Tensor {
 public:
  /// Undefined: stands for "no tensor" (an absent bias, a gradient nobody computed).
  Tensor() = default;
  explicit Tensor(std::shared_ptr<TensorImpl> impl) : impl_(std::move(impl)) {}

  bool defined() const { return impl_ != nullptr; }
  /// No condition: existence is defined(), a value is item().
  explicit operator bool() const = delete;

  const Shape& shape() const;
  /// In elements; 0 on expanded axes.
  const Shape& strides() const;
  int dims() const { return shape().size(); }
  /// Extent of an axis; negative axes count from the end.
  int64_t size(int axis) const { return shape()[normalize_axis(axis, dims(), "size")]; }
  int64_t stride(int axis) const { return strides()[normalize_axis(axis, dims(), "stride")]; }
  int64_t numel() const { return shape().numel(); }
  DType dtype() const;
  Device device() const;
  bool is_cuda() const { return device().is_cuda(); }
  /// Row-major without gaps. True for empty tensors.
  bool is_contiguous() const;

  /// Pointer to the first element, on the tensor's device; the others lie strides() apart. Throws when T is not the
  /// element type. What is written through it is not counted: a saved tensor that changed goes unnoticed by backward().
  template <class T>
  T* data() const {
    check_dtype(dtype_of<T>);
    return static_cast<T*>(raw_data());
  }
  void* raw_data() const;  // the same for any dtype
  /// The element of a tensor with one (throws for others) as a double; waits for the device where it lies on one.
  double item() const;
  /// All elements in row-major order, converted to T.
  template <HostElement T>
  std::vector<T> to_vector() const;

  // --- autograd ---
  /// True for leaves that asked for a gradient and for everything computed from them.
  bool requires_grad() const;
  /// For leaves (parameters, inputs). Throws for dtypes that are not floating, and on false for a computed tensor.
  const Tensor& set_requires_grad(bool value) const;
  bool is_leaf() const { return grad_node() == nullptr; }
  /// The gradient that backward() accumulated; undefined when there was none.
  const Tensor& grad() const;
  void set_grad(Tensor grad) const;  // of this shape, dtype and device (else throws), or undefined
  /// The operation this tensor came from; null for leaves.
  const std::shared_ptr<Node>& grad_node() const;
  /// A handle on the same memory outside of any graph.
  Tensor detach() const;

  const std::shared_ptr<Storage>& storage() const;
  /// Offset of the first element in the storage, in elements.
  int64_t offset() const;
  uint64_t version() const { return storage()->version(); }  // counts in-place changes by the functions below

  TensorImpl* impl() const { return impl_.get(); }
  const std::shared_ptr<TensorImpl>& impl_ptr() const { return impl_; }
  bool same_as(const Tensor& other) const { return impl_ == other.impl_; }

 private:
  const TensorImpl& checked() const;
  void check_dtype(DType wanted) const;

  std::shared_ptr<TensorImpl> impl_;
};

using Tensors = std::vector<Tensor>;

/// What a Tensor handle points to.
struct TensorImpl {
  std::shared_ptr<Storage> storage;
  Shape shape;
  Shape strides;
  int64_t offset = 0;
  DType dtype = f32;
  bool requires_grad = false;
  int output_index = 0;             // which output of grad_node this is
  std::shared_ptr<Node> grad_node;  // null for leaves
  Tensor grad;                      // leaves only
};

/// Where tensors are made when nobody says: the CPU, unless set_default_device() changed it for this thread.
Device default_device();
void set_default_device(Device device);

// --- making tensors (never part of a graph; negative extents and lack of memory throw) ---
Tensor empty(const Shape& shape, DType dtype = f32, Device device = default_device());  // not initialised
Tensor zeros(const Shape& shape, DType dtype = f32, Device device = default_device());
Tensor full(const Shape& shape, double value, DType dtype = f32, Device device = default_device());
inline Tensor ones(const Shape& shape, DType dtype = f32, Device device = default_device()) {
  return full(shape, 1, dtype, device);
}
/// Contiguous tensors of x's shape, dtype and device.
Tensor empty_like(const Tensor& x);
Tensor zeros_like(const Tensor& x);
/// A tensor of T's dtype with these elements in row-major order, copied.
template <HostElement T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, Device device = default_device());

/// A view of x's storage with this shape, these strides and this offset (in elements, from the storage's start).
/// Bounds are not checked, autograd records nothing: the view operations in ops/shape_ops.h build on it.
Tensor make_view(const Tensor& x, const Shape& shape, const Shape& strides, int64_t offset);

// --- raw copies and in-place changes (never recorded; they count as a change of the target) ---
// What an operation computed can't be changed in place while it wants a gradient and recording is on: that throws.
/// target[i] = source[i], converting the dtype, between any strides and devices; shapes must be equal.
void copy_into(const Tensor& target, const Tensor& source);
/// target[i] += source[i]; shape, dtype and device must be equal, but that f32 takes 16 bit.
void add_into(const Tensor& target, const Tensor& source);
void fill(const Tensor& target, double value);  // converted to the dtype
/// A contiguous copy of x outside of any graph: no gradient comes back through it.
Tensor clone(const Tensor& x);

/// A few elements and the shape, for messages and debugging.
std::string to_string(const Tensor& x);

}  // namespace camo
