// The emulation of a GPU, as kernels, launchers and tests call it.
//
// Every CUDA thread is a fiber. The threads of a block run one at a time, in an order drawn from a
// seed, and change at barriers, warp collectives and their end; blocks run one after the other.
// What a GPU leaves undefined is thereby drawn, and what is wrong on one is reported:
//
//   race               two threads touch the same bytes, one of them writes, nothing orders them;
//                      or a thread writes where cp.async still copies to or from
//   out of bounds      an access outside every range that was made known, or of global memory by
//                      an instruction that is for shared memory
//   uninitialised      a read of bytes that nobody has written
//   early read         a read of what cp.async is still copying
//   lost copy          a thread ends with copies that it has not waited for
//   divergence         lanes at different collectives, or threads at different barriers
//   deadlock           threads wait for others that have ended
//   mask               a lane that its own mask does not name, or half a warp where the
//                      instruction takes a whole one
//   shuffle            a lane reads one that takes no part
//   alignment          a vector or asynchronous access off its boundary
//   limits             a launch that the hardware would refuse
//
// A launch ends at what cannot be gone on with: an access of global memory out of its bounds, or
// more shared memory than there is.
//
// Loads and stores are seen where the kernels are compiled with -fsanitize=thread (hooks.cpp takes
// the place of that sanitizer's library); without, everything else is still checked, except that
// nobody knows then what was written.
//
// What is allowed on a GPU but reported here, because the rules of this project forbid it: blocks
// that communicate by anything but atomics, a __syncwarp of half a warp that is to order memory,
// barriers and full masks after some threads have ended, neighbouring threads that each write one
// byte (two bytes are the least that is told apart).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "platform/simt/types.h"

namespace sslkern::simt {

// ---- settings and findings

// In which order the threads that can run do, and the blocks.
enum class Order { kRandom, kForward, kReverse, kWarpByWarp };

// Of the hardware; the smallest among the targets by default.
struct Limits {
  std::uint64_t threads = 1024;
  std::uint64_t grid_x = (std::uint64_t(1) << 31) - 1, grid_yz = 65535, block_z = 64;
  std::size_t shared_bytes = 99 << 10;  // a block's, static and dynamic together; of sm_120
};

struct Config {
  std::uint64_t seed = 1;
  Order order = Order::kRandom;
  bool races = true, uninitialised = true;
  unsigned char poison = 0xff;  // of fresh memory: a NaN in every floating type
  std::size_t stack_bytes = 128 << 10;
  std::size_t most_findings = 16;
  Limits limits;
};

struct Finding {
  std::string kind, text;
};

struct Counts {
  std::uint64_t threads = 0, switches = 0, accesses = 0, barriers = 0, collectives = 0;
};

Config& config();
const std::vector<Finding>& findings();
void clear_findings();
Counts& counts();

// Records a finding, with the place of the thread that runs. The same text counts once.
void report(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Source positions, for messages.
struct At {
  const char* file = nullptr;
  int line = 0;
};

// Where something comes from: a program counter, or a place that is known.
struct Origin {
  void* program_counter;
  At at{};
};

// The same with the position added, and once for each: what goes wrong at one place does so for
// many bytes and threads.
void report_at(const char* kind, const Origin& origin, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

// ---- memory

struct Range;

// Makes memory known for as long as this lives: what kernels may touch. Accesses up to
// kGuardBytes before and behind it are reported as out of its bounds. Two of these may be the same
// memory, but not overlap in parts.
class KnownMemory {
 public:
  KnownMemory(const void* data, std::size_t bytes, bool initialised);
  ~KnownMemory();
  KnownMemory(const KnownMemory&) = delete;
  KnownMemory& operator=(const KnownMemory&) = delete;

 private:
  Range* range_;
};

// ---- launches

using Body = void (*)(void*);

// Runs body(arguments) as every thread of the grid. False if there was something to report.
bool launch(const char* name, dim3 grid, dim3 block, std::size_t dynamic_bytes, Body body,
            void* arguments, std::size_t argument_bytes);

template <class F>
bool launch(const char* name, dim3 grid, dim3 block, std::size_t dynamic_bytes, F f) {
  return launch(
      name, grid, block, dynamic_bytes, [](void* p) { (*static_cast<F*>(p))(); }, &f, sizeof(f));
}

// ---- what a running thread asks for

// Where it is; what threadIdx and its like read.
struct Place {
  uint3 thread, block;
  dim3 block_size, grid_size;
  unsigned linear, warp, lane;
};

extern Place* here;  // null outside a kernel

void* shared_variable(const void* site, std::size_t bytes, std::size_t alignment, const char* name);
void* dynamic_shared();

void barrier(At at);

// What a collective does once all lanes of the mask have given their `in`: in place for all of
// them, and then for each.
constexpr std::size_t kMostLaneBytes = 64;
using LaneData = unsigned char[kMostLaneBytes];
using Prepare = void (*)(LaneData* in);
using Combine = void (*)(const LaneData* in, unsigned mask, unsigned lane, const void* constant,
                         void* out);

struct Collective {
  const char* kind;  // lanes meet if they agree on it, on `at` and on the mask
  At at;
  unsigned mask;
  bool orders_memory;
  Combine combine;
  const void* constant;
  bool whole_warp = false;  // undefined for less
  Prepare prepare = nullptr;
};

void collective(const Collective& what, const void* in, std::size_t in_bytes, void* out);

void copy_async(void* to, const void* from, int bytes, int bytes_read, At at);
void commit_copies();
void wait_for_copies(int groups_left);

enum class Access { kRead, kWrite, kAtomic };
void note_access(const void* p, std::size_t bytes, Access access, Origin origin);

// Whether note_access is told of every load and store of the kernels, or of instructions alone.
extern bool every_access_is_seen;

}  // namespace sslkern::simt
