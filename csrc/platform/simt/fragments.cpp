#include "platform/simt/fragments.h"

#include <cmath>
#include <cstddef>
#include <cstring>

#include "math/half.h"
#include "platform/simt/machine.h"
#include "platform/simt/shadow.h"

namespace sslkern::simt {
namespace {

// Register k of A and of B that a lane has given.
std::uint32_t register_of(const LaneData* in, unsigned lane, std::size_t first, unsigned k) {
  std::uint32_t bits;
  std::memcpy(&bits, in[lane] + first + sizeof(bits) * k, sizeof(bits));
  return bits;
}
std::uint32_t a_of(const LaneData* in, unsigned lane, unsigned k) {
  return register_of(in, lane, offsetof(MmaLane, a), k);
}
std::uint32_t b_of(const LaneData* in, unsigned lane, unsigned k) {
  return register_of(in, lane, offsetof(MmaLane, b), k);
}

// The elements of the 16 x 16 A and the 16 x 8 B of m16n8k16: two to a register.
template <float (*kConvert)(std::uint16_t)>
struct Halves {
  static constexpr unsigned kDepth = 16;

  static float half(std::uint32_t bits, unsigned k) {
    return kConvert(std::uint16_t(k % 2 ? bits >> 16 : bits));
  }
  static float a(const LaneData* in, unsigned row, unsigned k) {
    return half(a_of(in, row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2), k);
  }
  static float b(const LaneData* in, unsigned k, unsigned column) {
    return half(b_of(in, column * 4 + k % 8 / 2, k / 8), k);
  }
};

// The elements of the 16 x 8 A and the 8 x 8 B of m16n8k8: one to a register, of which the
// instruction reads the upper 19 bits.
struct Tf32 {
  static constexpr unsigned kDepth = 8;

  static float element(std::uint32_t bits) { return math::from_bits(bits & 0xffffe000u); }
  static float a(const LaneData* in, unsigned row, unsigned k) {
    return element(a_of(in, row % 8 * 4 + k % 4, row / 8 + k / 4 * 2));
  }
  static float b(const LaneData* in, unsigned k, unsigned column) {
    return element(b_of(in, column * 4 + k % 4, k / 4));
  }
};

// Products are exact in double, and their sum is truncated, as measured on tensor cores (Fasi et
// al., "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science, 2021). The order of the
// hardware's sum and what it keeps on the way are not documented: results are to be compared with a
// tolerance.
float truncated(double x) {
  const float nearest = float(x);
  const bool beyond = std::fabs(double(nearest)) > std::fabs(x) && std::isfinite(nearest);
  return beyond ? std::nextafter(nearest, 0.0f) : nearest;
}

// An element of C, and of D, in the lane that has it: one of two rows and two columns.
unsigned char* result_of(LaneData* lanes, unsigned row, unsigned column) {
  const unsigned lane = row % 8 * 4 + column / 2, k = row / 8 * 2 + column % 2;
  return lanes[lane] + offsetof(MmaLane, c) + sizeof(float) * k;
}

// D = C + A B.
template <class Elements>
void multiply(LaneData* lanes) {
  constexpr unsigned kDepth = Elements::kDepth, kRows = 16, kColumns = 8;
  double b[kDepth][kColumns];
  for (unsigned k = 0; k < kDepth; ++k) {
    for (unsigned j = 0; j < kColumns; ++j) b[k][j] = double(Elements::b(lanes, k, j));
  }
  for (unsigned i = 0; i < kRows; ++i) {
    double sums[kColumns];
    for (unsigned j = 0; j < kColumns; ++j) {
      float c;
      std::memcpy(&c, result_of(lanes, i, j), sizeof(c));
      sums[j] = double(c);
    }
    for (unsigned k = 0; k < kDepth; ++k) {
      const double a = double(Elements::a(lanes, i, k));
      for (unsigned j = 0; j < kColumns; ++j) sums[j] += a * b[k][j];
    }
    for (unsigned j = 0; j < kColumns; ++j) {
      const float d = truncated(sums[j]);
      std::memcpy(result_of(lanes, i, j), &d, sizeof(d));
    }
  }
}

std::uint16_t shared_element(const char* p, At at) {
  const Range* range = find_range(p);
  if (range == nullptr || !range->shared) {
    report_at("out of bounds", {nullptr, at}, "a matrix is loaded from what is no shared memory");
    machine().stop();
  }
  note_access(p, sizeof(std::uint16_t), Access::kRead, {nullptr, at});
  std::uint16_t element;
  std::memcpy(&element, p, sizeof(element));
  return element;
}

}  // namespace

float from_bf16(std::uint16_t bits) { return math::to_float(BFloat16{bits}); }
float from_f16(std::uint16_t bits) { return math::to_float(Float16{bits}); }
std::uint16_t to_bf16(float x) { return math::Rounded<BFloat16>::from(x).bits; }
std::uint16_t to_f16(float x) { return math::Rounded<Float16>::from(x).bits; }

void multiply_bf16(LaneData* lanes) { multiply<Halves<from_bf16>>(lanes); }
void multiply_f16(LaneData* lanes) { multiply<Halves<from_f16>>(lanes); }
void multiply_tf32(LaneData* lanes) { multiply<Tf32>(lanes); }

void combine_mma(const LaneData* in, unsigned, unsigned lane, const void*, void* out) {
  std::memcpy(out, in[lane] + offsetof(MmaLane, c), sizeof(MmaLane::c));
}

// Lanes 8 q .. 8 q + 7 give the rows of matrix q; register q of a lane gets two neighbours of a
// row, or of a column.
void combine_matrix_load(const LaneData* in, unsigned, unsigned lane, const void* constant,
                         void* out) {
  const auto& load = *static_cast<const MatrixLoad*>(constant);
  for (int q = 0; q < load.matrices; ++q) {
    std::uint32_t word = 0;
    for (unsigned e = 0; e < 2; ++e) {
      const unsigned row = load.transposed ? lane % 4 * 2 + e : lane / 4;
      const unsigned column = load.transposed ? lane / 4 : lane % 4 * 2 + e;
      const char* p;
      std::memcpy(&p, in[unsigned(q) * 8 + row], sizeof(p));
      const std::uint16_t element = shared_element(p + 2 * column, load.at);
      word |= std::uint32_t(element) << (16 * e);
    }
    std::memcpy(static_cast<char*>(out) + 4 * q, &word, sizeof(word));
  }
}

}  // namespace sslkern::simt
