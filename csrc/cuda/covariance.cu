// The launchers of VICReg.
#include "cuda/covariance.cuh"
#include "cuda/gram_launch.h"
#include "cuda/launch.h"

namespace sslkern::cuda {

void covariance_statistics(const CovarianceStatistics& p, const Launch& how) {
  const dim3 grid = blocks_for(p.D, 256), block(256);
  if (p.views == 1) {
    SSLKERN_LAUNCH(covariance_statistics_kernel<1>, grid, block, 0, how.stream, p);
  } else {
    SSLKERN_LAUNCH(covariance_statistics_kernel<2>, grid, block, 0, how.stream, p);
  }
}

void covariance_terms(const CovarianceTerms& p, const Launch& how) {
  with_working(p.of.in.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(covariance_terms_kernel<T>, dim3(1), dim3(kTermThreads), 0, how.stream, p);
  });
}

namespace {

template <class E, bool kPair>
void write_gradient(const CovarianceGradient& p, const Launch& how) {
  const dim3 grid = element_grid(p.x.N, p.x.D), block(kColumnThreads);
  if (p.v == nullptr) {
    SSLKERN_LAUNCH((covariance_gradient_kernel<E, kPair, false>), grid, block, 0, how.stream, p);
  } else {
    SSLKERN_LAUNCH((covariance_gradient_kernel<E, kPair, true>), grid, block, 0, how.stream, p);
  }
}

}  // namespace

void covariance_gradient(const CovarianceGradient& p, const Launch& how) {
  SSLKERN_LAUNCH(covariance_factors_kernel, blocks_for(p.x.D, 256), dim3(256), 0, how.stream, p);
  with_element(p.x.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    p.other == nullptr ? write_gradient<E, false>(p, how) : write_gradient<E, true>(p, how);
  });
}

}  // namespace sslkern::cuda
