// What every CUDA entry gets besides its parameters, and what the emulation of a GPU is told.
#pragma once
#include <cstdint>

#include "contract/types.h"

namespace sslkern::cuda {

// How a kernel is to be launched.
struct Launch {
  void* stream;  // cudaStream_t; null on the emulation
  bool tf32;     // float32 products rounded to tf32, where torch's settings allow it
};

// Memory that kernels may touch, for the emulation; null on hardware.
struct Memory {
  void* (*know)(const void* data, std::int64_t bytes, bool initialised);
  void (*forget)(void* known);
};

}  // namespace sslkern::cuda
