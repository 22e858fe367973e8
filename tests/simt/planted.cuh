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
  // similarity
  kWaitForTooFew,
  kNoBarrierBeforeReuse,
  kNoCommit,
  kSwappedRegisters,
  kReadRowsBeyondEnd,
  kNoBarrierAfterWait,
  kMisalignedCopy,
  kEndBeforeWait,
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
