// The kernels of sampled logits; see contract/sampled_logits.h for formulas and letters.
//
// Nothing is reused between samples but the query, so speed is the number of rows on their way: a
// warp asks for eight at once, each lane for 16 bytes of a float32 row (8 of half types), before it
// uses any. Floor: the bytes of N K rows in either direction and two operations per element of
// them, half an operation per byte in float32: memory decides. Rows shorter than a chunk, 512 bytes
// (256 of half types), leave lanes without work.
#pragma once
#include "contract/sampled_logits.h"
#include "cuda/block.cuh"
#include "cuda/dtype.cuh"
#include "cuda/vector.cuh"

namespace sslkern::cuda {

constexpr int kSampleThreads = 256, kSampleWarps = kSampleThreads / 32;
constexpr int kRowsAtOnce = 8;
// Of a multiprocessor, at least: 128 registers for a thread, and 64 KiB of rows on their way.
constexpr int kSampleBlocks = 2;

// A chunk of a row is what a warp holds of it: kDims adjacent dims for each lane. All dims are
// owned by the same lanes whether rows are aligned or not, so results have the same bits.
template <class E, bool kAligned>
struct LaneRow {
  using T = typename ElementOf<E>::Working;
  static constexpr int kDims = sizeof(E) == 8 ? 2 : 4, kChunk = 32 * kDims;
  using Values = T[kDims];
  using V = Vector<E, kDims>;

  // Dims d, d + 1 .. of a row of D; zeros behind its end.
  static SSLKERN_DEVICE void read(const E* row, std::int64_t d, std::int64_t D, Values& x) {
    if constexpr (kAligned) {
      const V v = d < D ? load_vector<V>(row + d) : filled_vector<V>(Rounded<E>::from(T(0)));
#pragma unroll
      for (int j = 0; j < kDims; ++j) x[j] = to_working(v.x[j]);
    } else {
#pragma unroll
      for (int j = 0; j < kDims; ++j) x[j] = d + j < D ? to_working(row[d + j]) : T(0);
    }
  }

  static SSLKERN_DEVICE void write(const Values& x, E* row, std::int64_t d, std::int64_t D) {
    if constexpr (kAligned) {
      V v;
#pragma unroll
      for (int j = 0; j < kDims; ++j) v.x[j] = Rounded<E>::from(x[j]);
      if (d < D) store_vector(v, row, d / kDims);
    } else {
#pragma unroll
      for (int j = 0; j < kDims; ++j) {
        if (d + j < D) row[d + j] = Rounded<E>::from(x[j]);
      }
    }
  }
};

template <class E>
constexpr std::int64_t chunks_of(std::int64_t D) {
  constexpr int kChunk = LaneRow<E, true>::kChunk;
  return (D + kChunk - 1) / kChunk;
}

// What a lane knows of a sample: where its row begins, and a weight or 0. An index without a row
// gets the first row, of which nothing but NaN may come.
template <class T>
struct LaneSample {
  std::int64_t offset;  // elements
  T weight;
  bool exists;

  static SSLKERN_DEVICE LaneSample of(const SampledLogitsInput& in, std::int64_t sample) {
    const std::int64_t index = in.index[sample];
    const bool exists = index >= 0 && index < in.V;
    return {(exists ? index : 0) * in.stride_table, T(0), exists};
  }
};

// Adds up eight values over the lanes, in the same tree for each: lane l gets the sum of value
// l / 4. Each level halves what a lane has left: 9 exchanges instead of 40.
template <class T>
SSLKERN_DEVICE T sum_eight(const T (&x)[kRowsAtOnce], int lane) {
  T four[4], two[2];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const bool upper = (lane & 16) != 0;
    four[j] = (upper ? x[j + 4] : x[j]) + __shfl_xor_sync(kAllLanes, upper ? x[j] : x[j + 4], 16);
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const bool upper = (lane & 8) != 0;
    two[j] = (upper ? four[j + 2] : four[j]) +
             __shfl_xor_sync(kAllLanes, upper ? four[j] : four[j + 2], 8);
  }
  const bool upper = (lane & 4) != 0;
  T one = (upper ? two[1] : two[0]) + __shfl_xor_sync(kAllLanes, upper ? two[0] : two[1], 4);
  one += __shfl_xor_sync(kAllLanes, one, 2);
  return one + __shfl_xor_sync(kAllLanes, one, 1);
}

// Grid (groups of a query's samples / kSampleWarps), block kSampleThreads, no shared memory: a warp
// per query and eight of its samples. Where fewer are left the last is read again, from the first
// cache. Reads K rows of the table per query, and the query once for eight of them; sums each
// lane's dims in the working type, then lanes in a tree.
template <class E, bool kAligned>
__global__ void __launch_bounds__(kSampleThreads, kSampleBlocks)
    sampled_logits_fwd_kernel(SampledLogitsDots p) {
  using T = typename ElementOf<E>::Working;
  using Row = LaneRow<E, kAligned>;
  const SampledLogitsInput& in = p.in;
  const int lane = int(threadIdx.x) % 32;
  const std::int64_t groups = (in.K + kRowsAtOnce - 1) / kRowsAtOnce;
  const std::int64_t task = std::int64_t(blockIdx.x) * kSampleWarps + threadIdx.x / 32;
  if (task >= in.N * groups) return;
  const std::int64_t i = task / groups, first = task % groups * kRowsAtOnce;
  const int count = int(min(std::int64_t(kRowsAtOnce), in.K - first));
  const auto own = LaneSample<T>::of(in, i * in.K + first + min(lane, count - 1));
  const E* const query = static_cast<const E*>(in.query) + i * in.stride_query;
  const E* rows[kRowsAtOnce];
  T sum[kRowsAtOnce];
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    rows[r] = static_cast<const E*>(in.table) + __shfl_sync(kAllLanes, own.offset, r);
    sum[r] = 0;
  }
  for (std::int64_t base = 0; base < in.D; base += Row::kChunk) {
    const std::int64_t d = base + lane * Row::kDims;
    typename Row::Values q, x[kRowsAtOnce];
    Row::read(query, d, in.D, q);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) Row::read(rows[r], d, in.D, x[r]);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
#pragma unroll
      for (int j = 0; j < Row::kDims; ++j) sum[r] += q[j] * x[r][j];
    }
  }
  const T logit = sum_eight(sum, lane);
  const int r = lane / 4;
  const bool exists = __shfl_sync(kAllLanes, int(own.exists), r) != 0;
  if (lane % 4 == 0 && r < count) {
    static_cast<T*>(p.logits)[i * in.K + first + r] = exists ? logit : T(NAN);
  }
}

// sum += weighted rows of eight samples, of which the lanes r < count know one each. They are
// summed before they join, so that an addition rounds at the size of the total once for all.
template <class Row, class E, class T>
SSLKERN_DEVICE void add_rows(const E* rows, const LaneSample<T>& own, int count, std::int64_t d,
                             std::int64_t D, typename Row::Values& sum) {
  typename Row::Values x[kRowsAtOnce], part = {};
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    Row::read(rows + __shfl_sync(kAllLanes, own.offset, r), d, D, x[r]);
  }
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    const T weight = __shfl_sync(kAllLanes, own.weight, r);
#pragma unroll
    for (int j = 0; j < Row::kDims; ++j) {
      if (r < count) part[j] += weight * x[r][j];
    }
  }
#pragma unroll
  for (int j = 0; j < Row::kDims; ++j) sum[j] += part[j];
}

// The sums of the block's warps, in their order, in the first of them.
template <int kDims, class T>
SSLKERN_DEVICE void add_warps(T (&x)[kDims]) {
  SSLKERN_SHARED(T, of_warps, [kSampleWarps][32][kDims]);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
#pragma unroll
  for (int j = 0; j < kDims; ++j) of_warps[warp][lane][j] = x[j];
  __syncthreads();
  if (warp != 0) return;
  for (int w = 1; w < kSampleWarps; ++w) {
#pragma unroll
    for (int j = 0; j < kDims; ++j) x[j] += of_warps[w][lane][j];
  }
}

// Grid (queries x chunks, a team each), block kSampleThreads; a team is a warp, or where a query
// has many samples a block, whose warps take eight of them in turn and share 32 values of kDims
// each at the end (4 KiB). Which depends on K alone. Reads a chunk of K rows of the table and
// writes it of one; sums in the working type.
template <class E, int kTeam, bool kAligned>
__global__ void __launch_bounds__(kSampleThreads, kSampleBlocks)
    sampled_logits_query_kernel(SampledLogitsQueryGradient p) {
  using T = typename ElementOf<E>::Working;
  using Row = LaneRow<E, kAligned>;
  constexpr int kWarps = kTeam / 32;
  const SampledLogitsInput& in = p.in;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const std::int64_t chunks = chunks_of<E>(in.D);
  const std::int64_t team = (std::int64_t(blockIdx.x) * kSampleWarps + warp) / kWarps;
  const std::int64_t i = team / chunks, d = team % chunks * Row::kChunk + lane * Row::kDims;
  typename Row::Values sum = {};
  for (std::int64_t first = warp % kWarps * kRowsAtOnce; i < in.N && first < in.K;
       first += kWarps * kRowsAtOnce) {
    const int count = int(min(std::int64_t(kRowsAtOnce), in.K - first));
    const std::int64_t sample = i * in.K + first + min(lane, count - 1);
    auto own = LaneSample<T>::of(in, sample);
    own.weight = own.exists ? static_cast<const T*>(p.grad_logits)[sample] : T(NAN);
    add_rows<Row>(static_cast<const E*>(in.table), own, count, d, in.D, sum);
  }
  if constexpr (kWarps > 1) add_warps(sum);
  if (warp % kWarps == 0 && i < in.N) {
    Row::write(sum, static_cast<E*>(p.grad_query) + i * in.D, d, in.D);
  }
}

// ---- the gradient of the table: samples sorted by row, in tiles of kSortedTile

// A tile of sorted samples and what lies beside it. Rows outside the table are those of indices
// that name none.
struct SortedTile {
  const SampledLogitsTableGradient& p;
  std::int64_t tile, begin, end, total;

  SSLKERN_DEVICE SortedTile(const SampledLogitsTableGradient& p, std::int64_t tile)
      : p(p), tile(tile), begin(tile * kSortedTile), total(p.in.N * p.in.K) {
    end = min(begin + kSortedTile, total);
  }

  SSLKERN_DEVICE std::int64_t row_at(std::int64_t place) const {
    if (place < 0 || place >= total) return -2;  // nothing is beside
    return p.wide ? static_cast<const std::int64_t*>(p.row)[place]
                  : std::int64_t(static_cast<const std::int32_t*>(p.row)[place]);
  }
  SSLKERN_DEVICE bool has_row(std::int64_t row) const { return row >= 0 && row < p.in.V; }

  // The first run, where it began in another tile; the last, where it goes on in the next.
  template <class T>
  SSLKERN_DEVICE T* open_run(std::int64_t of_tile, int last, std::int64_t padded_D) const {
    return static_cast<T*>(p.open) + (2 * of_tile + last) * padded_D;
  }
};

// Grid (tiles x chunks / kSampleWarps), a warp for each. A run of samples of the same row that lies
// within the tile is written where it belongs, of others the part. Samples are added one by one in
// their order. Reads a row of queries per sample, which caches may hold.
template <class E, bool kAligned>
__global__ void __launch_bounds__(kSampleThreads, kSampleBlocks)
    sampled_logits_tiles_kernel(SampledLogitsTableGradient p) {
  using T = typename ElementOf<E>::Working;
  using Row = LaneRow<E, kAligned>;
  using Part = LaneRow<T, true>;
  const SampledLogitsInput& in = p.in;
  const int lane = int(threadIdx.x) % 32;
  const std::int64_t chunks = chunks_of<E>(in.D);
  const std::int64_t task = std::int64_t(blockIdx.x) * kSampleWarps + threadIdx.x / 32;
  const SortedTile tile(p, task / chunks);
  if (tile.begin >= tile.total) return;
  const std::int64_t d = task % chunks * Row::kChunk + lane * Row::kDims;
  const std::int64_t padded_D = chunks * Row::kChunk;
  const std::int64_t before = tile.row_at(tile.begin - 1), after = tile.row_at(tile.end);
  std::int64_t current = tile.row_at(tile.begin);
  typename Row::Values sum = {};
  const auto finish_run = [&]() {
    if (current == before || current == after) {
      const int last = current != before;
      Part::write(sum, tile.open_run<T>(tile.tile, last, padded_D), d, padded_D);
    } else if (tile.has_row(current)) {
      Row::write(sum, static_cast<E*>(p.grad_table) + current * in.D, d, in.D);
    }
  };
  for (std::int64_t first = tile.begin; first < tile.end; first += 32) {
    const int there = int(min(std::int64_t(32), tile.end - first));
    const std::int64_t place = first + min(lane, there - 1), sample = p.order[place];
    const std::int64_t own_row = tile.row_at(place);
    const std::int64_t own_offset = sample / in.K * in.stride_query;
    const T own_weight = static_cast<const T*>(p.grad_logits)[sample];
    for (int step = 0; step < there; step += kRowsAtOnce) {
      typename Row::Values x[kRowsAtOnce];
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        const std::int64_t offset = __shfl_sync(kAllLanes, own_offset, step + r);
        Row::read(static_cast<const E*>(in.query) + offset, d, in.D, x[r]);
      }
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        const std::int64_t row = __shfl_sync(kAllLanes, own_row, step + r);
        const T weight = __shfl_sync(kAllLanes, own_weight, step + r);
        if (step + r >= there) continue;
        if (row != current) {
          finish_run();
          current = row;
#pragma unroll
          for (int j = 0; j < Row::kDims; ++j) sum[j] = 0;
        }
#pragma unroll
        for (int j = 0; j < Row::kDims; ++j) sum[j] += weight * x[r][j];
      }
    }
  }
  finish_run();
}

// Grid (tiles x chunks), block kSampleThreads: the run that goes on behind a tile is finished by
// the block of the tile in which it begins; others have nothing to do. Warps take eight of the
// following tiles in turn.
template <class E, bool kAligned>
__global__ void __launch_bounds__(kSampleThreads, kSampleBlocks)
    sampled_logits_runs_kernel(SampledLogitsTableGradient p) {
  using T = typename ElementOf<E>::Working;
  using Row = LaneRow<E, kAligned>;
  using Part = LaneRow<T, true>;
  const SampledLogitsInput& in = p.in;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const std::int64_t chunks = chunks_of<E>(in.D);
  const SortedTile tile(p, std::int64_t(blockIdx.x) / chunks);
  const std::int64_t d = std::int64_t(blockIdx.x) % chunks * Row::kChunk + lane * Row::kDims;
  const std::int64_t padded_D = chunks * Row::kChunk, row = tile.row_at(tile.end - 1);
  const bool begins_here = tile.row_at(tile.begin - 1) != row;
  const bool has_run = begins_here && tile.row_at(tile.end) == row && tile.has_row(row);
  typename Part::Values sum = {};
  if (has_run && warp == 0) Part::read(tile.open_run<T>(tile.tile, 1, padded_D), d, padded_D, sum);
  int count = has_run ? kRowsAtOnce : 0;
  for (std::int64_t first = tile.tile + 1 + warp * kRowsAtOnce; count == kRowsAtOnce;
       first += kSampleWarps * kRowsAtOnce) {
    const std::int64_t other = first + min(lane, kRowsAtOnce - 1);
    const bool goes_on = tile.row_at(other * kSortedTile) == row;
    count = __popc(__ballot_sync(kAllLanes, lane < kRowsAtOnce && goes_on));
    if (count == 0) break;
    const std::int64_t part = goes_on ? 2 * other : 2 * tile.tile + 1;  // there, but not counted
    add_rows<Part>(static_cast<const T*>(p.open), LaneSample<T>{part * padded_D, T(1), true}, count,
                   d, padded_D, sum);
  }
  add_warps(sum);
  if (has_run && warp == 0) {
    Row::write(sum, static_cast<E*>(p.grad_table) + row * in.D, d, in.D);
  }
}

}  // namespace sslkern::cuda
