#include "models/camoxpert/warm_up.h"

#include "core/autocast.h"
#include "core/autograd.h"
#include "core/random_scope.h"
#include "ops/shape_ops.h"

namespace camo {

namespace {

/// Forward and backward on `pictures` of zeros.
void run_once(const Expert& expert, Shape shape, int64_t pictures, const Tensor& like, DType autocast) {
  shape[0] = pictures;
  const Tensor x = zeros(shape, like.dtype(), like.device()).set_requires_grad(true);
  Tensor y;
  {
    const Autocast scope(autocast);
    y = expert(x);
  }
  backward(y, zeros_like(y));
}

}  // namespace

void warm_up_experts(CamoXpert& network, int64_t batch, int64_t height, int64_t width, DType autocast) {
  CAMO_CHECK(batch >= 1, "warm_up_experts: batch must be at least 1; got ", batch);
  for (const NamedTensor& named : network.named_parameters()) {
    CAMO_CHECK(!named.tensor.grad().defined(), "warm_up_experts: parameters must have no gradients; got one of ",
               named.name, "; call zero_grad() first");
  }
  const RandomScope random_numbers;
  const EnableGrad enable;
  const Device device = network.parameters().front().device();
  CamoXpertEncoding encoding;
  {
    const NoGrad no_grad;
    const Autocast scope(autocast);
    encoding = network.encode(zeros({1, height, width, 3}, network.parameters().front().dtype(), device));
  }
  for (size_t s = 0; s < 4; ++s) {
    for (const Expert* expert : network.moe_layer(s).experts()) {
      const Tensor& map = encoding.enhanced[s];
      for (int64_t n = 1; n <= batch; ++n) {
        try {
          run_once(*expert, map.shape(), n, map, autocast);
        } catch (const Error& error) {  // a group that the gates may never form
          if (error.code() != ErrorCode::out_of_memory || n == 1) throw;
          network.zero_grad();
          release_cached_memory(device);
          break;
        }
      }
    }
  }
  network.zero_grad();
}

}  // namespace camo
