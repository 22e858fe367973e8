// The launchers of SigLIP.
#include "cuda/launch.h"
#include "cuda/siglip.cuh"

namespace sslkern::cuda {
namespace {

template <bool kLoss, bool kGradient>
void launch_tiles(const SiglipTiles& p, const Launch& how) {
  with_product(p.in.query.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const std::int64_t besides = kLoss ? RowSums<P>::kBytes : 0;
    const SharedNeed need = shared_need<P>(p.in.query.padded_D(), besides);
    const dim3 grid = walk_grid<P>(p.rows, p.splits), block(P::kThreads);
    if (need.resident) {
      SSLKERN_LAUNCH((siglip_tiles_kernel<P, true, kLoss, kGradient>), grid, block, need.bytes,
                     how.stream, p);
    } else {
      SSLKERN_LAUNCH((siglip_tiles_kernel<P, false, kLoss, kGradient>), grid, block, need.bytes,
                     how.stream, p);
    }
  });
}

}  // namespace

void siglip_weights(const SiglipWeights& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(siglip_weights_kernel<T>, blocks_for(padded_rows(p.N), 256), dim3(256), 0,
                   how.stream, p);
  });
}

void siglip_lift(const SiglipLift& p, const Launch& how) {
  SSLKERN_LAUNCH(siglip_norms_kernel, blocks_for(p.in.query.N + p.in.key.N, kRowWarps),
                 dim3(kRowThreads), 0, how.stream, p);
  SSLKERN_LAUNCH(siglip_lift_kernel, dim3(1), dim3(kOneBlock), 0, how.stream, p);
}

void siglip_tiles(const SiglipTiles& p, const Launch& how) {
  if (p.sums == nullptr) return launch_tiles<true, false>(p, how);
  p.loss == nullptr ? launch_tiles<false, true>(p, how) : launch_tiles<true, true>(p, how);
}

void siglip_losses(const SiglipLosses& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(siglip_losses_kernel<T>, blocks_for(p.N, 256), dim3(256), 0, how.stream, p);
  });
}

}  // namespace sslkern::cuda
