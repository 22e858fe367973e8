// Kernels with a fault each, or with none (kNone), that the emulation has to report: see
// tests/test_simt.py for what each must be called. Some leave the result right.
#pragma once
#include "platform/platform.h"

enum class Fault {
  kNone,
  // block_sum
  kNoBarrier,
  kReadBeyondEnd,
  kWriteBeyondShared,
  kBarrierInBranch,
  kReadUnwritten,
  kShuffleInBranch,
  kAddWithoutAtomic,
  kExitBeforeBarrier,
  kTwoBarriers,
  kShuffleFromOutside,
  kInitialiseBesideAtomics,
  kReadBesideAtomics,
  // similarity
  kWaitForTooFew,
  kNoBarrierBeforeReuse,
  kNoCommit,
  kSwappedRegisters,
  kReadRowsBeyondEnd,
  kNoBarrierAfterWait,
  kMisalignedCopy,
  kEndBeforeWait,
  // rotate
  kNoSyncwarp,
  kNoSyncwarpBeforeReuse,
  kSyncwarpOfHalves,
  kLaneOutsideMask,
  kLaneThatIsNotThere,
  kMismatchedCollectives,
  kBlocksWriteTheSame,
  kReadUnwrittenGlobal,
  kWriteBeyondEnd,
  kWriteStaticVariable,
  kMisalignedVector,
  kTooManyThreads,
  kTooManyRowsOfBlocks,
  kTooMuchDynamicShared,
  kTooMuchShared,
  // fragments
  kWriteWhileCopying,
  kCopyTwice,
  kWriteSource,
  kWriteSourceAfterBarrier,
  kCopyTooMuch,
  kCopyToGlobal,
  kMisalignedMatrix,
  kMatrixInGlobal,
  kPartOfAWarp,
  kLeaveNewest,
};

// out += sum of x. Any grid; blocks of whole warps, at most 8. Shared: a float for each warp.
template <Fault kFault>
__global__ void __launch_bounds__(256) block_sum(const float* x, float* out, int n) {
  SSLKERN_SHARED(float, warp_sums, [8]);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const int end = kFault == Fault::kReadBeyondEnd ? n + 1 : n;
  float sum = 0;
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < end;
       i += int(gridDim.x * blockDim.x)) {
    sum += x[i];
  }
  for (int m = 16; m > 0; m /= 2) sum += __shfl_xor_sync(~0u, sum, m);
  if (lane == 0) warp_sums[kFault == Fault::kWriteBeyondShared ? warp + 1 : warp] = sum;
  if (kFault == Fault::kBarrierInBranch) {
    if (threadIdx.x < 128) __syncthreads();
  } else if (kFault == Fault::kTwoBarriers) {
    if (threadIdx.x < 128) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (kFault != Fault::kNoBarrier) {
    if (kFault == Fault::kExitBeforeBarrier && warp == 1) return;
    __syncthreads();
  }
  if constexpr (kFault == Fault::kInitialiseBesideAtomics || kFault == Fault::kReadBesideAtomics) {
    SSLKERN_SHARED(int, warps_done, [1]);
    if (threadIdx.x == 0) warps_done[0] = 0;
    if (kFault == Fault::kReadBesideAtomics) __syncthreads();
    if (lane == 0) atomicAdd(warps_done, 1);
    if (kFault == Fault::kInitialiseBesideAtomics) __syncthreads();
    if (threadIdx.x == 0 && warps_done[0] > 8) atomicAdd(out, 1.0f);  // never
  }
  if (warp != 0) return;
  const int warps = kFault == Fault::kReadUnwritten ? 8 : int(blockDim.x) / 32;
  sum = lane < warps ? warp_sums[lane] : 0;
  if (kFault == Fault::kShuffleInBranch && lane < 16) sum += __shfl_xor_sync(~0u, sum, 8);
  if (kFault == Fault::kShuffleFromOutside && lane < 4) sum += __shfl_sync(0xfu, sum, 9);
  for (int m = 16; m > 0; m /= 2) sum += __shfl_xor_sync(~0u, sum, m);
  if (lane != 0) return;
  if (kFault == Fault::kAddWithoutAtomic) {
    *out += sum;
  } else {
    atomicAdd(out, sum);
  }
}

// S = A B^T of bfloat16 rows, A (M, D), B (N, D), D a multiple of 32; S (M, N) float32.
// Grid (N / 64, M / 64) rounded up, block 128: a warp has 16 rows of the tile. Shared, dynamic: two
// stages of 64 rows of A and of B, 32 columns each, rows 80 bytes apart (16-byte aligned, and no
// two rows that a warp reads at a time in the same banks).
template <Fault kFault>
__global__ void __launch_bounds__(128)
    similarity(const std::uint16_t* A, const std::uint16_t* B, float* S, int M, int N, int D) {
  namespace platform = sslkern::platform;
  constexpr int kTile = 64, kDepth = 32, kPitch = kDepth + 8;
  SSLKERN_DYNAMIC_SHARED(std::uint16_t, stages);
  const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int group = lane / 4, place = lane % 4;
  const int row0 = int(blockIdx.y) * kTile, column0 = int(blockIdx.x) * kTile;
  const int steps = D / kDepth;
  const auto tile_of = [&](int step, int matrix) {
    return stages + ((step % 2) * 2 + matrix) * kTile * kPitch;
  };
  const auto copy = [&](int step, int matrix, const std::uint16_t* rows, int first, int count) {
    for (int v = thread; v < kTile * kDepth / 8; v += 128) {
      const int r = v / (kDepth / 8), c = v % (kDepth / 8) * 8;
      const bool there = kFault == Fault::kReadRowsBeyondEnd || first + r < count;
      const auto* from = rows + std::int64_t(there ? first + r : 0) * D + step * kDepth + c;
      const int shift = kFault == Fault::kMisalignedCopy ? 1 : 0;
      platform::copy_async(tile_of(step, matrix) + r * kPitch + c + shift, from, there ? 16 : 0);
    }
  };
  const auto load = [&](int step) {
    copy(step, 0, A, row0, M);
    copy(step, 1, B, column0, N);
    if (kFault != Fault::kNoCommit) platform::commit_copies();
  };
  float c[8][4] = {};
  load(0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) load(step + 1);
    if (kFault == Fault::kEndBeforeWait && step + 1 == steps) break;
    if (kFault == Fault::kWaitForTooFew) {
      platform::wait_for_copies<2>();
    } else if (step + 1 < steps) {
      platform::wait_for_copies<1>();
    } else {
      platform::wait_for_copies<0>();
    }
    if (kFault != Fault::kNoBarrierAfterWait) __syncthreads();
    for (int k = 0; k < kDepth; k += 16) {
      unsigned a[4];
      const auto* rows = tile_of(step, 0) + (warp * 16 + lane % 16) * kPitch + k + lane / 16 * 8;
      platform::load_matrix_x4(a, rows);
      if (kFault == Fault::kSwappedRegisters) {
        const unsigned kept = a[1];
        a[1] = a[2];
        a[2] = kept;
      }
      for (int j = 0; j < 8; ++j) {
        const auto* p = tile_of(step, 1) + (j * 8 + group) * kPitch + k + 2 * place;
        const unsigned b[2] = {*reinterpret_cast<const unsigned*>(p),
                               *reinterpret_cast<const unsigned*>(p + 8)};
        platform::mma_bf16(c[j], a, b);
      }
    }
    if (kFault != Fault::kNoBarrierBeforeReuse) __syncthreads();
  }
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      const int row = row0 + warp * 16 + group + (i >= 2 ? 8 : 0);
      const int column = column0 + j * 8 + 2 * place + i % 2;
      if (row < M && column < N) S[std::int64_t(row) * N + column] = c[j][i];
    }
  }
}

// out[i] = x[i + 1] in rings of 32 elements, with 0 for those beyond the end. Any grid; blocks of
// whole warps, at most 256 threads. Shared: an element for each thread.
template <Fault kFault>
__global__ void __launch_bounds__(256)
    rotate(const float* x, float* out, [[maybe_unused]] float* elsewhere, int n) {
  SSLKERN_SHARED(float, values, [256]);
  const int thread = int(threadIdx.x), lane = thread % 32;
  const int end = kFault == Fault::kWriteBeyondEnd ? n + 1 : n;
  unsigned mask = ~0u;
  if (kFault == Fault::kSyncwarpOfHalves) mask = lane < 16 ? 0xffffu : 0xffff0000u;
  if (kFault == Fault::kLaneOutsideMask) mask = 0x7fffffffu;
  if (kFault == Fault::kLaneThatIsNotThere) mask = 0x1ffffu;
  if constexpr (kFault == Fault::kTooMuchShared) {
    SSLKERN_SHARED(float, many, [8 << 10]);
    many[thread] = 0;
  }
  for (int base = int(blockIdx.x * blockDim.x); base < n; base += int(gridDim.x * blockDim.x)) {
    const int i = base + thread;
    values[thread] = i < n ? x[i] : 0;
    if (kFault == Fault::kMismatchedCollectives) {
      if (lane < 16) {
        __syncwarp();
      } else {
        values[thread] += __shfl_sync(~0u, 0.0f, 0);
      }
    } else if (kFault != Fault::kNoSyncwarp) {
      __syncwarp(mask);
    }
    float value = values[thread - lane + (lane + 1) % 32];
    if (kFault == Fault::kReadUnwrittenGlobal && i < n) value += out[i];
    if (kFault != Fault::kNoSyncwarpBeforeReuse) __syncwarp(mask);
    if (i < end) out[i] = value;
    if (kFault == Fault::kWriteStaticVariable && i == 0) *elsewhere = value;
    if (kFault == Fault::kMisalignedVector && i + 3 < n && i % 2 == 0) {
      const double two = *reinterpret_cast<const double*>(x + i + 1);
      if (two == 12345.0) out[i] = 0;
    }
  }
  if (kFault == Fault::kBlocksWriteTheSame && thread == 0) out[0] = x[1];
}

// words[4 lane + q]: what a lane gets of matrix q of X, 16 x 16, by load_matrix_x4. A warp.
// Shared: X with rows of 48 bytes, 16-byte aligned.
template <Fault kFault>
__global__ void __launch_bounds__(32) fragments(std::uint16_t* X, unsigned* words) {
  namespace platform = sslkern::platform;
  constexpr int kPitch = 24;
  SSLKERN_SHARED(std::uint16_t, rows, [16 * kPitch]);
  const int lane = int(threadIdx.x);
  for (int v = lane; v < 32; v += int(blockDim.x)) {
    auto* to = rows + v / 2 * kPitch + v % 2 * 8;
    auto* from = X + v * 8;
    if (kFault == Fault::kCopyToGlobal) to = X + 256 + v * 8;
    platform::copy_async(to, from, kFault == Fault::kCopyTooMuch ? 32 : 16);
    if (kFault == Fault::kCopyTwice) platform::copy_async(to, from, 8);
    if (kFault == Fault::kWriteWhileCopying) to[3] = from[3];
    if (kFault == Fault::kWriteSource) from[3] = 3;
  }
  platform::commit_copies();
  if (kFault == Fault::kWriteSourceAfterBarrier) {
    __syncthreads();
    X[lane * 8 ^ 8] = 3;
    __syncthreads();
  }
  platform::wait_for_copies<kFault == Fault::kLeaveNewest ? 1 : 0>();
  __syncthreads();
  const int offset = lane % 16 * kPitch + lane / 16 * 8;
  unsigned a[4];
  if (kFault == Fault::kMatrixInGlobal) {
    platform::load_matrix_x4(a, X + lane * 8);
  } else {
    platform::load_matrix_x4(a, rows + (kFault == Fault::kMisalignedMatrix ? offset ^ 2 : offset));
  }
  for (int q = 0; q < 4; ++q) words[4 * lane + q] = a[q];
}
