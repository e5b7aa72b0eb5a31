#ifdef CAMO_WITH_ONEDNN
#include <dnnl.h>

#include "core/error.h"
#include "ops/detail/gemm.h"

namespace camo::detail {

void gemm_onednn(const Matrix<const float>& a, const Matrix<const float>& b, const Matrix<float>& c, bool accumulate) {
  const dnnl_status_t status = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', c.rows, c.cols, a.cols,
                                          1.0f, a.data, a.ld, b.data, b.ld, accumulate ? 1.0f : 0.0f, c.data, c.ld);
  CAMO_CHECK(status == dnnl_success, "gemm: oneDNN failed with status ", static_cast<int>(status), " on ", c.rows,
             " x ", a.cols, " times ", a.cols, " x ", c.cols);
}

}  // namespace camo::detail
#endif
