#include "platform/ptx/thread.h"

#include "platform/ptx/counter.h"
#include "platform/simt/machine.h"

namespace sslkern::ptx {

void Thread::start() {
  const Kernel& kernel = *launch.kernel;
  next_ = 0;
  carry = false;
  shared = static_cast<char*>(simt::dynamic_shared());
  words_ = kernel.words;
  local.bytes.assign(kernel.local_bytes, simt::config().poison);
  local.written.assign(kernel.local_bytes, false);
  fill_specials();
  for (const auto& [slot, variable] : kernel.shared) {
    const auto* p = static_cast<char*>(simt::shared_variable(
        variable, variable->bytes, variable->alignment, variable->name.c_str()));
    words_[slot] = std::uint64_t(p - shared);
  }
  for (const auto& [slot, offset] : kernel.local) {
    words_[slot] = reinterpret_cast<std::uint64_t>(local.bytes.data() + offset);
  }
}

void Thread::fill_specials() {
  const simt::Place& place = *simt::here;
  const unsigned own = 1u << place.lane, less = own - 1;
  const unsigned values[] = {
      place.thread.x,
      place.thread.y,
      place.thread.z,
      place.block_size.x,
      place.block_size.y,
      place.block_size.z,
      place.block.x,
      place.block.y,
      place.block.z,
      place.grid_size.x,
      place.grid_size.y,
      place.grid_size.z,
      place.lane,
      place.warp,
      own,
      less,
      own | less,
      ~(own | less),
      ~less,
  };
  for (const auto& [slot, special] : launch.kernel->specials) {
    words_[slot] = values[std::size_t(special)];
  }
}

void Thread::report(const Instruction& i, const char* kind, const std::string& what) const {
  simt::report_at(kind, {nullptr, at(i)}, "%s: %s", launch.program->text_of(i.line).c_str(),
                  what.c_str());
}

void Thread::report_and_stop(const Instruction& i, const char* kind,
                             const std::string& what) const {
  report(i, kind, what);
  simt::machine().stop();
}

// Two of it, so that who does not count does not ask either.
template <bool kCounts>
void Thread::go_on() {
  const std::vector<Instruction>& code = launch.kernel->code;
  while (next_ < code.size()) {
    const std::size_t number = next_++;
    const Instruction& i = code[number];
    if (launch.steps_left-- == 0) {
      report_and_stop(i, "endless", "more steps than a launch may take");
    }
    if constexpr (kCounts) launch.counter->reach(number);
    if (i.guard != kNoSlot && predicate(i.guard) == i.guard_negated) continue;
    ++i.executed;
    if constexpr (kCounts) launch.counter->execute(*this, number);
    i.run(*this, i);
  }
}

void Thread::run() {
  start();
  if (launch.counter == nullptr) return go_on<false>();
  launch.counter->start();
  go_on<true>();
}

}  // namespace sslkern::ptx
