// The launchers of what the similarity kernels share.
#include "cuda/launch.h"
#include "cuda/packed.cuh"

namespace sslkern::cuda {

void pack_rows(const PackRows& p, const Launch& how) {
  with_element(p.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    SSLKERN_LAUNCH(pack_rows_kernel<E>, blocks_for(padded_rows(p.N), kRowWarps), dim3(kRowThreads),
                   0, how.stream, p);
  });
}

void finish_rows(const FinishRows& p, const Launch& how) {
  with_element(p.z.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    using T = typename decltype(of)::Working;
    const dim3 grid = blocks_for(p.z.N, kRowWarps), block(kRowThreads);
    if (p.wide) {
      SSLKERN_LAUNCH((finish_rows_kernel<E, T>), grid, block, 0, how.stream, p);
    } else {
      SSLKERN_LAUNCH((finish_rows_kernel<E, E>), grid, block, 0, how.stream, p);
    }
  });
}

void largest_magnitude(const LargestMagnitude& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(largest_magnitude_kernel<T>, dim3(1), dim3(kOneBlock), 0, how.stream, p);
  });
}

void sum_in_order(const SumInOrder& p, const Launch& how) {
  SSLKERN_LAUNCH(sum_in_order_kernel<kOneBlock>, dim3(1), dim3(kOneBlock), 0, how.stream, p);
}

}  // namespace sslkern::cuda
