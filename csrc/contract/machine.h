// What the CPU backend can say about itself and the processor.
#pragma once
#include <cstdint>

#include "contract/types.h"

namespace sslkern::cpu {

struct FmaPeak {
  Dtype dtype;           // kFloat64 or kFloat32
  std::int64_t repeats;  // of about 30000 (AVX-512) to 8000 (SSE2) multiply-adds
  int threads;
  float* out;  // keeps the work from being optimised away
};

// Runs the micro-kernel of all tile products on data that stay in L1; returns the multiply-adds
// done. Time it from outside: the result is the ceiling for every kernel here.
std::int64_t fma_peak(const FmaPeak&);

}  // namespace sslkern::cpu
