// Counts one kernel's launches while they run.
#pragma once
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "platform/ptx/counting.h"
#include "platform/ptx/flow.h"
#include "platform/ptx/kinds.h"
#include "platform/ptx/traffic.h"

namespace sslkern::ptx {

class Thread;

class Counter {
 public:
  explicit Counter(const Kernel& kernel);

  // What a thread that runs tells: that it is at the kernel's beginning, that it has come to an
  // instruction, and that it executes it.
  void start();
  void reach(std::size_t instruction);
  void execute(const Thread& t, std::size_t instruction);
  void end_launch(std::size_t dynamic_bytes);

  KernelCounts counts(const Program& program) const;

 private:
  enum Memory : std::uint8_t { kGlobal, kShared };

  // Lanes that have not all come yet: of a block of instructions, or with what they ask for.
  struct Open {
    std::size_t instruction;
    Memory memory;
    Request request;
  };
  struct PerInstruction {
    Kind kind;
    std::uint64_t threads = 0, local_bytes = 0;
    GlobalTraffic global;
    SharedTraffic shared;
  };

  void close_all_at_barrier();
  void close_all();
  void close(const Open& open);
  void access(const Thread& t, std::size_t instruction);
  void copy(const Thread& t, std::size_t instruction);
  void ask(std::size_t instruction, Memory memory, std::uint64_t address, std::size_t bytes);
  void ask_global(std::size_t instruction, const char* p, std::size_t bytes);
  void add(const LineCounts& line, const PerInstruction& own, KernelCounts& result) const;
  LineCounts line(const Program& program, std::size_t instruction) const;

  const Kernel& kernel_;
  const Flow flow_;
  std::vector<PerInstruction> instructions_;
  std::vector<std::uint64_t> warps_;  // that have come to a block of instructions
  std::vector<Path> paths_;           // of the threads of the block that runs
  std::uint32_t epoch_ = 0;           // of what is open
  std::unordered_map<std::uint64_t, std::uint32_t> open_blocks_;
  std::unordered_map<std::uint64_t, Open> open_requests_;
  std::unordered_set<std::uint64_t> read_, written_;  // sectors of a launch
  std::vector<std::uint64_t> sectors_;                // of a request
  bool has_run_ = false;                              // this launch
  KernelCounts totals_;                               // but what is of instructions
};

}  // namespace sslkern::ptx
