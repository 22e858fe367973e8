// The launchers of what losses over columns share.
#include "cuda/gram.cuh"
#include "cuda/gram_launch.h"
#include "cuda/wide.cuh"

namespace sslkern::cuda {

void column_moments(const ColumnMoments& p, const Launch& how) {
  with_element(p.in.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    const dim3 grid = column_grid(column_parts(p.in.N, p.in.D), p.in.D), block(kColumnThreads);
    if (p.in.z[1] == nullptr) {
      SSLKERN_LAUNCH((column_moments_kernel<E, 1>), grid, block, 0, how.stream, p);
    } else {
      SSLKERN_LAUNCH((column_moments_kernel<E, 2>), grid, block, 0, how.stream, p);
    }
  });
}

void pack_columns(const PackColumns& p, const Launch& how) {
  with_element(p.view.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    SSLKERN_LAUNCH(pack_columns_kernel<E>, element_grid(p.view.N, p.view.D), dim3(kColumnThreads),
                   0, how.stream, p);
  });
}

void product_sums(const ProductSums& p, const Launch& how) {
  with_working(p.dtype, [&](auto working) {
    using T = decltype(working);
    SSLKERN_LAUNCH(product_sums_kernel<T>, dim3(unsigned(p.parts)), dim3(kSumThreads), 0,
                   how.stream, p);
  });
}

void column_dots(const ColumnDots& p, const Launch& how) {
  with_element(p.x.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    SSLKERN_LAUNCH(column_dots_kernel<E>, column_grid(column_parts(p.x.N, p.x.D), p.x.D),
                   dim3(kColumnThreads), 0, how.stream, p);
  });
}

namespace {

// Calls f(ElementOf<E>{}) for the types that are not wide by themselves.
template <class F>
void with_narrow_element(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::kFloat64:
      return;
    case Dtype::kFloat32:
      return f(ElementOf<float>{});
    case Dtype::kBFloat16:
      return f(ElementOf<BFloat16>{});
    case Dtype::kFloat16:
      return f(ElementOf<Float16>{});
  }
}

dim3 upper_tiles(std::int64_t side) {
  const std::int64_t tiles = wide_tiles(side);
  return dim3(unsigned(tiles * (tiles + 1) / 2));
}

}  // namespace

void wide_sums(const WideSums& p, const Launch& how) {
  with_narrow_element(p.x.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    const dim3 grid = upper_tiles(p.x.N), block(kWideThreads);
    if (p.y.z == nullptr) {
      SSLKERN_LAUNCH((wide_sums_kernel<E, false>), grid, block, 0, how.stream, p);
    } else {
      SSLKERN_LAUNCH((wide_sums_kernel<E, true>), grid, block, 0, how.stream, p);
    }
  });
}

void wide_gram(const WideGram& p, const Launch& how) {
  with_narrow_element(p.y.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    const dim3 grid(unsigned(wide_tiles(p.x.N) * wide_tiles(p.y.N)));
    SSLKERN_LAUNCH(wide_gram_kernel<E>, grid, dim3(kWideThreads), 0, how.stream, p);
  });
}

void wide_rows(const WideRows& p, const Launch& how) {
  with_narrow_element(p.x.dtype, [&](auto of) {
    using E = typename decltype(of)::Element;
    const dim3 grid(unsigned(wide_tiles(p.y.N) * wide_tiles(p.y.D)));
    SSLKERN_LAUNCH(wide_rows_kernel<E>, grid, dim3(kWideThreads), 0, how.stream, p);
  });
}

}  // namespace sslkern::cuda
