// The paths through a kernel: its basic blocks and loops.
//
// Lanes of a warp that went different ways meet again where the ways do. So two lanes execute the
// same warp instruction if, of every loop around it, they are in the same iteration; that is what
// the context of a thread says. Where the ways form no loops with one entrance, it is how often the
// thread has come to the block.
#pragma once
#include <cstdint>
#include <vector>

#include "platform/ptx/program.h"

namespace sslkern::ptx {

struct Flow {
  static constexpr int kNone = -1;

  explicit Flow(const Kernel& kernel);

  std::vector<int> block_of;           // of an instruction
  std::vector<bool> begins;            // whether an instruction is its block's first
  std::vector<std::vector<int>> next;  // of a block: those it may go on to
  std::vector<int> loop_of;            // of a block: the innermost
  std::vector<int> headed;             // of a block: the loop that it is the entrance of
  std::vector<int> around;             // of a loop: the next one outside
  bool reducible = true;               // every loop has one entrance

  bool is_inside(int block, int loop) const;
  std::size_t blocks() const { return loop_of.size(); }
};

// Where in the flow one thread is.
class Path {
 public:
  void start(const Flow& flow);
  void enter(const Flow& flow, int block);
  std::uint64_t context() const { return context_; }

 private:
  int block_ = Flow::kNone;
  std::uint64_t context_ = 0;
  std::vector<std::uint64_t> iterations_, contexts_;  // of loops
  std::vector<std::uint64_t> visits_;                 // of blocks, if the flow is not reducible
};

// Numbers that depend on all bits of both.
inline std::uint64_t mixed(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9e3779b97f4a7c15u + b + 0x632be59bd9b4e019u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

}  // namespace sslkern::ptx
