// The launchers of InfoNCE.
#include "cuda/info_nce.cuh"
#include "cuda/info_nce_gradient.cuh"
#include "cuda/info_nce_rank.cuh"
#include "cuda/launch.h"

namespace sslkern::cuda {
namespace {

// Calls f(whether A is resident, `special`, bytes of shared memory), the first two as types. A
// special kernel, which looks at each pair, always streams A: it does not wait for memory.
template <class P, class F>
void with_variant(const PackedRows& key, std::int64_t besides, bool special, const F& f) {
  const SharedNeed need = shared_need<P>(key.padded_D(), besides, !special);
  if (special) return f(std::false_type{}, std::true_type{}, need.bytes);
  with_flag(need.resident, [&](auto resident) { f(resident, std::false_type{}, need.bytes); });
}

}  // namespace

void info_nce_columns(const InfoNceColumns& p, const Launch& how) {
  with_working(p.in.key.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(info_nce_columns_kernel<T>, blocks_for(p.in.key.padded_N(), 256), dim3(256), 0,
                   how.stream, p);
  });
}

void info_nce_fwd(const InfoNceSums& p, const Launch& how) {
  with_product(p.in.key.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const bool counted = p.row.logits != nullptr;
    const std::int64_t besides = OnlineRows<P>::kBytes + (counted ? LogitRows<P>::kBytes : 0);
    const dim3 grid = walk_grid<P>(p.rows, p.splits), block(P::kThreads);
    with_variant<P>(p.in.key, besides, counted, [&](auto resident, auto counts, auto bytes) {
      constexpr bool kResident = decltype(resident)::value, kCounts = decltype(counts)::value;
      with_flag(p.symmetric, [&](auto symmetric) {
        constexpr bool kSymmetric = decltype(symmetric)::value;
        SSLKERN_LAUNCH((info_nce_fwd_kernel<P, kResident, kSymmetric, kCounts>), grid, block, bytes,
                       how.stream, p);
      });
    });
  });
  with_working(p.in.key.dtype, [&](auto working) {
    using T = decltype(working);
    if (p.first_row + p.rows < p.in.query.padded_N()) {
      SSLKERN_LAUNCH(info_nce_carry_kernel<T>, blocks_for(p.col.count, 256), dim3(256), 0,
                     how.stream, p);
      return;
    }
    SSLKERN_LAUNCH((info_nce_merge_kernel<T, false>), blocks_for(p.row.count, 256), dim3(256), 0,
                   how.stream, p);
    if (!p.symmetric) return;
    SSLKERN_LAUNCH((info_nce_merge_kernel<T, true>), blocks_for(p.col.count, 256), dim3(256), 0,
                   how.stream, p);
  });
}

void info_nce_middle(const InfoNceMiddle& p, const Launch& how) {
  SSLKERN_LAUNCH(info_nce_middle_kernel<kOneBlock>, dim3(1), dim3(kOneBlock), 0, how.stream, p);
}

void info_nce_weights(const InfoNceWeights& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(info_nce_weights_kernel<T>, blocks_for(p.padded, 256), dim3(256), 0, how.stream,
                   p);
  });
}

void info_nce_tiles(const InfoNceTiles& p, const Launch& how) {
  const bool looks = p.in.query_ids != nullptr || (p.symmetric && p.label_smoothing > 0);
  with_product(p.in.key.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const dim3 grid = walk_grid<P>(p.rows, p.splits), block(P::kThreads);
    const bool wants_extras = looks || p.column_sum != nullptr;
    with_variant<P>(p.in.key, 0, wants_extras, [&](auto resident, auto extras, auto bytes) {
      constexpr bool kResident = decltype(resident)::value, kExtras = decltype(extras)::value;
      with_flag(p.symmetric, [&](auto symmetric) {
        constexpr bool kSymmetric = decltype(symmetric)::value;
        SSLKERN_LAUNCH((info_nce_tiles_kernel<P, kResident, kSymmetric, kExtras>), grid, block,
                       bytes, how.stream, p);
      });
    });
  });
}

void info_nce_row_dots(const InfoNceRowDots& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(info_nce_row_dot_kernel<T>, blocks_for(p.N, 256), dim3(256), 0, how.stream, p);
  });
}

void info_nce_column_gradients(const InfoNceColumnGradients& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(info_nce_column_gradients_kernel<T>, blocks_for(p.M, 256), dim3(256), 0,
                   how.stream, p);
  });
}

void info_nce_rank(const InfoNceCounts& p, const Launch& how) {
  with_product(p.in.key.dtype, how.tf32, [&](auto product) {
    using P = decltype(product);
    const dim3 grid = walk_grid<P>(p.in.query.padded_N(), p.splits), block(P::kThreads);
    const bool has_ids = p.in.query_ids != nullptr;
    with_variant<P>(p.in.key, 0, has_ids, [&](auto resident, auto ids, auto bytes) {
      constexpr bool kResident = decltype(resident)::value, kIds = decltype(ids)::value;
      if (p.in.target != nullptr) {
        SSLKERN_LAUNCH((info_nce_limits_kernel<P, kResident>), grid, block, bytes, how.stream, p);
      }
      SSLKERN_LAUNCH((info_nce_rank_kernel<P, kResident, kIds>), grid, block, bytes, how.stream, p);
    });
  });
}

}  // namespace sslkern::cuda
