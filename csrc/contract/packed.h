// Rows as the CUDA kernels of similarities read them, and what these kernels share.
//
//   zh_i = factor_i r_i    r_i the packed row, with the element type of the input
//
// Rows are padded to tiles and dims to whole chunks with zeros, whose factor is zero, so that the
// inner loops copy 16 aligned bytes at a time and never ask where a matrix ends. With normalize a
// row of float32 or float64 is packed as zh itself (factor 1), one of a half type is scaled by a
// power of two, which loses nothing, and its norm goes into the factor. Without, factor is 1.
#pragma once
#include <cstdint>

#include "contract/cuda.h"
#include "contract/types.h"

namespace sslkern {

constexpr std::int64_t kPackedTile = 128;        // rows
constexpr std::int64_t kPackedChunkBytes = 128;  // of a row

constexpr std::int64_t dtype_bytes(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}
// Of the tiles of the kernels: float64 has smaller ones.
constexpr std::int64_t tile_side(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? kPackedTile / 2 : kPackedTile;
}
constexpr std::int64_t padded_rows(std::int64_t rows) {
  return (rows + kPackedTile - 1) / kPackedTile * kPackedTile;
}
constexpr std::int64_t padded_dims(std::int64_t dims, Dtype dtype) {
  const std::int64_t chunk = kPackedChunkBytes / dtype_bytes(dtype);
  return (dims + chunk - 1) / chunk * chunk;
}

// Of float64 for float64, else float32: "working" below.
struct PackedRows {
  const void* rows;    // (padded rows, padded D) of dtype
  const void* factor;  // (padded rows) working
  std::int64_t N, D;   // > 0, before padding
  Dtype dtype;

  constexpr std::int64_t padded_N() const { return padded_rows(N); }
  constexpr std::int64_t padded_D() const { return padded_dims(D, dtype); }
};

// Packs the rows of `first` and behind them those of `second`.
struct PackRows {
  const void* first;          // (first_rows, D) of dtype, stride_first apart, columns adjacent
  const void* second;         // (N - first_rows, D) likewise
  std::int64_t stride_first;  // elements
  std::int64_t stride_second;
  std::int64_t first_rows;
  std::int64_t N, D;
  Dtype dtype;
  bool normalize;
  const std::int64_t* order;  // (N) which row comes at each place, ~row: zeros for it; or null
  void* rows;                 // (padded rows, padded D) of dtype
  void* factor;               // (padded rows) working
  double* inv_norm;           // (N) 1 / |z_i|; 0 where |z_i| < 1e-12, 1 without normalize
};

// The largest |x|, as the power of two that is not less; 1 where all are zero, NaN or infinite.
struct LargestMagnitude {
  const void* x;  // (count) working
  std::int64_t count;
  Dtype dtype;
  double* unit;  // scalar
};

// Rows of a gradient, from the products of the kernels' matrix G with packed rows:
//
//   grad_zh_i = *unit scale / factor_divisor * product_i
//   grad_z_i  = (grad_zh_i - zh_i (zh_i . grad_zh_i)) inv_norm_i    with normalize, else grad_zh_i
//
// over_factor: G has the factors of its rows and its columns, so that one matrix serves the
// products with either side; the product of row i is then divided by factor_i (a row of zeros has
// none).
struct FinishRows {
  PackedRows z;
  const void* product;       // (N, padded D) working
  const double* inv_norm;    // (N)
  const double* unit;        // scalar, or null: 1
  const double* multiplier;  // scalar on the device, or null: 1
  const double* divisor;     // scalar on the device, or null: 1
  double constant;           // one more factor, known to the host
  bool normalize;
  bool over_factor;
  bool wide;                  // gradients are of the working type instead of dtype
  const std::int64_t* order;  // (N) as in PackRows, ~row: its gradient is zero; or null
  std::int64_t first_rows;    // those of grad_first; the rest are of grad_second
  void* grad_first;           // (first_rows, D) of dtype, contiguous; null if not wanted
  void* grad_second;          // (N - first_rows, D) likewise
  double* row_dot;            // (N) zh_i . grad_zh_i; null if not wanted
};

// Rows of a warp's part of a tile, whose columns are added up together; of float64 half as many, as
// its tiles.
constexpr std::int64_t kColumnPart = kPackedTile / 2;
constexpr std::int64_t column_part(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? kColumnPart / 2 : kColumnPart;
}

// Of what the kernels write into G: float16 has few exponents, and most of a softmax is small.
constexpr double gradient_scale(Dtype dtype) { return dtype == Dtype::kFloat16 ? 4096.0 : 1.0; }

// A sum in a fixed order, times what is given: *sum = constant *unit *multiplier / *divisor sum of
// x.
struct SumInOrder {
  const double* x;  // (count)
  std::int64_t count;
  const double* unit;        // scalar on the device, or null: 1
  const double* multiplier;  // likewise
  const double* divisor;     // likewise
  double constant;
  double* sum;  // scalar
};

namespace cuda {
void pack_rows(const PackRows&, const Launch&);
void largest_magnitude(const LargestMagnitude&, const Launch&);
void finish_rows(const FinishRows&, const Launch&);
void sum_in_order(const SumInOrder&, const Launch&);
}  // namespace cuda

}  // namespace sslkern
