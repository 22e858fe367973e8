// cp.async, by the copies of simt/runtime.h.
#include "platform/ptx/access.h"
#include "platform/ptx/operations.h"

namespace sslkern::ptx {
namespace {

// Sources: the addresses, and how much is read if it is not all. The mode is the size.
void issue(Thread& t, const Instruction& i) {
  char* to = address_of(t, i);
  const char* from = reinterpret_cast<const char*>(t.get<std::uint64_t>(i.from[1]));
  const auto read = i.sources > 2 ? t.get<std::int32_t>(i.from[2]) : std::int32_t(i.mode);
  simt::copy_async(to, from, i.mode, read, t.at(i));
}

void commit(Thread&, const Instruction&) { simt::commit_copies(); }
void wait_for_groups(Thread&, const Instruction& i) { simt::wait_for_copies(int(i.offset)); }

void wait_for_all(Thread&, const Instruction&) {
  simt::commit_copies();
  simt::wait_for_copies(0);
}

Handler decode_issue(Decoder& d) {
  Instruction& i = d.instruction();
  const bool whole = d.one_of({"ca", "cg"}) == 1;  // past the first cache: 16 bytes alone
  d.one_of({"shared", "shared::cta"});
  d.expect("global");
  d.take_any({"L2::64B", "L2::128B", "L2::256B"});
  d.address(Space::kShared);
  const bool narrow = i.narrow;
  const std::int64_t offset = i.offset;
  d.address(Space::kGlobal);
  if (i.offset != 0) d.refuse("an offset of the address that is read is not modelled");
  const std::uint64_t bytes = d.number();
  if (bytes != 16 && (whole || (bytes != 4 && bytes != 8))) d.refuse("no copy of that size");
  i.mode = std::uint8_t(bytes);
  if (d.operands_left() > 0) d.from(kBits32);
  d.end();
  i.space = Space::kShared;
  i.narrow = narrow;
  i.offset = offset;
  return issue;
}

Handler decode_copy(Decoder& d) {
  d.expect("async");
  if (d.take("commit_group")) {
    d.end();
    return commit;
  }
  if (d.take("wait_all")) {
    d.end();
    return wait_for_all;
  }
  if (!d.take("wait_group")) return decode_issue(d);
  d.instruction().offset = std::int64_t(d.number());
  d.end();
  return wait_for_groups;
}

}  // namespace

std::vector<Operation> copy_operations() { return {{"cp", "copy", decode_copy}}; }

}  // namespace sslkern::ptx
