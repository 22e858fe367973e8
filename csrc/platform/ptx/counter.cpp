#include "platform/ptx/counter.h"

#include <algorithm>

#include "platform/ptx/access.h"
#include "platform/ptx/thread.h"
#include "platform/simt/machine.h"
#include "platform/simt/shadow.h"

namespace sslkern::ptx {
namespace {

unsigned lanes_here() { return simt::machine().lanes_of(simt::here->warp); }

std::uint64_t distance(const char* from, const char* to) {
  return reinterpret_cast<std::uintptr_t>(to) - reinterpret_cast<std::uintptr_t>(from);
}

// Where an address of a range is, if all ranges begin at a sector's boundary. They keep their order
// and stay apart, for the distance of two is at least the bytes of the first.
std::uint64_t aligned_address(const simt::Range& range, const char* p) {
  return (std::uint64_t(range.start()) << 16) + distance(range.begin, p);
}

}  // namespace

Counter::Counter(const Kernel& kernel) : kernel_(kernel), flow_(kernel), warps_(flow_.blocks()) {
  for (const Written& written : kernel.written) {
    instructions_.push_back({kind_of(written.mnemonic), 0, 0, {}, {}});
  }
  for (const auto& shared : kernel.shared) {
    if (!shared.variable->external) totals_.static_shared_bytes += shared.variable->bytes;
  }
}

void Counter::start() {
  const simt::Place& place = *simt::here;
  has_run_ = true;
  totals_.blocks += place.linear == 0;
  totals_.warps += place.lane == 0;
  ++totals_.threads;
  if (paths_.size() <= place.linear) paths_.resize(place.linear + 1);
  paths_[place.linear].start(flow_);
}

void Counter::reach(std::size_t instruction) {
  if (!flow_.begins[instruction]) return;
  close_all_at_barrier();
  const int block = flow_.block_of[instruction];
  Path& path = paths_[simt::here->linear];
  path.enter(flow_, block);
  const std::uint64_t key = mixed(path.context(), std::uint64_t(block) << 32 | simt::here->warp);
  const auto [found, is_new] = open_blocks_.try_emplace(key, 0);
  warps_[std::size_t(block)] += is_new;
  found->second |= 1u << simt::here->lane;
  if (found->second == lanes_here()) open_blocks_.erase(found);
}

void Counter::execute(const Thread& t, std::size_t instruction) {
  PerInstruction& own = instructions_[instruction];
  ++own.threads;
  switch (own.kind.use) {
    case Use::kNone:
      return;
    case Use::kCopy:
      return copy(t, instruction);
    default:
      return access(t, instruction);
  }
}

void Counter::access(const Thread& t, std::size_t instruction) {
  const Instruction& i = kernel_.code[instruction];
  PerInstruction& own = instructions_[instruction];
  const char* p = address_of(t, i);
  if (own.kind.use == Use::kMatrix) {  // the first lanes give rows
    const bool gives = simt::here->lane < 8u * i.results;
    return ask(instruction, kShared, distance(t.shared, p), gives ? own.kind.bytes : 0);
  }
  if (i.space == Space::kLocal || t.local.holds(p)) {
    own.local_bytes += own.kind.bytes;
    return;
  }
  const simt::Range* range = simt::find_range(p);
  if (i.space == Space::kShared || (range != nullptr && range->shared)) {
    ask(instruction, kShared, distance(t.shared, p), own.kind.bytes);
  } else {
    ask_global(instruction, p, own.kind.bytes);
  }
}

void Counter::copy(const Thread& t, std::size_t instruction) {
  const Instruction& i = kernel_.code[instruction];
  const auto read = i.sources > 2 ? t.get<std::uint32_t>(i.from[2]) : std::uint32_t(i.mode);
  ask(instruction, kShared, distance(t.shared, address_of(t, i)), i.mode);
  ask_global(instruction, reinterpret_cast<const char*>(t.get<std::uint64_t>(i.from[1])),
             std::min<std::uint32_t>(read, i.mode));
}

// Wild addresses are reported by who executes the instruction.
void Counter::ask_global(std::size_t instruction, const char* p, std::size_t bytes) {
  const simt::Range* range = bytes > 0 ? simt::find_range(p) : nullptr;
  const bool known = range != nullptr;
  ask(instruction, kGlobal, known ? aligned_address(*range, p) : 0, known ? bytes : 0);
}

void Counter::ask(std::size_t instruction, Memory memory, std::uint64_t address,
                  std::size_t bytes) {
  close_all_at_barrier();
  const simt::Place& place = *simt::here;
  const std::uint64_t which = std::uint64_t(instruction) << 33 | std::uint64_t(memory) << 32;
  const std::uint64_t key = mixed(paths_[place.linear].context(), which | place.warp);
  const auto found = open_requests_.try_emplace(key, Open{instruction, memory, {}}).first;
  Request& request = found->second.request;
  request.add(place.lane, address, std::uint8_t(bytes));
  if (request.lanes != lanes_here()) return;
  close(found->second);
  open_requests_.erase(found);
}

// Behind a barrier of all threads, and in the next block, nobody joins what was before.
void Counter::close_all_at_barrier() {
  const std::uint32_t now = simt::machine().clock.epoch;
  if (now == epoch_) return;
  epoch_ = now;
  close_all();
}

void Counter::close_all() {
  for (const auto& entry : open_requests_) close(entry.second);
  open_requests_.clear();
  open_blocks_.clear();
}

void Counter::close(const Open& open) {
  PerInstruction& own = instructions_[open.instruction];
  const Use use = own.kind.use;
  if (open.memory == kShared) {
    own.shared += shared_traffic(open.request, use == Use::kAtomic);
    return;
  }
  sectors_.clear();
  own.global += global_traffic(open.request, sectors_);
  const bool reads = use == Use::kLoad || use == Use::kCopy;
  (reads ? read_ : written_).insert(sectors_.begin(), sectors_.end());
}

void Counter::end_launch(std::size_t dynamic_bytes) {
  close_all();
  totals_.launches += has_run_;
  has_run_ = false;
  totals_.dynamic_shared_bytes =
      std::max<std::uint64_t>(totals_.dynamic_shared_bytes, dynamic_bytes);
  totals_.distinct_sectors_read += read_.size();
  totals_.distinct_sectors_written += written_.size();
  read_.clear();
  written_.clear();
}

LineCounts Counter::line(const Program& program, std::size_t instruction) const {
  const PerInstruction& own = instructions_[instruction];
  const Position& at = kernel_.written[instruction].position;
  LineCounts result;
  result.line = kernel_.code[instruction].line;
  result.text = program.text_of(result.line);
  result.mnemonic = kernel_.written[instruction].mnemonic;
  result.of = own.kind.of;
  result.source = program.source_of(at.file, at.line);
  result.caller = program.source_of(at.caller_file, at.caller_line);
  result.issued = {warps_[std::size_t(flow_.block_of[instruction])], own.threads};
  result.global = own.global;
  result.shared = own.shared;
  return result;
}

// A line to the sums of its kernel.
void Counter::add(const LineCounts& line, const PerInstruction& own, KernelCounts& result) const {
  if (line.issued.warps == 0) return;
  result.classes[line.of] += line.issued;
  result.instructions[line.mnemonic] += line.issued;
  const bool matrix = line.of == "matrix";
  const std::uint64_t times = matrix ? own.threads / simt::kWarpSize : own.threads;
  if (own.kind.flop > 0) result.flop[own.kind.flop_of] += own.kind.flop * times;
  if (own.global.requests > 0) result.global[name_of(own.kind.use)] += own.global;
  if (own.shared.requests > 0) result.shared[name_of(own.kind.use)] += own.shared;
  result.local_bytes += own.local_bytes;
}

KernelCounts Counter::counts(const Program& program) const {
  KernelCounts result = totals_;
  for (std::size_t k = 0; k < instructions_.size(); ++k) {
    result.lines.push_back(line(program, k));
    add(result.lines.back(), instructions_[k], result);
  }
  return result;
}

}  // namespace sslkern::ptx
