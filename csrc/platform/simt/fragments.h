// What lanes hold of the matrices of mma.sync and ldmatrix, after the PTX ISA ("Matrix fragments
// for mma", "Warp-level matrix load instruction"), and the instructions as combinations of what all
// lanes give. Lane = 4 group + place.
#pragma once
#include "platform/simt/runtime.h"

namespace sslkern::simt {

// What a lane gives: its registers of A, B and C.
struct MmaLane {
  std::uint32_t a[4], b[2];
  float c[4];
};
static_assert(sizeof(MmaLane) <= kMostLaneBytes);

// Put D where the lanes have given C.
void multiply_bf16(LaneData* lanes);
void multiply_f16(LaneData* lanes);
void multiply_tf32(LaneData* lanes);

// `out` is the four floats of D.
void combine_mma(const LaneData* in, unsigned mask, unsigned lane, const void*, void* out);

// What a lane gives: the address of a row of eight elements. `constant` points to a MatrixLoad,
// `out` is its registers.
struct MatrixLoad {
  int matrices;
  bool transposed;
  At at;
};
void combine_matrix_load(const LaneData* in, unsigned mask, unsigned lane, const void* constant,
                         void* out);

float from_bf16(std::uint16_t bits);
float from_f16(std::uint16_t bits);
std::uint16_t to_bf16(float x);
std::uint16_t to_f16(float x);

}  // namespace sslkern::simt
