// mma.sync and ldmatrix, by the fragments of simt/fragments.h.
#include <algorithm>

#include "platform/ptx/access.h"
#include "platform/ptx/operations.h"
#include "platform/simt/fragments.h"

namespace sslkern::ptx {
namespace {

// Sources: four registers of A, two of B, four of C.
template <simt::Prepare kMultiply>
void multiply(Thread& t, const Instruction& i) {
  simt::MmaLane own;
  for (int k = 0; k < 4; ++k) own.a[k] = t.get<std::uint32_t>(i.from[k]);
  for (int k = 0; k < 2; ++k) own.b[k] = t.get<std::uint32_t>(i.from[4 + k]);
  for (int k = 0; k < 4; ++k) own.c[k] = t.get<float>(i.from[6 + k]);
  float result[4];
  simt::collective({"mma.sync", t.at(i), ~0u, false, simt::combine_mma, nullptr, true, kMultiply},
                   &own, sizeof(own), result);
  for (int k = 0; k < 4; ++k) t.set(i.to[k], result[k]);
}

struct Form {
  const char *shape, *type;
  Handler handler;
};

constexpr Form kForms[] = {
    {"m16n8k16", "bf16", multiply<simt::multiply_bf16>},
    {"m16n8k16", "f16", multiply<simt::multiply_f16>},
    {"m16n8k8", "tf32", multiply<simt::multiply_tf32>},
};

const Form& form(Decoder& d) {
  const bool deep = d.one_of({"m16n8k16", "m16n8k8"}) == 0;
  d.expect("row");
  d.expect("col");
  d.expect("f32");
  const unsigned type = deep ? d.one_of({"bf16", "f16"}) : 2 + d.one_of({"tf32"});
  d.expect(kForms[type].type);
  d.expect("f32");
  return kForms[type];
}

Handler decode_multiply(Decoder& d) {
  d.expect("sync");
  d.expect("aligned");
  const Form& wanted = form(d);
  d.vector_to(4, {'f', 32});
  d.vector_from(4, kBits32);
  d.vector_from(2, kBits32);
  d.vector_from(4, {'f', 32});
  d.end();
  return wanted.handler;
}

// ---- ldmatrix: lanes 8 q .. 8 q + 7 give the rows of matrix q

void load(Thread& t, const Instruction& i) {
  const void* own = address_of(t, i);
  const bool gives_a_row = simt::here->lane < 8u * i.results;
  if (gives_a_row && reinterpret_cast<std::uintptr_t>(own) % 16 != 0) {
    t.report(i, "alignment", "a row off its boundary of 16 bytes");
  }
  const simt::MatrixLoad what{i.results, i.mode != 0, t.at(i)};
  std::uint32_t result[4];
  simt::collective({"ldmatrix.sync", t.at(i), ~0u, false, simt::combine_matrix_load, &what, true},
                   &own, sizeof(own), result);
  for (unsigned k = 0; k < i.results; ++k) t.set(i.to[k], result[k]);
}

Handler decode_load(Decoder& d) {
  d.expect("sync");
  d.expect("aligned");
  d.expect("m8n8");
  const std::size_t count = std::size_t(1) << d.one_of({"x1", "x2", "x4"});
  d.instruction().mode = d.take("trans");
  d.one_of({"shared", "shared::cta"});
  d.type({"b16"});
  d.vector_to(count, kBits32);
  d.address(Space::kShared);
  d.end();
  return load;
}

}  // namespace

std::vector<Operation> matrix_operations() {
  return {
      {"mma", "matrix", decode_multiply},
      {"ldmatrix", "matrix", decode_load},
  };
}

}  // namespace sslkern::ptx
