// Warp collectives: lanes leave their data, wait until all of the mask have come, and each combines
// what lies there.
#include <algorithm>
#include <cstring>

#include "platform/simt/machine.h"

namespace sslkern::simt {
namespace {

bool same_text(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
bool same_place(At a, At b) { return a.line == b.line && same_text(a.file, b.file); }

void report_mask(const Thread& t, const Collective& what, const char* wrong, unsigned lanes) {
  report_at("mask", {nullptr, what.at}, "%s by lane %u %s: mask %08x, the warp's lanes are %08x",
            what.kind, t.lane, wrong, what.mask, lanes);
}

// The meeting that this lane joins: one like its own that waits for lanes, or a new one.
Meeting& meeting_for(const Thread& t, const Collective& what) {
  auto& meetings = machine().meetings[t.warp];
  for (auto& meeting : meetings) {
    const Collective& others = meeting->what;
    if (!meeting->complete && others.mask == what.mask && same_text(others.kind, what.kind) &&
        same_place(others.at, what.at)) {
      return *meeting;
    }
  }
  meetings.push_back(std::make_unique<Meeting>());
  meetings.back()->what = what;
  return *meetings.back();
}

void complete(Meeting& meeting, const Thread& last, unsigned lanes) {
  Machine& m = machine();
  meeting.complete = true;
  if (meeting.what.prepare != nullptr) meeting.what.prepare(meeting.in);
  meeting.to_leave = meeting.what.mask;
  if (meeting.what.orders_memory && meeting.what.mask == lanes) ++m.clock.warp_epoch[last.warp];
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if ((meeting.what.mask >> lane & 1) == 0 || lane == last.lane) continue;
    m.states[last.warp * kWarpSize + lane] = State::kReady;
  }
}

void leave(Meeting& meeting, Thread& t) {
  meeting.to_leave &= ~(1u << t.lane);
  t.meeting = nullptr;
  if (meeting.to_leave != 0) return;
  auto& meetings = machine().meetings[t.warp];
  meetings.erase(std::find_if(meetings.begin(), meetings.end(),
                              [&](const auto& other) { return other.get() == &meeting; }));
}

}  // namespace

unsigned Machine::lanes_of(unsigned warp) const {
  const unsigned first = warp * kWarpSize;
  const unsigned lanes = std::min(kWarpSize, thread_count - first);
  return lanes == kWarpSize ? ~0u : (1u << lanes) - 1;
}

void collective(const Collective& asked, const void* in, std::size_t in_bytes, void* out) {
  Machine& m = machine();
  Thread& t = m.current();
  ++counts().collectives;
  Collective what = asked;
  const unsigned lanes = m.lanes_of(t.warp);
  if (what.mask == ~0u) what.mask = lanes;  // a last warp that is not whole
  if (what.whole_warp && lanes != ~0u) {
    report_mask(t, what, "needs a whole warp", lanes);
    m.stop();
  }
  if ((what.mask & ~lanes) != 0) report_mask(t, what, "names lanes that do not exist", lanes);
  if ((what.mask >> t.lane & 1) == 0) report_mask(t, what, "leaves out that lane", lanes);
  what.mask = (what.mask & lanes) | 1u << t.lane;
  Meeting& meeting = meeting_for(t, what);
  if (in_bytes > 0) std::memcpy(meeting.in[t.lane], in, in_bytes);
  meeting.arrived |= 1u << t.lane;
  t.at = what.at;
  t.meeting = &meeting;
  if ((meeting.arrived & meeting.what.mask) == meeting.what.mask) {
    complete(meeting, t, lanes);
  } else {
    m.yield(State::kInMeeting);
  }
  what.combine(meeting.in, meeting.what.mask, t.lane, what.constant, out);
  leave(meeting, t);
}

}  // namespace sslkern::simt
