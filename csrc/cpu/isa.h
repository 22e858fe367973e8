// One kernel source, compiled once per instruction set; the best one this processor has is chosen
// at run time.
//
// A file csrc/cpu/<op>.cpp puts everything into namespace sslkern::cpu::SSLKERN_ISA, a name that
// the build defines (portable, avx2, avx512), so that no function of one build can replace its twin
// of another at link time. For the same reason these files use neither the STL's functions nor
// anything of torch: such inline functions would be emitted with wide instructions under a name
// that every other file shares.
#pragma once
#include <cstdint>

#ifndef SSLKERN_ISA
#define SSLKERN_ISA portable
#define SSLKERN_ISA_IS_PORTABLE 1
#endif

namespace sslkern::cpu {

enum class Isa : std::int32_t { kPortable, kAvx2, kAvx512 };

// The instruction set in use: the widest that was compiled and that the processor has, or the one
// that the environment variable SSLKERN_ISA names when that is possible too. Fixed at the first
// call.
Isa active_isa();

// What SSLKERN_ISA asked for and could not get; nullptr when there is nothing to complain about.
const char* rejected_isa();

bool isa_available(Isa isa);
const char* isa_name(Isa isa);

}  // namespace sslkern::cpu

// Defines cpu::NAME(params), which calls the NAME of the active instruction set. To be written once
// per entry at the end of csrc/cpu/<op>.cpp; only the portable build of that file expands it.
#if defined(SSLKERN_ISA_IS_PORTABLE) && defined(SSLKERN_X86)
#define SSLKERN_ENTRY(RESULT, NAME, PARAMS) \
  namespace sslkern::cpu {                  \
  namespace avx2 {                          \
  RESULT NAME(PARAMS);                      \
  }                                         \
  namespace avx512 {                        \
  RESULT NAME(PARAMS);                      \
  }                                         \
  RESULT NAME(PARAMS params) {              \
    switch (active_isa()) {                 \
      case Isa::kAvx512:                    \
        return avx512::NAME(params);        \
      case Isa::kAvx2:                      \
        return avx2::NAME(params);          \
      case Isa::kPortable:                  \
        break;                              \
    }                                       \
    return portable::NAME(params);          \
  }                                         \
  }
#elif defined(SSLKERN_ISA_IS_PORTABLE)
#define SSLKERN_ENTRY(RESULT, NAME, PARAMS)                     \
  namespace sslkern::cpu {                                      \
  RESULT NAME(PARAMS params) { return portable::NAME(params); } \
  }
#else
#define SSLKERN_ENTRY(RESULT, NAME, PARAMS)
#endif
