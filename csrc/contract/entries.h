// The table of all CUDA entries. The kernels live in a library of their own, so that one module
// serves machines with and without them: nvcc's (csrc/cuda for hardware) or, for tests, the same
// sources on the emulation of csrc/platform. Either exports
//
//   extern "C" const sslkern::cuda::Entries* sslkern_cuda_entries();
#pragma once
#include "contract/cuda.h"
#include "contract/linear_cross_entropy.h"
#include "contract/ntxent.h"
#include "contract/packed.h"
#include "contract/siglip.h"

#define SSLKERN_CUDA_ENTRIES(X)                              \
  X(pack_rows, PackRows)                                     \
  X(largest_magnitude, LargestMagnitude)                     \
  X(finish_rows, FinishRows)                                 \
  X(sum_in_order, SumInOrder)                                \
  X(ntxent_fwd, NtxentSums)                                  \
  X(ntxent_weights, NtxentWeights)                           \
  X(ntxent_tiles, NtxentTiles)                               \
  X(siglip_weights, SiglipWeights)                           \
  X(siglip_lift, SiglipLift)                                 \
  X(siglip_tiles, SiglipTiles)                               \
  X(siglip_losses, SiglipLosses)                             \
  X(linear_cross_entropy_classes, LinearCrossEntropyClasses) \
  X(linear_cross_entropy_places, LinearCrossEntropyPlaces)   \
  X(linear_cross_entropy_fwd, LinearCrossEntropySums)        \
  X(linear_cross_entropy_weights, LinearCrossEntropyWeights) \
  X(linear_cross_entropy_tiles, LinearCrossEntropyTiles)     \
  X(linear_cross_entropy_bias, LinearCrossEntropyBias)

namespace sslkern::cuda {

struct Entries {
  std::int64_t bytes;  // of this table: that of another version is refused
  Memory memory;
#define SSLKERN_MEMBER(NAME, PARAMS) void (*NAME)(const PARAMS&, const Launch&);
  SSLKERN_CUDA_ENTRIES(SSLKERN_MEMBER)
#undef SSLKERN_MEMBER
};

}  // namespace sslkern::cuda
