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
  constexpr std::int64_t kBlocks = 1024;
  const std::int64_t tiles = padded_rows(columns) / kPackedTile;
  return std::clamp<std::int64_t>(kBlocks * kPackedTile / padded_rows(rows), 1, tiles);
}

// Rows of G at a time, a multiple of the tile: as many as 64 MiB hold, for that is what may lie in
// the cache of a large device between the kernel that writes them and the product that reads them.
inline std::int64_t gradient_rows(std::int64_t rows, std::int64_t columns, Dtype dtype) {
  constexpr std::int64_t kBytes = std::int64_t(64) << 20;
  const std::int64_t row = padded_rows(columns) * dtype_bytes(dtype);
  return std::clamp<std::int64_t>(kBytes / row / kPackedTile * kPackedTile, kPackedTile,
                                  padded_rows(rows));
}

// G for `rows` rows from `first` on, times other rows: into those rows of `out`. Several chunks of
// rows may come one after the other, each a multiple of the tile but for the last.
// write_tiles(first, rows, G's memory) launches the kernel for one chunk.
template <class WriteTiles>
void multiply_gradient(CudaCall& call, const at::Tensor& out, const at::Tensor& other,
                       const PackedRows& rows, std::int64_t columns,
                       const WriteTiles& write_tiles) {
  const std::int64_t chunk = gradient_rows(rows.N, columns, rows.dtype);
  const at::Tensor g = empty({chunk, padded_rows(columns)}, other.scalar_type(), other);
  void* memory = call.write(g);
  for (std::int64_t first = 0; first < rows.padded_N(); first += chunk) {
    const std::int64_t count = std::min(chunk, rows.padded_N() - first);
    write_tiles(first, count, memory);
    product_into(out.narrow(0, first, count), g.narrow(0, 0, count), other, false);
  }
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
