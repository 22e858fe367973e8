// Reductions of warps and blocks, in an order that does not depend on anything but their size.
#pragma once
#include "platform/platform.h"

namespace sslkern::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

SSLKERN_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
SSLKERN_DEVICE double larger(double a, double b) { return fmax(a, b); }

// The same value in every lane.
template <class T>
SSLKERN_DEVICE T warp_sum(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    x += __shfl_xor_sync(kAllLanes, x, distance);
  }
  return x;
}

// NaN is passed over.
template <class T>
SSLKERN_DEVICE T warp_max(T x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    x = larger(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  return x;
}

// Of a block of kThreads, in its first warp. `scratch` is one T per warp in shared memory, which
// nobody may touch before the block's next barrier.
template <int kThreads, class T, class Reduce>
SSLKERN_DEVICE T block_reduce(T x, T identity, T* scratch, const Reduce& of_warp) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  x = of_warp(x);
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return of_warp(warp == 0 && lane < kThreads / 32 ? scratch[lane] : identity);
}

}  // namespace sslkern::cuda
