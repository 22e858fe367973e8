#include "contract/machine.h"

#include "cpu/micro.h"

namespace sslkern::cpu::SSLKERN_ISA {
namespace {

template <class T>
std::int64_t run(const FmaPeak& p) {
  constexpr int NR = kMicroCols<T>, MR = kMicroRows, kStrips = 4;
#pragma omp parallel num_threads(p.threads)
  {
    alignas(kVectorBytes) T a[MR * NR] = {}, b[NR * NR] = {}, c[MR * NR] = {};
    // A strip distance of 0 reads the same data again: pure multiply-add issue.
    for (std::int64_t i = 0; i < p.repeats; ++i) {
      for (int s = 0; s < kStrips; ++s) micro_product<T, NR, 1>(a, 0, b, 1, 0, c, NR, true);
    }
#pragma omp critical(sslkern_fma_peak)
    *p.out += float(c[0]);
  }
  return p.repeats * p.threads * kStrips * MR * NR * NR;
}

}  // namespace

std::int64_t fma_peak(const FmaPeak& p) {
  return p.dtype == Dtype::kFloat64 ? run<double>(p) : run<float>(p);
}

}  // namespace sslkern::cpu::SSLKERN_ISA

SSLKERN_ENTRY(std::int64_t, fma_peak, const FmaPeak&)
