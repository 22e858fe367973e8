// What sort of instruction a mnemonic is, for those that count.
#pragma once
#include <cstdint>
#include <string>

namespace sslkern::ptx {

// How it sees memory that lanes share.
enum class Use : std::uint8_t { kNone, kLoad, kStore, kCopy, kAtomic, kMatrix };

const char* name_of(Use use);

// Classes:
//   matrix         mma
//   function       ex2 lg2 rcp rsqrt sqrt sin cos tanh of float32, and div, which takes rcp
//   fp32 fp64      all other arithmetic of these types (fp64: functions, too)
//   integer        arithmetic and logic of integers, addresses among them
//   convert        cvt
//   move           mov, cvta, predicates (setp, their logic), selp
//   control        bra, ret, exit, trap
//   ldmatrix, shared_load, shared_store, global_load, global_store
//   generic_load, generic_store   where nvcc does not know the space; traffic goes by the address
//   local          loads and stores of a thread's own memory
//   constant       loads of parameters and constants
//   copy           cp.async; copy_wait: its commits and waits
//   barrier        bar, barrier, fences
//   warp           shfl, vote, match, redux
//   atomic         atom, red
struct Kind {
  std::string of;
  Use use = Use::kNone;
  std::uint8_t bytes = 0;  // of a lane's access
  std::string flop_of;     // "fp32"; nothing if it is no arithmetic
  std::uint32_t flop = 0;  // of a thread; of a warp if it is of matrices
};

Kind kind_of(const std::string& mnemonic);

}  // namespace sslkern::ptx
