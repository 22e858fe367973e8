// How a warp multiplies rows of shared memory: one tag per way, all with the same fragments, so
// that what is done with a finished tile is written once. run_of gives the 16 bytes of kRun
// adjacent results.
//
// Rows come in chunks of 128 bytes, eight pieces of 16. A step takes 32 bytes of each row: 16
// elements of a half type, 8 of float32, 4 of float64. Of a 16 x 8 tile of results, lane 4 g + t
// has c[0], c[1] in row g and c[2], c[3] in row g + 8, columns 2 t and 2 t + 1: the layout of
// mma.sync, kept where other arithmetic is used.
//
// Columns of a warp's tile are dealt to lanes so that each has as many adjacent ones as fill 16
// bytes (column_of): they are stored, and their factors loaded, as one vector. For that the rows of
// B only need to be taken in this order, which ldmatrix gives for nothing.
#pragma once
#include "cuda/dtype.cuh"

namespace sslkern::cuda {

constexpr int kPieceBytes = 16, kPieces = 8;

// Sides of the tile of a block, and of a warp's part of it.
template <int kSideOfBlock>
struct Shape {
  // Whether the products of a chunk are added up apart and then added to those before it. Tensor
  // cores truncate their sums (Fasi et al., "Numerical behavior of NVIDIA tensor cores", PeerJ
  // Computer Science, 2021): along many dims a float32 would lose digits by that.
  static constexpr bool kAddsChunks = false;
  static constexpr int kSide = kSideOfBlock;
  static constexpr int kThreads = 256;
  static constexpr int kWarpsDown = 2, kWarpsAcross = 4;
  static constexpr int kWarpRows = kSide / kWarpsDown, kWarpColumns = kSide / kWarpsAcross;
  static constexpr int kM = kWarpRows / 16, kN = kWarpColumns / 8;
};

// What the half types share.
struct HalfLayout : Shape<128> {
  using Working = float;
  static constexpr int kRun = 8, kMinBlocks = 2;
  static SSLKERN_DEVICE int column_of(int j, int i, int t) { return 8 * t + 2 * j + i; }
  // Rows that one matrix of B takes differ in bit 0 and in bits 3 and 4: the number r of the row in
  // its matrix.
  static SSLKERN_DEVICE int swizzle_b(int row) { return (row & 1) | (row >> 3 & 3) << 1; }
};

struct FloatLayout : Shape<128> {
  using Working = float;
  static constexpr int kRun = 4, kMinBlocks = 1;
  static SSLKERN_DEVICE int column_of(int j, int i, int t) {
    return 16 * (j / 2) + 4 * t + 2 * (j % 2) + i;
  }
  static SSLKERN_DEVICE uint4 run_of(const float* x) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                      __float_as_uint(x[3]));
  }
  // Here in bit 0 and in bits 2 and 3: r as well.
  static SSLKERN_DEVICE int swizzle_b(int row) { return (row & 1) | (row >> 2 & 3) << 1; }
};

struct Bf16 : HalfLayout {
  using Element = BFloat16;
  static SSLKERN_DEVICE uint4 run_of(const float* x) {
    return make_uint4(platform::pack_bf16(x[0], x[1]), platform::pack_bf16(x[2], x[3]),
                      platform::pack_bf16(x[4], x[5]), platform::pack_bf16(x[6], x[7]));
  }
  static SSLKERN_DEVICE void multiply(float (&c)[4], const unsigned (&a)[4],
                                      const unsigned (&b)[2]) {
    platform::mma_bf16(c, a, b);
  }
};

struct F16 : HalfLayout {
  using Element = Float16;
  static SSLKERN_DEVICE uint4 run_of(const float* x) {
    return make_uint4(platform::pack_f16(x[0], x[1]), platform::pack_f16(x[2], x[3]),
                      platform::pack_f16(x[4], x[5]), platform::pack_f16(x[6], x[7]));
  }
  static SSLKERN_DEVICE void multiply(float (&c)[4], const unsigned (&a)[4],
                                      const unsigned (&b)[2]) {
    platform::mma_f16(c, a, b);
  }
};

// One product of what tf32 keeps of float32: 11 significant bits, where torch's settings allow it.
struct Tf32 : FloatLayout {
  using Element = float;
  static SSLKERN_DEVICE void multiply(float (&c)[4], const unsigned (&a)[4],
                                      const unsigned (&b)[2]) {
    platform::mma_tf32(c, a, b);
  }
};

// Three products of two parts of each number, high and low: 22 bits, the error of float32 (the
// product of both low parts is below it). Half the time of multiply-adds on their own units.
struct Tf32x3 : FloatLayout {
  using Element = float;
  static constexpr bool kAddsChunks = true;
  static constexpr unsigned kHigh = 0xffffe000u;  // what tf32 keeps of the bits

  template <int n>
  static SSLKERN_DEVICE void split(const unsigned (&x)[n], unsigned (&high)[n],
                                   unsigned (&low)[n]) {
#pragma unroll
    for (int q = 0; q < n; ++q) {
      high[q] = x[q] & kHigh;
      low[q] = __float_as_uint(__uint_as_float(x[q]) - __uint_as_float(high[q])) & kHigh;
    }
  }
  static SSLKERN_DEVICE void multiply(float (&c)[4], const unsigned (&a)[4],
                                      const unsigned (&b)[2]) {
    unsigned a_high[4], a_low[4], b_high[2], b_low[2];
    split(a, a_high, a_low);
    split(b, b_high, b_low);
    platform::mma_tf32(c, a_low, b_high);
    platform::mma_tf32(c, a_high, b_low);
    platform::mma_tf32(c, a_high, b_high);
  }
};

// Multiply-adds, for checks in float64.
struct F64 : Shape<64> {
  using Element = double;
  using Working = double;
  static constexpr int kRun = 2, kMinBlocks = 1;
  static SSLKERN_DEVICE int column_of(int j, int i, int t) { return 8 * j + 2 * t + i; }
  static SSLKERN_DEVICE int swizzle_b(int row) { return row & 7; }
  static SSLKERN_DEVICE uint4 run_of(const double* x) {
    uint4 run;
    memcpy(&run, x, kPieceBytes);
    return run;
  }
};

// Calls f(P{}).
template <class F>
void with_product(Dtype dtype, bool tf32, const F& f) {
  switch (dtype) {
    case Dtype::kFloat64:
      return f(F64{});
    case Dtype::kFloat32:
      return tf32 ? f(Tf32{}) : f(Tf32x3{});
    case Dtype::kBFloat16:
      return f(Bf16{});
    case Dtype::kFloat16:
      return f(F16{});
  }
}

SSLKERN_DEVICE int swizzle_a(int row) { return row & 7; }

// Where piece `piece` of a row is in a chunk: eight rows that are read together lie in eight
// different groups of banks.
SSLKERN_DEVICE int chunk_offset(int row, int swizzle, int piece) {
  return (row * kPieces + (piece ^ swizzle)) * kPieceBytes;
}

// A warp's place in the tile of its block, and a lane's in that.
template <class P>
struct Place {
  int row, column;  // first of the warp's
  int g, t, lane;

  static SSLKERN_DEVICE Place here() {
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32;
    return {warp / P::kWarpsAcross * P::kWarpRows, warp % P::kWarpsAcross * P::kWarpColumns,
            lane / 4, lane % 4, lane};
  }
  // Of element [m][j][2 h + i], within the tile of the block.
  SSLKERN_DEVICE int row_of(int m, int h) const { return row + 16 * m + 8 * h + g; }
  SSLKERN_DEVICE int column_of(int j, int i) const { return column + P::column_of(j, i, t); }
};

template <class P>
using Results = typename P::Working[P::kM][P::kN][4];

template <class P>
SSLKERN_DEVICE void clear(Results<P>& c) {
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int j = 0; j < P::kN; ++j) {
#pragma unroll
      for (int q = 0; q < 4; ++q) c[m][j][q] = 0;
    }
  }
}

// Adds the products of step `step` of two chunks in shared memory to the warp's results. Addresses
// are a few numbers of the lane and constants: rows of other matrices are a constant apart, and
// pieces of other steps differ in bits that the swizzle (r, for A as for B) leaves alone.
template <class P>
SSLKERN_DEVICE void multiply_step(Results<P>& c, const unsigned char* a, const unsigned char* b,
                                  int step, const Place<P>& at) {
  const int matrix = at.lane / 8, r = at.lane % 8;
  // B: both halves of the step's bytes for columns j, then for columns j + 1.
  const int b_row = at.column + P::column_of(matrix / 2, r % 2, r / 2);
  const unsigned char* const b_lane = b + chunk_offset(b_row, r, matrix % 2 ^ 2 * step);
  unsigned b_registers[P::kN][2];
#pragma unroll
  for (int j = 0; j < P::kN; j += 2) {
    unsigned four[4];
    platform::load_matrix_x4(four, b_lane + P::column_of(j, 0, 0) * kPieces * kPieceBytes);
    b_registers[j][0] = four[0];
    b_registers[j][1] = four[1];
    b_registers[j + 1][0] = four[2];
    b_registers[j + 1][1] = four[3];
  }
  // A: rows 0 to 7 and 8 to 15 for the first half of the bytes, then for the second.
  const int a_row = at.row + matrix % 2 * 8 + r;
  const unsigned char* const a_lane = a + chunk_offset(a_row, r, matrix / 2 ^ 2 * step);
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
    unsigned a_registers[4];
    platform::load_matrix_x4(a_registers, a_lane + 16 * m * kPieces * kPieceBytes);
#pragma unroll
    for (int j = 0; j < P::kN; ++j) P::multiply(c[m][j], a_registers, b_registers[j]);
  }
}

template <>
SSLKERN_DEVICE void multiply_step<F64>(Results<F64>& c, const unsigned char* a,
                                       const unsigned char* b, int step, const Place<F64>& at) {
#pragma unroll
  for (int piece = 2 * step; piece < 2 * step + 2; ++piece) {
#pragma unroll
    for (int m = 0; m < F64::kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = at.row_of(m, h);
        const double2 x =
            *reinterpret_cast<const double2*>(a + chunk_offset(row, swizzle_a(row), piece));
#pragma unroll
        for (int j = 0; j < F64::kN; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int column = at.column_of(j, i);
            const double2 y = *reinterpret_cast<const double2*>(
                b + chunk_offset(column, F64::swizzle_b(column), piece));
            c[m][j][2 * h + i] += x.x * y.x + x.y * y.y;
          }
        }
      }
    }
  }
}

}  // namespace sslkern::cuda
