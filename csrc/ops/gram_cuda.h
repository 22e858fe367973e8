// The CUDA side of losses over columns of a batch: what both directions of each are made of.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>

#include "contract/gram.h"
#include "contract/packed.h"
#include "ops/backend.h"
#include "ops/cuda.h"

namespace sslkern::ops {

// The views as kernels read them.
inline GramInput read_views(CudaCall& call, GramInput in, const at::Tensor& z_a,
                            const at::Tensor& z_b) {
  in.z[0] = call.read(z_a);
  if (z_b.defined()) in.z[1] = call.read(z_b);
  return in;
}

inline ColumnView column_view(const GramInput& in, int v, const double* mean, const double* scale) {
  return {in.z[v], in.stride[v], mean, scale, in.N, in.D, in.dtype};
}

// Whether float32 products may have to be done again.
inline bool may_be_wide(const GramInput& in) { return in.gram && in.dtype != Dtype::kFloat64; }

// Scratch that kernels fill; it must live as long as they may read it.
struct Scratch {
  at::Tensor tensor;
  double* data;

  Scratch(CudaCall& call, at::IntArrayRef sizes, const at::Tensor& like)
      : tensor(empty(sizes, at::kDouble, like)), data(call.write<double>(tensor)) {}
};

inline Scratch moments_of(CudaCall& call, const GramInput& in, bool differences,
                          const at::Tensor& like) {
  const int64_t parts = column_parts(in.N, in.D);
  const Scratch moments(call, {parts, ColumnMoments::kRows, in.D}, like);
  const ColumnMoments p{in, differences, moments.data};
  call->column_moments(p, call.launch());
  return moments;
}

// A view, standardised, for the library: rows begin at multiples of 16 bytes.
inline at::Tensor pack_columns(CudaCall& call, const ColumnView& view, const at::Tensor& like) {
  constexpr int64_t kUnit = 4;
  PackColumns p{view, nullptr, (view.D + kUnit - 1) / kUnit * kUnit};
  const at::Tensor x = empty({view.N, p.pitch}, accumulate_dtype(like.scalar_type()), like);
  p.x = call.write(x);
  call->pack_columns(p, call.launch());
  return x.narrow(1, 0, view.D);
}

// Matrix m of what empty_products gave.
inline at::Tensor product_matrix(const at::Tensor& products, const GramInput& in, int m) {
  const int64_t side = in.side();
  return products.narrow(0, m * side * side, side * side).view({side, side});
}

// What is behind the matrices: results of an operator are its own, down to the last element.
inline void clear_behind_products(const at::Tensor& products, const GramInput& in, int matrices) {
  const int64_t used = matrices * in.side() * in.side();
  products.narrow(0, used, products.numel() - used).zero_();
}

// Partial sums of x_i y_i into `to`, of product_parts(count) doubles.
inline void sum_products(CudaCall& call, const void* x, const void* y, const GramInput& in,
                         double* to) {
  const int64_t count = in.side() * in.side();
  const ProductSums p{x, y, count, in.dtype, product_parts(count), to};
  call->product_sums(p, call.launch());
}

// Sums of v and of v x over the rows.
inline Scratch dots_of(CudaCall& call, const ColumnView& x, const void* v, const at::Tensor& like) {
  const Scratch dots(call, {column_parts(x.N, x.D), 2, x.D}, like);
  const ColumnDots p{x, v, dots.data};
  call->column_dots(p, call.launch());
  return dots;
}

inline int64_t wide_parts(const GramInput& in) {
  const int64_t tiles = wide_tiles(in.N);
  return tiles * (tiles + 1) / 2;
}

// Rows `first` on of a view.
inline ColumnView rows_of(ColumnView view, int64_t first, int64_t rows) {
  const int64_t bytes = first * view.stride * dtype_bytes(view.dtype);
  view.z = static_cast<const char*>(view.z) + bytes;
  view.N = rows;
  return view;
}

// Where p.wide says so, (N, D) products that the library has made are made again in float64, as
// many rows at a time as have 16 MiB of products of rows. Of p all is given but `gram`.
inline void redo_in_float64(CudaCall& call, const WideRows& p, const at::Tensor& like) {
  constexpr int64_t kBytes = int64_t(16) << 20;
  const int64_t N = p.y.N, D = p.y.D;
  const int64_t most = std::min(N, std::max(kBytes / (N * int64_t(sizeof(double))), kWideTile));
  const Scratch gram(call, {N, most}, like);
  for (int64_t first = 0; first < N; first += most) {
    WideRows part = p;
    part.y = rows_of(p.y, first, std::min(most, N - first));
    part.gram = gram.data;
    part.product = p.product + first * D;
    const WideGram g{p.y, part.y, p.wide, gram.data};
    call->wide_gram(g, call.launch());
    call->wide_rows(part, call.launch());
  }
}

}  // namespace sslkern::ops
