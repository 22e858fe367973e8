// What kernels share that compare a set of rows with itself.
#pragma once
#include "cuda/tile.cuh"

namespace sslkern::cuda {

// Scores of the base 2 up to here need no shift: 2^60 times weights of 2^-60 lose nothing in
// float32, and a rounding error of 60 eps is below that of a logit.
constexpr double kUnshifted = 60;

// x_ij = s_ij log2(e) from the products of packed rows. The column's factor holds the scale.
template <class P>
SSLKERN_DEVICE void scale_results(Results<P>& c, const void* row_factor, int first_row,
                                  const ColumnValues<P>& column, const Place<P>& at) {
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const typename P::Working factor = row_value<P>(row_factor, first_row, m, h, at);
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q)
        c[m][q / 2][2 * h + q % 2] *= factor * column[q / 2][q % 2];
    }
  }
}

template <class P>
SSLKERN_DEVICE void multiply_columns(ColumnValues<P>& v, typename P::Working factor) {
#pragma unroll
  for (int j = 0; j < P::kN; ++j) {
    v[j][0] *= factor;
    v[j][1] *= factor;
  }
}

// A tile of a symmetric gradient G: where it is, and where it goes.
template <class P>
struct GradientTile {
  using T = typename P::Working;
  const PackedRows& z;
  int row, column;  // first of each
  const Place<P>& at;
  typename P::Element* to;  // element (0, 0); rows are padded N apart
  T scale;                  // log2(e) / tau

  SSLKERN_DEVICE T of_row(const void* values, int r) const {
    return static_cast<const T*>(values)[row + r];
  }
  SSLKERN_DEVICE void load_columns(ColumnValues<P>& v, const void* values) const {
    cuda::load_columns<P>(v, values, column, at);
  }
  SSLKERN_DEVICE RowPointer<P> pointer() const { return {to, z.padded_N(), at}; }
};

// G in the place of products where neither diagonal nor padding is and no |x| exceeds kUnshifted:
// 2^x (coarse_i + coarse_j), one exponential; with kConstant also constant_i + constant_j. Each
// column is written times its factor, and all times gradient_scale. The result is the lane's part
// of the sum of G x.
template <class P, bool kConstant>
SSLKERN_DEVICE typename P::Working unshifted_gradient(Results<P>& c, const GradientTile<P>& tile,
                                                      const void* coarse, const void* constant) {
  using T = typename P::Working;
  T slope = 0;
  ColumnValues<P> factor, column_coarse, column_constant;
  tile.load_columns(factor, tile.z.factor);
  tile.load_columns(column_coarse, coarse);
  if (kConstant) tile.load_columns(column_constant, constant);
  RowPointer<P> pointer = tile.pointer();
  for_each_row<P>(c, tile.at, [&](int row, RowResults<P>& x) {
    const T row_factor = tile.of_row(tile.z.factor, row) * tile.scale;
    const T row_coarse = tile.of_row(coarse, row);
    const T row_constant = kConstant ? tile.of_row(constant, row) : T(0);
    const T written = T(gradient_scale(tile.z.dtype));
#pragma unroll
    for (int q = 0; q < 2 * P::kN; ++q) {
      const int j = q / 2, i = q % 2;
      const T score = x[q] * (row_factor * factor[j][i]);
      T value = power_of_two(score) * (row_coarse + column_coarse[j][i]);
      if (kConstant) value += row_constant + column_constant[j][i];
      slope += value * score;
      x[q] = value * (factor[j][i] * written);
    }
    pointer.store(x);
  });
  return slope;
}

}  // namespace sslkern::cuda
