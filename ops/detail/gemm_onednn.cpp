#ifdef CAMO_WITH_ONEDNN
#include <map>
#include <tuple>

#include "core/error.h"
#include "ops/cpu_kernels.h"
#include "ops/detail/gemm.h"
#include "ops/detail/onednn_api.h"

namespace camo::detail {
namespace {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine instance(dnnl::engine::kind::cpu, 0);
  return instance;
}

/// A bf16 product of one size, with the descriptions of its matrices.
struct Bf16Product {
  memory::desc a, b, c;
  dnnl::matmul primitive;
};

template <class T>
memory::desc describe(const Matrix<T>& x, memory::data_type type) {
  return {{x.rows, x.cols}, type, x.transposed ? memory::dims{1, x.ld} : memory::dims{x.ld, 1}};
}

/// Kept by each thread: making one takes longer than many a product.
const Bf16Product& bf16_product(const Matrix<const BFloat16>& a, const Matrix<const BFloat16>& b,
                                const Matrix<float>& c, bool accumulate) {
  constexpr size_t kCapacity = 2048;
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool, bool>;
  thread_local std::map<Key, Bf16Product> products;
  if (products.size() > kCapacity) products.clear();
  const Key key{c.rows, c.cols, a.cols, a.ld, b.ld, c.ld, a.transposed, b.transposed, accumulate};
  const auto [found, is_new] = products.try_emplace(key);
  Bf16Product& product = found->second;
  if (is_new) {
    product.a = describe(a, memory::data_type::bf16);
    product.b = describe(b, memory::data_type::bf16);
    product.c = describe(c, memory::data_type::f32);
    dnnl::primitive_attr attributes;
    if (accumulate) {
      dnnl::post_ops sum;
      sum.append_sum();
      attributes.set_post_ops(sum);
    }
    product.primitive =
        dnnl::matmul(onednn::describe<dnnl::matmul>(engine(), attributes, product.a, product.b, product.c));
  }
  return product;
}

}  // namespace

bool has_bf16_products() {
  static const bool has_instructions = [] {
    const auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
  }();
  return has_instructions && cpu_kernels() == CpuKernels::fast;
}

void gemm_onednn(const Matrix<const float>& a, const Matrix<const float>& b, const Matrix<float>& c, bool accumulate) {
  const dnnl_status_t status = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', c.rows, c.cols, a.cols,
                                          1.0f, a.data, a.ld, b.data, b.ld, accumulate ? 1.0f : 0.0f, c.data, c.ld);
  CAMO_CHECK(status == dnnl_success, "gemm: oneDNN failed with status ", static_cast<int>(status), " on ", c.rows,
             " x ", a.cols, " times ", a.cols, " x ", c.cols);
}

void gemm_onednn(const Matrix<const BFloat16>& a, const Matrix<const BFloat16>& b, const Matrix<float>& c,
                 bool accumulate) {
  const Bf16Product& product = bf16_product(a, b, c, accumulate);
  thread_local dnnl::stream stream(engine());
  const auto wrap = [](const memory::desc& description, const void* data) {
    return memory(description, engine(), const_cast<void*>(data));
  };
  product.primitive.execute(stream, {{DNNL_ARG_SRC, wrap(product.a, a.data)},
                                     {DNNL_ARG_WEIGHTS, wrap(product.b, b.data)},
                                     {DNNL_ARG_DST, wrap(product.c, c.data)}});
  stream.wait();
}

}  // namespace camo::detail
#endif
