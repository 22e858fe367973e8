// The launchers of NT-Xent.
#include "cuda/launch.h"
#include "cuda/ntxent.cuh"

namespace sslkern::cuda {

void ntxent_fwd(const NtxentSums& p, const Launch& how) {
  with_product(p.z.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const SharedNeed need = shared_need<P>(p.z.padded_D(), OnlineRows<P>::kBytes);
    const dim3 grid = walk_grid<P>(p.z.padded_N(), p.splits), block(P::kThreads);
    if (need.resident) {
      SSLKERN_LAUNCH((ntxent_fwd_kernel<P, true>), grid, block, need.bytes, how.stream, p);
    } else {
      SSLKERN_LAUNCH((ntxent_fwd_kernel<P, false>), grid, block, need.bytes, how.stream, p);
    }
  });
  with_working(p.z.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(ntxent_merge_kernel<T>, blocks_for(p.z.N, 256), dim3(256), 0, how.stream, p);
  });
}

void ntxent_weights(const NtxentWeights& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(ntxent_weights_kernel<T>, blocks_for(p.padded_N, 256), dim3(256), 0, how.stream,
                   p);
  });
}

void ntxent_tiles(const NtxentTiles& p, const Launch& how) {
  with_product(p.z.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const SharedNeed need = shared_need<P>(p.z.padded_D(), 0);
    const dim3 grid = walk_grid<P>(p.rows, p.splits), block(P::kThreads);
    if (need.resident) {
      SSLKERN_LAUNCH((ntxent_tiles_kernel<P, true>), grid, block, need.bytes, how.stream, p);
    } else {
      SSLKERN_LAUNCH((ntxent_tiles_kernel<P, false>), grid, block, need.bytes, how.stream, p);
    }
  });
}

}  // namespace sslkern::cuda
