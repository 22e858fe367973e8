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
  // Kernels count the bytes of a tile in 32 bits.
  const int64_t most =
      INT32_MAX / kPackedTile / kPackedChunkBytes * (kPackedChunkBytes / dtype_bytes(p.dtype));
  TORCH_CHECK_VALUE(p.D <= most, "sslkern: expected rows of at most ", most,
                    " columns for CUDA kernels in ", c10::toString(a.scalar_type()), ", got ", p.D);
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

// Of the numbers that kernels calculate with.
inline std::int64_t working_bytes(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : 4; }

// Rows at a time, a multiple of the tile, of what grows with rows times columns: as many as so many
// bytes hold.
inline std::int64_t rows_of_part(std::int64_t rows, double bytes_of_row, std::int64_t bytes) {
  const auto most = std::int64_t(double(bytes) / bytes_of_row);
  return std::clamp<std::int64_t>(most / kPackedTile * kPackedTile, kPackedTile, padded_rows(rows));
}

// Rows of G. A part has the columns read once more, and their gradient read and written if it
// `adds` to that: 256 rows, or 1024, are what a large device multiplies meanwhile in half types.
// They are worth as much memory as a gradient of the columns has.
inline std::int64_t gradient_rows(const PackedRows& rows, std::int64_t columns, bool adds) {
  const std::int64_t padded = padded_rows(columns), row = padded * dtype_bytes(rows.dtype),
                     gradient = padded * rows.padded_D() * working_bytes(rows.dtype);
  const std::int64_t worth = std::min((adds ? 1024 : 256) * row, gradient);
  return rows_of_part(rows.N, double(row), part_bytes(worth));
}

// Rows whose columns' sums are in memory: two numbers for each column and column_part() rows, and
// with `counted` two float64 more.
inline std::int64_t column_rows(std::int64_t rows, std::int64_t columns, Dtype dtype,
                                bool counted) {
  const std::int64_t column = 2 * (working_bytes(dtype) + (counted ? 8 : 0));
  const double row = double(padded_rows(columns) * column) / double(column_part(dtype));
  return rows_of_part(rows, row, part_bytes());
}

// Calls f(first row, rows) for each part of at most so many rows.
template <class F>
void for_each_part(const PackedRows& rows, std::int64_t part, const F& f) {
  for (std::int64_t first = 0; first < rows.padded_N(); first += part) {
    f(first, std::min(part, rows.padded_N() - first));
  }
}

// What becomes of G, rows by columns: G times `right` goes into `row_product`, its transpose times
// `left` into `column_product`, either undefined if not wanted. The products have the padded shapes
// of packed rows and are of the working type.
struct GradientProducts {
  at::Tensor right, row_product;
  at::Tensor left, column_product;
};

// G comes in chunks of so many rows, a multiple of the tile: write_tiles(first row, rows, memory of
// the chunk) launches the kernel that fills one, (rows, padded columns).
template <class WriteTiles>
void multiply_gradient(CudaCall& call, const GradientProducts& to, const PackedRows& rows,
                       std::int64_t columns, std::int64_t chunk, const WriteTiles& write_tiles) {
  const at::Tensor& like = to.right.defined() ? to.right : to.left;
  const at::Tensor g = empty({chunk, padded_rows(columns)}, like.scalar_type(), like);
  void* memory = call.write(g);
  for_each_part(rows, chunk, [&](std::int64_t first, std::int64_t count) {
    write_tiles(first, count, memory);
    const at::Tensor part = g.narrow(0, 0, count);
    if (to.row_product.defined()) {
      product_into(to.row_product.narrow(0, first, count), part, to.right, false);
    }
    if (to.column_product.defined()) {
      product_into(to.column_product, part.t(), to.left.narrow(0, first, count), first > 0);
    }
  });
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
