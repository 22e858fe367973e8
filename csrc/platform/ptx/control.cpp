// Branches, barriers and fences.
#include "platform/ptx/operations.h"
#include "platform/ptx/thread.h"

namespace sslkern::ptx {
namespace {

void branch(Thread& t, const Instruction& i) { t.jump(std::size_t(i.offset)); }
void end(Thread& t, const Instruction&) { t.end(); }
void wait(Thread& t, const Instruction& i) { simt::barrier(t.at(i)); }
void nothing(Thread&, const Instruction&) {}

void trap(Thread& t, const Instruction& i) {
  t.report_and_stop(i, "trap", "the kernel stops itself");
}

// The label is resolved when the kernel is complete: see compile.cpp.
Handler decode_branch(Decoder& d) {
  d.take("uni");
  d.name();
  d.end();
  return branch;
}

template <Handler kHandler>
Handler decode_alone(Decoder& d) {
  d.take("uni");
  d.end();
  return kHandler;
}

Handler decode_trap(Decoder& d) {
  d.end();
  return trap;
}

// One barrier that all threads of the block come to.
void barrier_zero(Decoder& d) {
  if (d.number() != 0) d.refuse("barriers other than 0 are not modelled");
  d.end();
}

void wait_for_warp(Thread& t, const Instruction& i) {
  const auto nothing = [](const simt::LaneData*, unsigned, unsigned, const void*, void*) {};
  const auto mask = t.get<std::uint32_t>(i.from[0]);
  simt::collective({"bar.warp.sync", t.at(i), mask, true, nothing, nullptr}, nullptr, 0, nullptr);
}

Handler decode_barrier(Decoder& d) {
  if (d.take("warp")) {
    d.expect("sync");
    d.from(kBits32);
    d.end();
    return wait_for_warp;
  }
  d.take("cta");
  d.expect("sync");
  d.take("aligned");
  barrier_zero(d);
  return wait;
}

// The emulation's memory is in order.
Handler decode_old_fence(Decoder& d) {
  d.one_of({"cta", "gl", "sys"});
  d.end();
  return nothing;
}
Handler decode_fence(Decoder& d) {
  d.one_of({"sc", "acq_rel"});
  d.one_of({"cta", "gpu", "sys"});
  d.end();
  return nothing;
}

}  // namespace

std::vector<Operation> control_operations() {
  return {
      {"bra", "control", decode_branch},      {"ret", "control", decode_alone<end>},
      {"exit", "control", decode_alone<end>}, {"trap", "control", decode_trap},
      {"bar", "barrier", decode_barrier},     {"barrier", "barrier", decode_barrier},
      {"membar", "fence", decode_old_fence},  {"fence", "fence", decode_fence},
  };
}

}  // namespace sslkern::ptx
