#include "platform/simt/fragments.h"

#include <cstring>

#include "math/half.h"
#include "platform/simt/machine.h"
#include "platform/simt/shadow.h"

namespace sslkern::simt {
namespace {

MmaLane lane_of(const LaneData* in, unsigned lane) {
  MmaLane m;
  std::memcpy(&m, in[lane], sizeof(m));
  return m;
}

float half_of(std::uint32_t word, unsigned k, float (*convert)(std::uint16_t)) {
  return convert(std::uint16_t(k % 2 ? word >> 16 : word));
}

// The elements of the 16 x 16 A and the 16 x 8 B of m16n8k16: two to a register.
float a_of_16(const LaneData* in, unsigned row, unsigned k, float (*convert)(std::uint16_t)) {
  const unsigned word = (row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0);
  return half_of(lane_of(in, row % 8 * 4 + k % 8 / 2).a[word], k, convert);
}
float b_of_16(const LaneData* in, unsigned k, unsigned column, float (*convert)(std::uint16_t)) {
  return half_of(lane_of(in, column * 4 + k % 8 / 2).b[k >= 8 ? 1 : 0], k, convert);
}

// The elements of the 16 x 8 A and the 8 x 8 B of m16n8k8: one to a register, of which the
// instruction reads the upper 19 bits.
float tf32_of(std::uint32_t bits) { return math::from_bits(bits & 0xffffe000u); }
float a_of_8(const LaneData* in, unsigned row, unsigned k) {
  return tf32_of(lane_of(in, row % 8 * 4 + k % 4).a[(row >= 8 ? 1 : 0) + (k >= 4 ? 2 : 0)]);
}
float b_of_8(const LaneData* in, unsigned k, unsigned column) {
  return tf32_of(lane_of(in, column * 4 + k % 4).b[k >= 4 ? 1 : 0]);
}

// D = C + A B of one lane. Products are exact in double; the order and width of the hardware's sum
// is not documented, so results are to be compared with a tolerance.
template <class A, class B>
void multiply(const LaneData* in, unsigned lane, unsigned depth, const A& a, const B& b,
              void* out) {
  const MmaLane own = lane_of(in, lane);
  float d[4];
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
    double sum = own.c[i];
    for (unsigned k = 0; k < depth; ++k) sum += double(a(row, k)) * double(b(k, column));
    d[i] = float(sum);
  }
  std::memcpy(out, d, sizeof(d));
}

void multiply_16(const LaneData* in, unsigned lane, float (*convert)(std::uint16_t), void* out) {
  multiply(
      in, lane, 16, [&](unsigned row, unsigned k) { return a_of_16(in, row, k, convert); },
      [&](unsigned k, unsigned column) { return b_of_16(in, k, column, convert); }, out);
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

void combine_mma_bf16(const LaneData* in, unsigned, unsigned lane, const void*, void* out) {
  multiply_16(in, lane, from_bf16, out);
}

void combine_mma_f16(const LaneData* in, unsigned, unsigned lane, const void*, void* out) {
  multiply_16(in, lane, from_f16, out);
}

void combine_mma_tf32(const LaneData* in, unsigned, unsigned lane, const void*, void* out) {
  multiply(
      in, lane, 8, [&](unsigned row, unsigned k) { return a_of_8(in, row, k); },
      [&](unsigned k, unsigned column) { return b_of_8(in, k, column); }, out);
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
