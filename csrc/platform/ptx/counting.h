// What the hardware would do for a kernel, counted while it is executed: a model's input, no time.
//
//   module.counting = true;
//   module.launch(...);
//   to_json(module.counts());
//
// Instructions are those of PTX. What nvcc makes machine code of them still folds, splits and
// schedules: addresses and moves mostly vanish, an exact division becomes many.
//
// The lanes of a warp that execute an instruction together count once. As the emulation runs one
// thread at a time, who is together is worked out: see flow.h. Addresses of global memory count
// from the beginning of what was made known (simt::KnownMemory), as if it were allocated there, at
// a sector's boundary; caches are not modelled.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace sslkern::ptx {

struct Issued {
  std::uint64_t warps = 0;    // warp instructions, those without effect for their predicate too
  std::uint64_t threads = 0;  // lanes whose predicate let them execute it

  Issued& operator+=(const Issued& other);
};

// A request is what the lanes of one warp instruction ask for; without lanes that ask for nothing.
struct GlobalTraffic {
  std::uint64_t requests = 0;
  std::uint64_t sectors = 0;        // of 32 bytes, that the lanes of a request touch
  std::uint64_t least_sectors = 0;  // that could hold the bytes of a request
  std::uint64_t bytes = 0;          // touched: what several lanes of a request ask for counts once
  std::uint64_t lane_bytes = 0;     // asked for by all lanes

  GlobalTraffic& operator+=(const GlobalTraffic& other);
  double efficiency() const;  // bytes of those in the sectors; 1 without requests
};

// A wavefront is one pass over the 32 banks of 4 bytes. The lanes that take part in one: all if
// they ask for up to 4 bytes each, 16 for 8 bytes, 8 for 16 bytes and for a matrix of ldmatrix.
struct SharedTraffic {
  std::uint64_t requests = 0;
  std::uint64_t wavefronts = 0;
  std::uint64_t least_wavefronts = 0;  // if no two lanes met in a bank
  std::uint64_t lane_bytes = 0;

  SharedTraffic& operator+=(const SharedTraffic& other);
  std::uint64_t conflicts() const { return wavefronts - least_wavefronts; }
};

struct LineCounts {
  int line = 0;                    // of the PTX
  std::string text, mnemonic, of;  // the statement; ld.global.f32; its class
  std::string source, caller;      // x.cuh:12, and where that was inlined; by -lineinfo
  Issued issued;
  GlobalTraffic global;
  SharedTraffic shared;
};

struct KernelCounts {
  std::uint64_t launches = 0, blocks = 0, warps = 0, threads = 0;
  std::uint64_t static_shared_bytes = 0;   // of a block
  std::uint64_t dynamic_shared_bytes = 0;  // the most of a launch

  std::map<std::string, Issued> classes;       // by the names of kinds.h
  std::map<std::string, Issued> instructions;  // by mnemonic
  // By "matrix_bf16", "matrix_f16", "matrix_tf32", "fp32", "fp64". A multiplication that adds is
  // two; comparisons, signs, conversions and special functions are none.
  std::map<std::string, std::uint64_t> flop;

  std::map<std::string, GlobalTraffic> global;  // "load", "store", "copy" (cp.async), "atomic"
  std::map<std::string, SharedTraffic> shared;  // those, and "ldmatrix"
  // Sectors that a launch touches at least once: what cannot but come from memory or go there.
  std::uint64_t distinct_sectors_read = 0, distinct_sectors_written = 0;
  std::uint64_t local_bytes = 0;  // of local memory, of all lanes: arrays that are no registers

  std::vector<LineCounts> lines;  // of every instruction, in the order of the text
};

// {"KERNEL": {"launches": 1, "blocks":, "warps":, "threads":, "static_shared_bytes":,
//   "dynamic_shared_bytes":, "distinct_sectors_read":, "distinct_sectors_written":, "local_bytes":,
//   "classes": {CLASS: {"warps":, "threads":}}, "instructions": {MNEMONIC: the same},
//   "flop": {"matrix_bf16":, "fp32":, ...},
//   "global": {"load": {"requests":, "sectors":, "least_sectors":, "bytes":, "lane_bytes":}, ...},
//   "shared": {"load": {"requests":, "wavefronts":, "least_wavefronts":, "conflicts":,
//                       "lane_bytes":}, ...},
//   "lines": [{"line":, "text":, "class":, "source":, "caller":, "warps":, "threads":,
//              "global": as above, "shared": as above}, ...]}}
//
// What was never executed has no entry in the maps. Lines are those that were executed of
// instructions that multiply matrices or see memory that lanes share, and their traffic is there
// if they have any.
std::string to_json(const std::map<std::string, KernelCounts>& counts);

}  // namespace sslkern::ptx
