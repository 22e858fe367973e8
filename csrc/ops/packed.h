// Rows packed for the CUDA kernels of similarities, and the way from their gradient tiles to the
// gradients of rows.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>

#include "contract/packed.h"
#include "ops/backend.h"
#include "ops/cuda.h"

namespace sslkern::ops {

struct Packed {
  at::Tensor rows, factor, inv_norm;
  const double* inv_norm_data;
  PackedRows view;
};

// The rows of a, then those of b, which may be undefined. They have adjacent columns.
inline Packed pack(CudaCall& call, const at::Tensor& a, const at::Tensor& b, bool normalize,
                   const std::int64_t* order = nullptr) {
  PackRows p{};
  p.N = a.size(0) + (b.defined() ? b.size(0) : 0);
  p.D = a.size(1);
  p.dtype = to_dtype(a.scalar_type());
  Packed z;
  z.rows = empty({padded_rows(p.N), padded_dims(p.D, p.dtype)}, a.scalar_type(), a);
  z.factor = empty({padded_rows(p.N)}, accumulate_dtype(a.scalar_type()), a);
  z.inv_norm = empty({p.N}, at::kDouble, a);
  p.first = call.read(a);
  p.stride_first = a.stride(0);
  p.first_rows = a.size(0);
  p.second = b.defined() ? call.read(b) : nullptr;
  p.stride_second = b.defined() ? b.stride(0) : 0;
  p.normalize = normalize;
  p.order = order;
  p.rows = call.write(z.rows);
  p.factor = call.write(z.factor);
  p.inv_norm = call.write<double>(z.inv_norm);
  call->pack_rows(p, call.launch());
  z.inv_norm_data = p.inv_norm;
  z.view = {p.rows, p.factor, p.N, p.D, p.dtype};
  return z;
}

// How many blocks share the columns of one block of rows: enough blocks for a large device, few
// enough that each has work. Depends on sizes alone, so that results do not on the device.
inline std::int64_t column_splits(std::int64_t rows, std::int64_t columns) {
  const std::int64_t tiles = padded_rows(columns) / kPackedTile;
  return std::clamp<std::int64_t>(column_blocks() * kPackedTile / padded_rows(rows), 1, tiles);
}

// Rows of G at a time, a multiple of the tile: as many as 64 MiB hold, for that is what may lie in
// the cache of a large device between the kernel that writes them and the product that reads them.
inline std::int64_t gradient_rows(std::int64_t rows, std::int64_t columns, Dtype dtype) {
  constexpr std::int64_t kBytes = std::int64_t(64) << 20;
  const std::int64_t row = padded_rows(columns) * dtype_bytes(dtype);
  return std::clamp<std::int64_t>(kBytes / row / kPackedTile * kPackedTile, kPackedTile,
                                  padded_rows(rows));
}

// What becomes of G, rows by columns: G times `right` goes into `row_product`, its transpose times
// `left` into `column_product`, either undefined if not wanted. The products have the padded shapes
// of packed rows and are of the working type.
struct GradientProducts {
  at::Tensor right, row_product;
  at::Tensor left, column_product;
};

// G comes in chunks of rows, each a multiple of the tile: write_tiles(first row, rows, memory of
// the chunk) launches the kernel that fills one, (rows, padded columns).
template <class WriteTiles>
void multiply_gradient(CudaCall& call, const GradientProducts& to, const PackedRows& rows,
                       std::int64_t columns, const WriteTiles& write_tiles) {
  const at::Tensor& like = to.right.defined() ? to.right : to.left;
  const std::int64_t chunk = gradient_rows(rows.N, columns, rows.dtype);
  const at::Tensor g = empty({chunk, padded_rows(columns)}, like.scalar_type(), like);
  void* memory = call.write(g);
  for (std::int64_t first = 0; first < rows.padded_N(); first += chunk) {
    const std::int64_t count = std::min(chunk, rows.padded_N() - first);
    write_tiles(first, count, memory);
    const at::Tensor part = g.narrow(0, 0, count);
    if (to.row_product.defined()) {
      product_into(to.row_product.narrow(0, first, count), part, to.right, false);
    }
    if (to.column_product.defined()) {
      product_into(to.column_product, part.t(), to.left.narrow(0, first, count), first > 0);
    }
  }
}

// What every way to finish packed rows has, from the product that torch has written: unscaled of G.
inline FinishRows finish_of(CudaCall& call, const Packed& z, const at::Tensor& product) {
  FinishRows f{};
  f.z = z.view;
  f.product = call.read(product);
  f.inv_norm = z.inv_norm_data;
  f.constant = 1 / gradient_scale(z.view.dtype);
  f.first_rows = z.view.N;
  return f;
}

// Partial sums of blocks of gradient tiles: one for each tile of rows and split.
inline at::Tensor empty_slopes(const PackedRows& rows, std::int64_t splits,
                               const at::Tensor& like) {
  return empty({rows.padded_N() / tile_side(rows.dtype), splits}, at::kDouble, like);
}

// The power of two that is at least the largest |g|.
inline const double* unit_of(CudaCall& call, const void* g, std::int64_t count, Dtype dtype,
                             const at::Tensor& unit) {
  LargestMagnitude p{g, count, dtype, call.write<double>(unit)};
  call->largest_magnitude(p, call.launch());
  return p.unit;
}

}  // namespace sslkern::ops
