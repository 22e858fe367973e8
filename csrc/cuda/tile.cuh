// Tiles of the products of two sets of packed rows (contract/packed.h), one after the other through
// shared memory: what every similarity kernel does until it has a tile in registers.
//
// A block owns one tile of rows of A and walks along tiles of rows of B. Chunks of 128 bytes of
// both are copied while the previous ones are multiplied: two buffers, one barrier per chunk. Where
// all chunks of A fit into shared memory they stay there, and B alone is read again: of the bytes
// that the products need from global memory, half. Rows and dims are padded, so no copy asks for
// bounds.
//
// Per chunk and block: 32 KiB copied (16 with A resident), 4 steps of kM x kN matrix instructions
// and kM + kN / 2 ldmatrix per warp.
#pragma once
#include "contract/packed.h"
#include "cuda/block.cuh"
#include "cuda/product.cuh"

namespace sslkern::cuda {

constexpr int kChunkBytes = 128;

template <class P>
constexpr int kStageBytes = P::kSide * kChunkBytes;

// What one block walks along.
struct Walk {
  const unsigned char* a;  // first row of the tile of A
  const unsigned char* b;  // first row of B
  int row_bytes;           // of both
  int chunks;              // of a row
  int begin, end;          // tiles of B
};

// The walk of block (x, y) of a grid of (tiles of A, splits of B's tiles).
template <class P>
SSLKERN_DEVICE Walk walk_of(const PackedRows& a, std::int64_t first_row, const PackedRows& b,
                            std::int64_t splits) {
  const std::int64_t row_bytes = a.padded_D() * std::int64_t(sizeof(typename P::Element));
  const std::int64_t tiles = b.padded_N() / P::kSide, split = blockIdx.y;
  const std::int64_t row = first_row + std::int64_t(blockIdx.x) * P::kSide;
  return {static_cast<const unsigned char*>(a.rows) + row * row_bytes,
          static_cast<const unsigned char*>(b.rows),
          int(row_bytes),
          int(row_bytes / kChunkBytes),
          int(tiles * split / splits),
          int(tiles * (split + 1) / splits)};
}

// Dynamic shared memory: the tiles, behind them what the kernel needs besides.
struct SharedNeed {
  std::int64_t tiles, bytes;
  bool resident;  // A stays
};

template <class P>
SharedNeed shared_need(std::int64_t padded_dims, std::int64_t besides, bool may_stay = true) {
  const std::int64_t chunks = padded_dims * std::int64_t(sizeof(typename P::Element)) / kChunkBytes;
  const std::int64_t whole = (chunks + 2) * kStageBytes<P>, streamed = 4 * kStageBytes<P>;
  const bool resident = may_stay && whole + besides <= platform::most_shared_bytes();
  const std::int64_t tiles = resident ? whole : streamed;
  return {tiles, tiles + besides, resident};
}

// In the kernel: where the tiles end.
template <class P, bool kResident>
SSLKERN_DEVICE unsigned char* behind_tiles(unsigned char* shared, const Walk& w) {
  return shared + (kResident ? w.chunks + 2 : 4) * kStageBytes<P>;
}

// `from` is the piece of this thread in the first row that it copies; the next is kThreads /
// kPieces rows on. Their numbers in the swizzle are the same if that is a multiple of what it looks
// at.
template <class P, class Swizzle>
SSLKERN_DEVICE void copy_chunk(unsigned char* to, const unsigned char* from, int row_bytes,
                               const Swizzle& swizzle) {
  constexpr int kRowsAtOnce = P::kThreads / kPieces;
  static_assert(kRowsAtOnce % 32 == 0);
  const int row = int(threadIdx.x) / kPieces, piece = int(threadIdx.x) % kPieces;
  unsigned char* const lane_to = to + chunk_offset(row, swizzle(row), piece);
#pragma unroll
  for (int q = 0; q < P::kSide / kRowsAtOnce; ++q) {
    platform::copy_async(lane_to + q * kRowsAtOnce * kChunkBytes, from, kPieceBytes);
    from += kRowsAtOnce * row_bytes;
  }
}

// Calls f(value, m, h, j, i) for each; row_of(m, h) and column_of(j, i) of its Place say where.
template <class P, class F>
SSLKERN_DEVICE void for_each_result(Results<P>& c, const F& f) {
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < P::kN; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) f(c[m][j][2 * h + i], m, h, j, i);
      }
    }
  }
}

// Adds the products of two chunks to the warp's results.
template <class P>
SSLKERN_DEVICE void multiply_chunk(Results<P>& c, const unsigned char* a, const unsigned char* b,
                                   const Place<P>& at) {
  const auto add_to = [&](Results<P>& sums) {
#pragma unroll
    for (int step = 0; step < kChunkBytes / 32; ++step) multiply_step<P>(sums, a, b, step, at);
  };
  if constexpr (P::kAddsChunks) {
    Results<P> own;
    clear<P>(own);
    add_to(own);
    for_each_result<P>(
        own, [&](typename P::Working x, int m, int h, int j, int i) { c[m][j][2 * h + i] += x; });
  } else {
    add_to(c);
  }
}

// Calls finish(c, tile) for every tile of the walk, with the products in c. `shared` is the dynamic
// shared memory; nobody reads or writes it any more once the block has met another barrier.
template <class P, bool kResident, class Finish>
SSLKERN_DEVICE void for_each_tile(const Walk& w, unsigned char* shared, const Finish& finish) {
  const auto swizzle_of_a = [](int row) { return swizzle_a(row); };
  const auto swizzle_of_b = [](int row) { return P::swizzle_b(row); };
  unsigned char* const a_stages = shared;
  unsigned char* const b_stages = shared + (kResident ? w.chunks : 2) * kStageBytes<P>;
  const int lane_offset =
      int(threadIdx.x) / kPieces * w.row_bytes + int(threadIdx.x) % kPieces * kPieceBytes;
  const unsigned char* const a_lane = w.a + lane_offset;
  const unsigned char* const b_lane = w.b + lane_offset;
  const auto load = [&](int tile, int chunk, int buffer) {
    const int offset = chunk * kChunkBytes;
    if (!kResident || tile == w.begin) {
      copy_chunk<P>(a_stages + (kResident ? chunk : buffer) * kStageBytes<P>, a_lane + offset,
                    w.row_bytes, swizzle_of_a);
    }
    copy_chunk<P>(b_stages + buffer * kStageBytes<P>,
                  b_lane + std::int64_t(tile) * (P::kSide * w.row_bytes) + offset, w.row_bytes,
                  swizzle_of_b);
    platform::commit_copies();
  };
  const Place<P> at = Place<P>::here();
  Results<P> c;
  int buffer = 0;
  if (w.begin < w.end) load(w.begin, 0, 0);
  for (int tile = w.begin; tile < w.end; ++tile) {
    clear<P>(c);
    for (int chunk = 0; chunk < w.chunks; ++chunk) {
      platform::wait_for_copies<0>();
      __syncthreads();  // this chunk is there for all, the other buffer has been read by all
      const bool last = chunk + 1 == w.chunks;
      if (!last || tile + 1 < w.end) load(last ? tile + 1 : tile, last ? 0 : chunk + 1, buffer ^ 1);
      const unsigned char* a = a_stages + (kResident ? chunk : buffer) * kStageBytes<P>;
      const unsigned char* b = b_stages + buffer * kStageBytes<P>;
      multiply_chunk<P>(c, a, b, at);
      buffer ^= 1;
    }
    finish(c, tile);
  }
}

// ---- what is done with results

// One value per column (row) of a lane's results.
template <class P>
using ColumnValues = typename P::Working[P::kN][2];
template <class P>
using RowValues = typename P::Working[P::kM][2];

// The vector of a run of elements of 16 bytes, or of its working values.
template <class P>
SSLKERN_DEVICE void load_columns(ColumnValues<P>& v, const void* values, std::int64_t first_column,
                                 const Place<P>& at) {
  using T = typename P::Working;
  constexpr int kPerVector = kPieceBytes / int(sizeof(T));
  const T* from = static_cast<const T*>(values) + first_column;
#pragma unroll
  for (int j = 0; j < P::kN; j += kPerVector / 2) {
    alignas(kPieceBytes) T four[kPerVector];
    const float4 vector = *reinterpret_cast<const float4*>(from + at.column_of(j, 0));
    memcpy(four, &vector, kPieceBytes);
#pragma unroll
    for (int q = 0; q < kPerVector; ++q) v[j + q / 2][q % 2] = four[q];
  }
}

template <class P>
SSLKERN_DEVICE typename P::Working row_value(const void* values, int first_row, int m, int h,
                                             const Place<P>& at) {
  return static_cast<const typename P::Working*>(values)[first_row + at.row_of(m, h)];
}

template <class P>
SSLKERN_DEVICE void load_rows(RowValues<P>& v, const void* values, std::int64_t first_row,
                              const Place<P>& at) {
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      v[m][h] = static_cast<const typename P::Working*>(values)[first_row + at.row_of(m, h)];
    }
  }
}

// One row of a lane's results.
template <class P>
using RowResults = typename P::Working[2 * P::kN];

// Replaces the results of each row by f(row of the block's tile, its results), a row at a time:
// what f needs beside them is in registers for one row alone.
template <class P, class F>
SSLKERN_DEVICE void for_each_row(Results<P>& c, const Place<P>& at, const F& f) {
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      RowResults<P> x;
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q) x[q] = c[m][q / 2][2 * h + q % 2];
      f(at.row_of(m, h), x);
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q) c[m][q / 2][2 * h + q % 2] = x[q];
    }
  }
}

// Where a lane stores its results, a row after the other as for_each_row gives them. One pointer
// goes along: those of all rows beside a tile are too many registers.
template <class P>
struct RowPointer {
  uint4* to;  // pieces of 16 bytes
  std::int64_t pitch;

  static constexpr int kPerPiece = kPieceBytes / int(sizeof(typename P::Element));

  // `first` is element (0, 0) of the block's tile, `elements` the distance of rows.
  SSLKERN_DEVICE RowPointer(void* first, std::int64_t elements, const Place<P>& at)
      : to(static_cast<uint4*>(first) + at.row_of(0, 0) * (elements / kPerPiece) +
           at.column_of(0, 0) / kPerPiece),
        pitch(elements / kPerPiece) {}

  // As elements.
  SSLKERN_DEVICE void store(const RowResults<P>& x) {
#pragma unroll
    for (int first = 0; first < 2 * P::kN; first += P::kRun) {
      to[P::column_of(first / 2, 0, 0) / kPerPiece] = P::run_of(x + first);
    }
    to += 8 * pitch;
  }
};

// The sum over the block, once its tiles in `shared` are no longer needed.
template <class P>
SSLKERN_DEVICE void write_block_sum(double x, double* to, unsigned char* shared) {
  __syncthreads();
  x = block_reduce<P::kThreads>(x, 0.0, reinterpret_cast<double*>(shared),
                                [](double v) { return warp_sum(v); });
  if (threadIdx.x == 0) *to = x;
}

}  // namespace sslkern::cuda
