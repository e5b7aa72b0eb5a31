#include "core/tensor.h"

#include <array>
#include <limits>

#include "core/autograd.h"

namespace camo {

namespace {

Tensor to_cpu(const Tensor& x) {
  Tensor host = empty(x.shape(), x.dtype(), cpu);
  copy_into(host, x);
  return host;
}

}  // namespace

const TensorImpl& Tensor::checked() const {
  CAMO_CHECK(impl_ != nullptr, "tensor: is undefined; it holds no data");
  return *impl_;
}

void Tensor::check_dtype(DType wanted) const {
  CAMO_CHECK(dtype() == wanted, "tensor: data of dtype ", dtype(), " was read as ", wanted);
}

const Shape& Tensor::shape() const { return checked().shape; }
const Shape& Tensor::strides() const { return checked().strides; }
DType Tensor::dtype() const { return checked().dtype; }
Device Tensor::device() const { return checked().storage->device(); }
const std::shared_ptr<Storage>& Tensor::storage() const { return checked().storage; }
int64_t Tensor::offset() const { return checked().offset; }

bool Tensor::is_contiguous() const {
  const TensorImpl& impl = checked();
  int64_t step = 1;
  for (int i = impl.shape.size() - 1; i >= 0; --i) {
    if (impl.shape[i] == 0) return true;
    if (impl.shape[i] != 1 && impl.strides[i] != step) step = -1;
    if (step < 0) continue;
    step *= impl.shape[i];
  }
  return step >= 0;
}

void* Tensor::raw_data() const {
  const TensorImpl& impl = checked();
  return static_cast<char*>(impl.storage->data()) + impl.offset * size_in_bytes(impl.dtype);
}

double Tensor::item() const {
  CAMO_CHECK(numel() == 1, "item: needs a tensor with one element; got shape ", shape());
  const Tensor host = is_cuda() ? to_cpu(*this) : *this;
  return dispatch_all(dtype(), [&]<class T>() { return convert<double>(*host.data<T>()); });
}

template <HostElement T>
std::vector<T> Tensor::to_vector() const {
  std::vector<T> values(static_cast<size_t>(numel()));
  const Tensor source = is_cuda() ? to_cpu(*this) : is_contiguous() ? *this : clone(*this);
  dispatch_all(dtype(), [&]<class S>() {
    const S* elements = source.data<S>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = convert<T>(elements[i]);
  });
  return values;
}
template std::vector<float> Tensor::to_vector<float>() const;
template std::vector<double> Tensor::to_vector<double>() const;
template std::vector<int64_t> Tensor::to_vector<int64_t>() const;
template std::vector<uint8_t> Tensor::to_vector<uint8_t>() const;

bool Tensor::requires_grad() const { return checked().requires_grad; }

const Tensor& Tensor::set_requires_grad(bool value) const {
  checked();
  CAMO_CHECK(!value || is_floating(dtype()), "requires_grad: only floating tensors have gradients; got ", dtype());
  CAMO_CHECK(value || is_leaf(), "requires_grad: can't be switched off on a computed tensor; use detach()");
  impl_->requires_grad = value;
  return *this;
}

const Tensor& Tensor::grad() const { return checked().grad; }

void Tensor::set_grad(Tensor grad) const {
  checked();
  CAMO_CHECK(!grad.defined() || (grad.shape() == shape() && grad.dtype() == dtype()),
             "set_grad: the gradient must have the tensor's shape ", shape(), " and dtype ", dtype(), "; got ",
             grad.shape(), " ", grad.dtype());
  CAMO_CHECK(!grad.defined() || grad.device() == device(), "set_grad: the gradient must be on ", device(),
             "; got one on ", grad.device());
  impl_->grad = std::move(grad);
}

const std::shared_ptr<Node>& Tensor::grad_node() const { return checked().grad_node; }

Tensor Tensor::detach() const { return make_view(*this, shape(), strides(), offset()); }

namespace {

thread_local Device default_device_of_thread = cpu;

}  // namespace

Device default_device() { return default_device_of_thread; }
void set_default_device(Device device) { default_device_of_thread = device; }

Tensor empty(const Shape& shape, DType dtype, Device device) {
  constexpr int64_t kMostBytes = int64_t{1} << 62;  // allocators round up
  int64_t bytes = size_in_bytes(dtype);
  for (int64_t extent : shape) {
    CAMO_CHECK(extent >= 0, "tensor: extents must not be negative; got ", shape);
    CAMO_CHECK(extent == 0 || bytes <= kMostBytes / extent, "tensor: shape ", shape, " has too many elements");
    bytes *= extent;
  }
  auto impl = std::make_shared<TensorImpl>();
  impl->storage = std::make_shared<Storage>(bytes, device);
  impl->shape = shape;
  impl->strides = shape.contiguous_strides();
  impl->dtype = dtype;
  return Tensor(std::move(impl));
}

Tensor zeros(const Shape& shape, DType dtype, Device device) { return full(shape, 0, dtype, device); }

Tensor full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor result = empty(shape, dtype, device);
  fill(result, value);
  return result;
}

Tensor empty_like(const Tensor& x) { return empty(x.shape(), x.dtype(), x.device()); }
Tensor zeros_like(const Tensor& x) { return zeros(x.shape(), x.dtype(), x.device()); }

template <HostElement T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, Device device) {
  CAMO_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), "from_vector: shape ", shape, " has ", shape.numel(),
             " elements; got ", values.size(), " values");
  Tensor result = empty(shape, dtype_of<T>, cpu);
  std::copy(values.begin(), values.end(), result.data<T>());
  if (device.is_cpu()) return result;
  Tensor moved = empty(shape, dtype_of<T>, device);
  copy_into(moved, result);
  return moved;
}
template Tensor from_vector(const std::vector<float>&, const Shape&, Device);
template Tensor from_vector(const std::vector<double>&, const Shape&, Device);
template Tensor from_vector(const std::vector<int64_t>&, const Shape&, Device);
template Tensor from_vector(const std::vector<uint8_t>&, const Shape&, Device);

Tensor make_view(const Tensor& x, const Shape& shape, const Shape& strides, int64_t offset) {
  CAMO_ASSERT(shape.size() == strides.size());
  auto impl = std::make_shared<TensorImpl>();
  impl->storage = x.storage();
  impl->shape = shape;
  impl->strides = strides;
  impl->offset = offset;
  impl->dtype = x.dtype();
  return Tensor(std::move(impl));
}

Tensor clone(const Tensor& x) {
  Tensor copy = empty_like(x);
  copy_into(copy, x);
  return copy;
}

std::string to_string(const Tensor& x) {
  if (!x.defined()) return "Tensor(undefined)";
  std::string text = concat_text("Tensor(", x.dtype(), " ", x.shape(), ", ", x.device(), "): ");
  const std::vector<double> values = x.to_vector<double>();
  constexpr size_t kShown = 8;
  for (size_t i = 0; i < std::min(values.size(), kShown); ++i) text += concat_text(i > 0 ? ", " : "", values[i]);
  if (values.size() > kShown) text += ", ...";
  return text;
}

}  // namespace camo
