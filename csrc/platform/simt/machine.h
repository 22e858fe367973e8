// The state of the emulated multiprocessor, shared by the parts of the runtime.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "platform/simt/fiber.h"
#include "platform/simt/runtime.h"

namespace sslkern::simt {

constexpr unsigned kWarpSize = 32;

struct PendingCopy {
  void* to;
  const void* from;
  int bytes, bytes_read;
  At at;
  unsigned char source[16];  // what was read when the copy was issued
};

// Lanes on their way through one collective.
struct Meeting {
  Collective what;
  unsigned arrived = 0, to_leave = 0;
  bool complete = false;
  LaneData in[kWarpSize];
};

enum class State : std::uint8_t { kReady, kAtBarrier, kInMeeting, kEnded };

struct Thread : Place {
  Fiber fiber;
  At at;
  Meeting* meeting = nullptr;
  std::vector<PendingCopy> open;                // not yet committed
  std::deque<std::vector<PendingCopy>> groups;  // committed, not yet waited for
};

// Time, as far as it orders accesses. An access is ordered after another of the same block if the
// epoch has changed in between (a barrier), or within a warp if the warp's has (__syncwarp). Epochs
// never repeat: all of an earlier block or launch are less.
struct Clock {
  std::uint32_t epoch = 1, block_start = 1, launch_start = 1;
  std::vector<std::uint32_t> warp_epoch;
};

struct Machine {
  const char* kernel = "";
  Body body = nullptr;
  const char* arguments = nullptr;
  std::size_t argument_bytes = 0;
  std::vector<std::unique_ptr<Thread>> threads;                 // reused by all blocks
  unsigned thread_count = 0;                                    // of this launch
  std::vector<State> states;                                    // of threads, gone through often
  std::vector<std::vector<std::unique_ptr<Meeting>>> meetings;  // of each warp
  Clock clock;
  bool stopped = false;        // what runs cannot go on
  std::uint64_t troubles = 0;  // what there was to report, however often it was said before

  Thread& current() { return *static_cast<Thread*>(here); }
  State& state_of(const Thread& thread) { return states[thread.linear]; }
  unsigned lanes_of(unsigned warp) const;  // that exist, as a mask
  // Gives up the processor; returns when the scheduler resumes the thread that calls.
  void yield(State state);
  // Ends the launch, once the reason was reported. Nothing on the thread's stack is destroyed.
  [[noreturn]] void stop();
};

Machine& machine();

}  // namespace sslkern::simt
