// The launchers of contrast by label.
#include "cuda/launch.h"
#include "cuda/supcon_gradient.cuh"

namespace sslkern::cuda {

void supcon_classes(const SupconClasses& p, const Launch& how) {
  SSLKERN_LAUNCH(supcon_classes_kernel<256>, blocks_for(p.N, 256), dim3(256), 0, how.stream, p);
}

void supcon_negatives(const SupconNegatives& p, const Launch& how) {
  const PackedRows& z = p.in.z;
  with_product(z.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const SharedNeed need = shared_need<P>(z.padded_D(), OnlineRows<P>::kBytes);
    const dim3 grid = walk_grid<P>(z.padded_N(), p.splits), block(P::kThreads);
    if (need.resident) {
      SSLKERN_LAUNCH((supcon_negatives_kernel<P, true>), grid, block, need.bytes, how.stream, p);
    } else {
      SSLKERN_LAUNCH((supcon_negatives_kernel<P, false>), grid, block, need.bytes, how.stream, p);
    }
  });
  with_working(z.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(supcon_merge_negatives_kernel<T>, blocks_for(z.padded_N(), 256), dim3(256), 0,
                   how.stream, p);
  });
}

void supcon_positives(const SupconPositives& p, const Launch& how) {
  const PackedRows& z = p.in.z;
  with_product(z.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const std::int64_t sums = supcon_sums(p.in.pairs) * SummedRows<P>::kBytes;
    const SharedNeed need = shared_need<P>(z.padded_D(), OnlineRows<P>::kBytes + sums);
    const dim3 grid = walk_grid<P>(z.padded_N(), p.splits), block(P::kThreads);
    if (need.resident) {
      SSLKERN_LAUNCH((supcon_positives_kernel<P, true>), grid, block, need.bytes, how.stream, p);
    } else {
      SSLKERN_LAUNCH((supcon_positives_kernel<P, false>), grid, block, need.bytes, how.stream, p);
    }
  });
  with_working(z.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(supcon_merge_positives_kernel<T>, blocks_for(z.N, 256), dim3(256), 0, how.stream,
                   p, int(tile_side(z.dtype)));
  });
}

void supcon_upstream(const SupconUpstream& p, const Launch& how) {
  SSLKERN_LAUNCH(supcon_upstream_kernel<256>, blocks_for(p.N, 256), dim3(256), 0, how.stream, p);
}

void supcon_weights(const SupconWeights& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(supcon_weights_kernel<T>, blocks_for(p.padded_N, 256), dim3(256), 0, how.stream,
                   p);
  });
}

void supcon_tiles(const SupconTiles& p, const Launch& how) {
  const PackedRows& z = p.in.z;
  with_product(z.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const SharedNeed need = shared_need<P>(z.padded_D(), 0);
    const dim3 grid = walk_grid<P>(p.rows, p.splits), block(P::kThreads);
    if (need.resident) {
      SSLKERN_LAUNCH((supcon_tiles_kernel<P, true>), grid, block, need.bytes, how.stream, p);
    } else {
      SSLKERN_LAUNCH((supcon_tiles_kernel<P, false>), grid, block, need.bytes, how.stream, p);
    }
  });
}

}  // namespace sslkern::cuda
