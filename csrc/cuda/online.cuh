// Sums of powers of two with a running maximum, of rows whose scores come tile by tile.
#pragma once
#include "cuda/block.cuh"
#include "cuda/tile.cuh"

namespace sslkern::cuda {

// Of the rows of a lane's results, each over the columns that the lane has seen. Scores are in base
// 2; -infinity is no score. The state is in shared memory, where lanes find their own without bank
// conflicts: in registers, beside a tile, it would cost the second block of a multiprocessor.
template <class P>
struct OnlineRows {
  using T = typename P::Working;
  static constexpr int kRows = 2 * P::kM;
  static constexpr std::int64_t kBytes = 2 * kRows * P::kThreads * sizeof(T);

  T* state;  // kBytes of shared memory
  const Place<P>& at;

  SSLKERN_DEVICE T& max(int m, int h) const {
    return state[(2 * m + h) * P::kThreads + int(threadIdx.x)];
  }
  SSLKERN_DEVICE T& sum(int m, int h) const {
    return state[(kRows + 2 * m + h) * P::kThreads + int(threadIdx.x)];
  }

  SSLKERN_DEVICE void clear() const {
#pragma unroll
    for (int q = 0; q < kRows; ++q) {
      max(q / 2, q % 2) = Lowest<T>::value;
      sum(q / 2, q % 2) = 0;
    }
  }

  SSLKERN_DEVICE void add(const Results<P>& x) const {
#pragma unroll
    for (int m = 0; m < P::kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const T before = max(m, h);
        T next = before;
#pragma unroll
        for (int q = 0; q < 2 * P::kN; ++q) next = larger(next, x[m][q / 2][2 * h + q % 2]);
        T total = sum(m, h) * power_of_two(before - next);
#pragma unroll
        for (int q = 0; q < 2 * P::kN; ++q) {
          total += power_of_two(x[m][q / 2][2 * h + q % 2] - next);
        }
        sum(m, h) = total;
        max(m, h) = next;
      }
    }
  }

  // Adds total 2^largest to one row, with one exponential. A total of nothing leaves the maximum:
  // raised to that of other rows it could lie so far above this row's scores that their sum is
  // lost.
  SSLKERN_DEVICE void add_sum(int m, int h, T largest, T total) const {
    const T before = max(m, h);
    const bool higher = total != 0 && largest > before;
    const T down = power_of_two(-fabs(largest - before));
    sum(m, h) = higher ? sum(m, h) * down + total : sum(m, h) + total * down;
    max(m, h) = higher ? largest : before;
  }

  // Writes (max, sum) of the block's rows to `partial`, first of kSide pairs. `shared` holds
  // kWarpsAcross x kSide pairs, apart from the state. To be called by the whole block.
  SSLKERN_DEVICE void write(T* partial, T* shared) const {
    __syncthreads();  // the tiles in `shared` have been read by all
    const int warp_column = at.column / P::kWarpColumns;
#pragma unroll
    for (int m = 0; m < P::kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        T largest = max(m, h);
        largest = larger(largest, __shfl_xor_sync(kAllLanes, largest, 1));
        largest = larger(largest, __shfl_xor_sync(kAllLanes, largest, 2));
        T total = sum(m, h) * power_of_two(max(m, h) - largest);
        total += __shfl_xor_sync(kAllLanes, total, 1);
        total += __shfl_xor_sync(kAllLanes, total, 2);
        if (at.t == 0) {
          T* pair = shared + 2 * (warp_column * P::kSide + at.row_of(m, h));
          pair[0] = largest;
          pair[1] = total;
        }
      }
    }
    __syncthreads();
    for (int row = int(threadIdx.x); row < P::kSide; row += P::kThreads) {
      T largest = Lowest<T>::value, total = 0;
#pragma unroll
      for (int w = 0; w < P::kWarpsAcross; ++w) {
        largest = larger(largest, shared[2 * (w * P::kSide + row)]);
      }
#pragma unroll
      for (int w = 0; w < P::kWarpsAcross; ++w) {
        const T* pair = shared + 2 * (w * P::kSide + row);
        total += pair[1] * power_of_two(pair[0] - largest);
      }
      store_pair(partial, row, largest, total);
    }
  }
};

// sum 2^largest.
struct LogSum {
  double largest, sum;
};

// The pairs of a row in base 2 of all splits in their order, behind those that came before.
template <class T>
SSLKERN_DEVICE LogSum merged_sum(const LogSum& before, const T* partial, std::int64_t row,
                                 std::int64_t padded, std::int64_t splits) {
  double largest = before.largest;
  for (std::int64_t s = 0; s < splits; ++s) {
    largest = larger(largest, double(partial[2 * (s * padded + row)]));
  }
  double sum = before.sum == 0 ? 0 : before.sum * exp2(before.largest - largest);
  for (std::int64_t s = 0; s < splits; ++s) {
    const auto pair = load_pair(partial, s * padded + row);
    sum += double(pair.y) * exp2(double(pair.x) - largest);
  }
  return {largest, sum};
}

// Their log-sum-exp in base 2.
template <class T>
SSLKERN_DEVICE double merged_lse(const T* partial, std::int64_t row, std::int64_t padded,
                                 std::int64_t splits) {
  const LogSum x = merged_sum({Lowest<double>::value, 0}, partial, row, padded, splits);
  return x.largest + log2(x.sum);
}

}  // namespace sslkern::cuda
