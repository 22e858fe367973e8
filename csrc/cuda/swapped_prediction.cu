// The launchers of swapped prediction.
#include "cuda/launch.h"
#include "cuda/swapped_prediction.cuh"

namespace sslkern::cuda {
namespace {

// Calls f(E, team) as type and constant for rows of this length.
template <class F>
void with_team(const SwappedPredictionInput& in, const F& f) {
  with_element(in.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    if (in.K <= kTeamColumns<E, 32>) {
      f(of, Team<32>{});
    } else {
      f(of, Team<kAssignThreads>{});
    }
  });
}

template <class T>
dim3 grid_of(const SwappedPredictionInput& in, std::int64_t groups) {
  return blocks_for(in.B * groups, T::kCount);
}

}  // namespace

void swapped_prediction_fwd(const SwappedPredictionLosses& p, const Launch& how) {
  with_team(p.in, [&](auto of, auto team) {
    using E = typename decltype(of)::Element;
    constexpr int kTeam = decltype(team)::kThreads;
    SSLKERN_LAUNCH((swapped_prediction_fwd_kernel<E, kTeam>),
                   grid_of<decltype(team)>(p.in, p.groups), dim3(kAssignThreads), 0, how.stream, p);
  });
}

void swapped_prediction_bwd(const SwappedPredictionGradients& p, const Launch& how) {
  with_team(p.in, [&](auto of, auto team) {
    using E = typename decltype(of)::Element;
    constexpr int kTeam = decltype(team)::kThreads;
    SSLKERN_LAUNCH((swapped_prediction_bwd_kernel<E, kTeam>),
                   grid_of<decltype(team)>(p.in, p.groups), dim3(kAssignThreads), 0, how.stream, p);
  });
}

}  // namespace sslkern::cuda
