// Launches: the threads of a block take turns until all have ended or none can go on.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "platform/simt/machine.h"
#include "platform/simt/shared.h"
#include "platform/simt/source.h"

namespace sslkern::simt {
namespace {

std::mt19937_64 generator;

template <class T>
void put_in_order(std::vector<T>& items) {
  if (config().order == Order::kRandom) std::shuffle(items.begin(), items.end(), generator);
  if (config().order == Order::kReverse) std::reverse(items.begin(), items.end());
}

void entry() {
  Fiber::entered();
  Machine& m = machine();
  m.body(const_cast<char*>(m.arguments));
  Thread& t = m.current();
  m.state_of(t) = State::kEnded;
  ++counts().switches;
  t.fiber.leave(true);
}

bool within_limits(dim3 grid, dim3 block, std::size_t dynamic_bytes) {
  const Limits& most = config().limits;
  const bool fits = block.x <= most.threads && block.y <= most.threads && block.z <= most.block_z &&
                    block.count() > 0 && block.count() <= most.threads && grid.x <= most.grid_x &&
                    grid.y <= most.grid_yz && grid.z <= most.grid_yz && grid.count() > 0 &&
                    dynamic_bytes <= most.shared_bytes && dynamic_bytes <= kMostDynamicBytes;
  if (!fits) {
    report("limits", "grid %u x %u x %u, block %u x %u x %u, %zu bytes of dynamic shared memory",
           grid.x, grid.y, grid.z, block.x, block.y, block.z, dynamic_bytes);
  }
  return fits;
}

uint3 position(std::uint64_t linear, dim3 size) {
  return {unsigned(linear % size.x), unsigned(linear / size.x % size.y),
          unsigned(linear / size.x / size.y)};
}

void start_block(std::uint64_t number, dim3 grid, dim3 block) {
  Machine& m = machine();
  const unsigned warps = (m.thread_count + kWarpSize - 1) / kWarpSize;
  m.clock.block_start = ++m.clock.epoch;
  m.clock.warp_epoch.assign(warps, 0);
  m.meetings.clear();
  m.meetings.resize(warps);
  m.states.assign(m.thread_count, State::kReady);
  for (unsigned i = 0; i < m.thread_count; ++i) {
    Thread& t = *m.threads[i];
    static_cast<Place&>(t) = {position(i, block), position(number, grid), block, grid, i,
                              i / kWarpSize,      i % kWarpSize};
    t.meeting = nullptr;
    t.open.clear();
    t.groups.clear();
    t.fiber.start(config().stack_bytes, entry);
    ++counts().threads;
  }
}

void resume(Thread& t) {
  here = &t;
  t.fiber.resume();
  here = nullptr;
}

// Runs every thread that can go on once; false if there was none.
bool run_ready() {
  Machine& m = machine();
  std::vector<unsigned> ready;
  for (unsigned i = 0; i < m.thread_count; ++i) {
    if (m.states[i] != State::kReady) continue;
    ready.push_back(i);
    // The lowest that can go on, always: a warp gets as far as it can before the next begins.
    if (config().order == Order::kWarpByWarp) break;
  }
  put_in_order(ready);
  for (const unsigned i : ready) {
    if (m.states[i] != State::kReady) continue;
    resume(*m.threads[i]);
    if (m.stopped) return false;
  }
  return !ready.empty();
}

struct Waiting {
  std::vector<const Thread*> at_barrier, in_meeting;
  unsigned ended = 0;
};

Waiting who_waits() {
  const Machine& m = machine();
  Waiting w;
  for (unsigned i = 0; i < m.thread_count; ++i) {
    const Thread* t = m.threads[i].get();
    if (m.states[i] == State::kAtBarrier) w.at_barrier.push_back(t);
    if (m.states[i] == State::kInMeeting) w.in_meeting.push_back(t);
    if (m.states[i] == State::kEnded) ++w.ended;
  }
  return w;
}

// Two meetings of a warp that wait for each other's lanes; false if there are none. Lanes may well
// wait for some that meet in between.
bool report_divergence() {
  const Machine& m = machine();
  for (std::size_t warp = 0; warp < m.meetings.size(); ++warp) {
    for (const auto& a : m.meetings[warp]) {
      for (const auto& b : m.meetings[warp]) {
        if (a == b || ((a->what.mask & b->arrived) | (b->what.mask & a->arrived)) == 0) continue;
        report("divergence",
               "warp %zu: lanes %08x are at %s (mask %08x, %s), %08x at %s (%08x, %s)", warp,
               a->arrived, a->what.kind, a->what.mask, source_of({nullptr, a->what.at}).c_str(),
               b->arrived, b->what.kind, b->what.mask, source_of({nullptr, b->what.at}).c_str());
        return true;
      }
    }
  }
  return false;
}

void report_deadlock(const Waiting& w) {
  if (w.in_meeting.empty()) {
    return report_at("deadlock", {nullptr, w.at_barrier[0]->at},
                     "%zu threads wait at a barrier, %u have ended", w.at_barrier.size(), w.ended);
  }
  if (report_divergence()) return;
  const Meeting& meeting = *w.in_meeting[0]->meeting;
  report_at("deadlock", {nullptr, meeting.what.at},
            "%zu threads wait at %s (mask %08x, come %08x), %zu at a barrier, %u have ended",
            w.in_meeting.size(), meeting.what.kind, meeting.what.mask, meeting.arrived,
            w.at_barrier.size(), w.ended);
}

// All that live are at a barrier: lets them pass.
void open_barrier(const Waiting& w) {
  Machine& m = machine();
  const At first = w.at_barrier[0]->at;
  for (const Thread* t : w.at_barrier) {
    if (t->at.line == first.line && std::strcmp(t->at.file, first.file) == 0) continue;
    report("divergence", "threads %u and %u meet at the barriers of %s and %s",
           w.at_barrier[0]->linear, t->linear, source_of({nullptr, first}).c_str(),
           source_of({nullptr, t->at}).c_str());
    break;
  }
  ++counts().barriers;
  ++m.clock.epoch;
  for (auto& epoch : m.clock.warp_epoch) ++epoch;
  for (const Thread* t : w.at_barrier) m.state_of(*t) = State::kReady;
}

// False if the block cannot go on. Threads that have ended do not count for a barrier on some GPUs;
// kernels that rely on it are refused here.
bool run_block() {
  for (;;) {
    while (run_ready()) {
    }
    if (machine().stopped) return false;
    const Waiting w = who_waits();
    if (w.ended == machine().thread_count) return true;
    if (!w.in_meeting.empty() || w.ended > 0) {
      report_deadlock(w);
      return false;
    }
    open_barrier(w);
  }
}

void check_copies() {
  const Machine& m = machine();
  for (unsigned i = 0; i < m.thread_count; ++i) {
    const Thread& t = *m.threads[i];
    std::size_t lost = t.open.size();
    At at = lost > 0 ? t.open[0].at : At{};
    for (const auto& group : t.groups) {
      lost += group.size();
      if (!group.empty()) at = group[0].at;
    }
    if (lost == 0) continue;
    return report_at("lost copy", {nullptr, at},
                     "thread %u ended with %zu copies that it had not waited for", i, lost);
  }
}

}  // namespace

void Machine::yield(State state) {
  Thread& t = current();
  state_of(t) = state;
  ++counts().switches;
  t.fiber.leave(false);
}

void Machine::stop() {
  stopped = true;
  state_of(current()) = State::kEnded;
  current().fiber.leave(true);
  __builtin_unreachable();  // nobody resumes it
}

void barrier(At at) {
  machine().current().at = at;
  machine().yield(State::kAtBarrier);
}

bool launch(const char* name, dim3 grid, dim3 block, std::size_t dynamic_bytes, Body body,
            void* arguments, std::size_t argument_bytes) {
  Machine& m = machine();
  m.kernel = name;
  m.body = body;
  m.arguments = static_cast<const char*>(arguments);
  m.argument_bytes = argument_bytes;
  m.stopped = false;
  const std::uint64_t before = m.troubles;
  if (!within_limits(grid, block, dynamic_bytes)) return false;
  generator.seed(config().seed);
  m.thread_count = unsigned(block.count());
  while (m.threads.size() < m.thread_count) m.threads.push_back(std::make_unique<Thread>());
  std::vector<std::uint64_t> order(grid.count());
  std::iota(order.begin(), order.end(), 0);
  put_in_order(order);
  m.clock.launch_start = ++m.clock.epoch;
  for (const std::uint64_t number : order) {
    renew_shared(dynamic_bytes);
    start_block(number, grid, block);
    if (!run_block()) break;
    check_copies();
  }
  return m.troubles == before;
}

}  // namespace sslkern::simt
