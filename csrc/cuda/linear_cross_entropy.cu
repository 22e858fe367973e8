// The launchers of the softmax over a vocabulary.
#include <type_traits>

#include "cuda/launch.h"
#include "cuda/linear_cross_entropy.cuh"

namespace sslkern::cuda {
namespace {

// Calls f(integral constant) with what there is of targets.
template <class F>
void with_targets(const LinearCrossEntropyTable& in, const F& f) {
  if (in.probability != nullptr) {
    f(std::integral_constant<Targets, Targets::kDense>{});
  } else if (in.label_smoothing > 0) {
    f(std::integral_constant<Targets, Targets::kSmoothed>{});
  } else {
    f(std::integral_constant<Targets, Targets::kIndex>{});
  }
}

}  // namespace

void linear_cross_entropy_classes(const LinearCrossEntropyClasses& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(linear_cross_entropy_classes_kernel<T>, blocks_for(padded_rows(p.V), 256),
                   dim3(256), 0, how.stream, p);
  });
}

void linear_cross_entropy_places(const LinearCrossEntropyPlaces& p, const Launch& how) {
  SSLKERN_LAUNCH(linear_cross_entropy_places_kernel, blocks_for(padded_rows(p.N), 256), dim3(256),
                 0, how.stream, p);
}

void linear_cross_entropy_fwd(const LinearCrossEntropySums& p, const Launch& how) {
  with_product(p.in.input.dtype, how.tf32, [&](auto product) {
    with_targets(p.in, [&](auto targets) {
      using P = decltype(product);
      constexpr Targets kTargets = decltype(targets)::value;
      constexpr int kSums = kTargets == Targets::kIndex ? 0 : kTargets == Targets::kDense ? 2 : 1;
      const SharedNeed need =
          shared_need<P>(p.in.input.padded_D(), OnlineRows<P>::kBytes + kSums * RowSums<P>::kBytes);
      const dim3 grid = walk_grid<P>(p.in.input.padded_N(), p.splits), block(P::kThreads);
      with_flag(need.resident, [&](auto resident) {
        constexpr bool kResident = decltype(resident)::value;
        SSLKERN_LAUNCH((linear_cross_entropy_fwd_kernel<P, kResident, kTargets>), grid, block,
                       need.bytes, how.stream, p);
      });
    });
  });
  with_working(p.in.input.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(linear_cross_entropy_merge_kernel<T>, blocks_for(p.in.input.N, 256), dim3(256),
                   0, how.stream, p);
  });
}

void linear_cross_entropy_weights(const LinearCrossEntropyWeights& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(linear_cross_entropy_weights_kernel<T>, blocks_for(padded_rows(p.N), 256),
                   dim3(256), 0, how.stream, p);
  });
}

void linear_cross_entropy_tiles(const LinearCrossEntropyTiles& p, const Launch& how) {
  with_product(p.in.input.dtype, how.tf32, [&](auto product) {
    with_targets(p.in, [&](auto targets) {
      using P = decltype(product);
      constexpr Targets kTargets = decltype(targets)::value;
      const SharedNeed need = shared_need<P>(p.in.input.padded_D(), 0);
      const dim3 grid = walk_grid<P>(p.rows, p.splits), block(P::kThreads);
      with_flag(need.resident, [&](auto resident) {
        constexpr bool kResident = decltype(resident)::value;
        SSLKERN_LAUNCH((linear_cross_entropy_tiles_kernel<P, kResident, kTargets>), grid, block,
                       need.bytes, how.stream, p);
      });
    });
  });
}

void linear_cross_entropy_bias(const LinearCrossEntropyBias& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(linear_cross_entropy_bias_kernel<T>, blocks_for(p.V, 256), dim3(256), 0,
                   how.stream, p);
  });
}

}  // namespace sslkern::cuda
