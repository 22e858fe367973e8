// The launchers of Barlow Twins.
#include "cuda/cross_correlation.cuh"
#include "cuda/gram_launch.h"
#include "cuda/launch.h"

namespace sslkern::cuda {

void cross_correlation_statistics(const CrossCorrelationStatistics& p, const Launch& how) {
  SSLKERN_LAUNCH(cross_correlation_statistics_kernel, blocks_for(p.D, 256), dim3(256), 0,
                 how.stream, p);
}

void cross_correlation_terms(const CrossCorrelationTerms& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(cross_correlation_terms_kernel<T>, dim3(1), dim3(kTermThreads), 0, how.stream,
                   p);
  });
}

void cross_correlation_gradient(const CrossCorrelationGradient& p, const Launch& how) {
  SSLKERN_LAUNCH(cross_correlation_factors_kernel, blocks_for(p.x.D, 256), dim3(256), 0, how.stream,
                 p);
  with_element(p.x.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    SSLKERN_LAUNCH(cross_correlation_gradient_kernel<E>, element_grid(p.x.N, p.x.D),
                   dim3(kColumnThreads), 0, how.stream, p);
  });
}

}  // namespace sslkern::cuda
