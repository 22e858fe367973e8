// The launchers of sampled logits. Grids count rows in memory, so they are below their limit.
#include "cuda/launch.h"
#include "cuda/sampled_logits.cuh"

namespace sslkern::cuda {
namespace {

// With more samples than this a query is a block's.
constexpr std::int64_t kSamplesOfWarp = 64;

// Calls f(element type, whether lanes read vectors of it).
template <class F>
void with_alignment(const SampledLogitsInput& in, const F& f) {
  with_element(in.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    constexpr int kDims = LaneRow<E, true>::kDims;
    const bool aligned = rows_have_vectors<E>(in.query, in.stride_query, in.D, kDims) &&
                         rows_have_vectors<E>(in.table, in.stride_table, in.D, kDims);
    with_flag(aligned, [&](auto vectors) { f(of, vectors); });
  });
}

dim3 warps_grid(std::int64_t warps) {
  return dim3(unsigned((warps + kSampleWarps - 1) / kSampleWarps));
}

}  // namespace

void sampled_logits_fwd(const SampledLogitsDots& p, const Launch& how) {
  with_alignment(p.in, [&](auto of, auto aligned) {
    using E = typename decltype(of)::Element;
    constexpr bool kAligned = decltype(aligned)::value;
    const std::int64_t groups = (p.in.K + kRowsAtOnce - 1) / kRowsAtOnce;
    SSLKERN_LAUNCH((sampled_logits_fwd_kernel<E, kAligned>), warps_grid(p.in.N * groups),
                   dim3(kSampleThreads), 0, how.stream, p);
  });
}

void sampled_logits_grad_query(const SampledLogitsQueryGradient& p, const Launch& how) {
  with_alignment(p.in, [&](auto of, auto aligned) {
    using E = typename decltype(of)::Element;
    constexpr bool kAligned = decltype(aligned)::value;
    const std::int64_t teams = p.in.N * chunks_of<E>(p.in.D);
    if (p.in.K <= kSamplesOfWarp) {
      SSLKERN_LAUNCH((sampled_logits_query_kernel<E, 32, kAligned>), warps_grid(teams),
                     dim3(kSampleThreads), 0, how.stream, p);
    } else {
      SSLKERN_LAUNCH((sampled_logits_query_kernel<E, kSampleThreads, kAligned>),
                     dim3(unsigned(teams)), dim3(kSampleThreads), 0, how.stream, p);
    }
  });
}

void sampled_logits_grad_table(const SampledLogitsTableGradient& p, const Launch& how) {
  with_alignment(p.in, [&](auto of, auto aligned) {
    using E = typename decltype(of)::Element;
    constexpr bool kAligned = decltype(aligned)::value;
    const std::int64_t tasks = sorted_tiles(p.in.N * p.in.K) * chunks_of<E>(p.in.D);
    SSLKERN_LAUNCH((sampled_logits_tiles_kernel<E, kAligned>), warps_grid(tasks),
                   dim3(kSampleThreads), 0, how.stream, p);
    SSLKERN_LAUNCH((sampled_logits_runs_kernel<E, kAligned>), dim3(unsigned(tasks)),
                   dim3(kSampleThreads), 0, how.stream, p);
  });
}

}  // namespace sslkern::cuda
