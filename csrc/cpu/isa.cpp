#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>

namespace sslkern::cpu {
namespace {

constexpr Isa kAll[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512};

struct Choice {
  Isa isa;
  const char* rejected;
};

Choice choose() {
  Isa best = Isa::kPortable;
  for (const Isa isa : kAll) {
    if (isa_available(isa)) best = isa;
  }
  const char* wanted = std::getenv("SSLKERN_ISA");
  if (wanted == nullptr || *wanted == '\0') return {best, nullptr};
  for (const Isa isa : kAll) {
    if (std::strcmp(wanted, isa_name(isa)) == 0 && isa_available(isa)) return {isa, nullptr};
  }
  return {best, wanted};
}

const Choice& choice() {
  static const Choice chosen = choose();
  return chosen;
}

}  // namespace

bool isa_available(Isa isa) {
  if (isa == Isa::kPortable) return true;
#ifdef SSLKERN_X86
  __builtin_cpu_init();
  if (isa == Isa::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

Isa active_isa() { return choice().isa; }

const char* rejected_isa() { return choice().rejected; }

}  // namespace sslkern::cpu
