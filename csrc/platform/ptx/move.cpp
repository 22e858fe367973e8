// mov, and cvta: from the address of a state space to a generic one and back.
#include "platform/ptx/operations.h"
#include "platform/ptx/thread.h"

namespace sslkern::ptx {
namespace {

template <class T>
void copy(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], t.get<T>(i.from[0]));
}

// The elements of a vector are the parts of one value, the lowest first; the mode is their bits.
void pack(Thread& t, const Instruction& i) {
  std::uint64_t value = 0;
  const std::uint64_t mask = (std::uint64_t(1) << i.mode) - 1;
  for (unsigned k = 0; k < i.sources; ++k) {
    value |= (t.get<std::uint64_t>(i.from[k]) & mask) << (k * i.mode);
  }
  t.set(i.to[0], value);
}

void unpack(Thread& t, const Instruction& i) {
  const auto value = t.get<std::uint64_t>(i.from[0]);
  const std::uint64_t mask = (std::uint64_t(1) << i.mode) - 1;
  for (unsigned k = 0; k < i.results; ++k) t.set(i.to[k], value >> (k * i.mode) & mask);
}

Type part_of(Decoder& d, Type type, std::size_t count) {
  const Type part{'b', type.bits / int(count)};
  if ((count != 2 && count != 4) || part.bits < 16) d.refuse("such a vector is not modelled");
  d.instruction().mode = std::uint8_t(part.bits);
  return part;
}

Handler decode_move(Decoder& d) {
  const Type type =
      d.type({"pred", "b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"});
  if (const std::size_t count = d.elements()) {
    d.vector_to(count, part_of(d, type, count));
    d.from(type);
    d.end();
    return unpack;
  }
  d.to(type);
  if (const std::size_t count = d.elements()) {
    d.vector_from(count, part_of(d, type, count));
    d.end();
    return pack;
  }
  d.from(type);
  d.end();
  if (type == kPredicate) return copy<std::uint8_t>;
  return for_integer({'b', type.bits},
                     [](auto tag) -> Handler { return copy<typename decltype(tag)::type>; });
}

// ---- addresses: those of global, constant and local memory are the host's, those of shared memory
// offsets

void shared_to_generic(Thread& t, const Instruction& i) {
  t.set(i.to[0], reinterpret_cast<std::uint64_t>(t.shared) + t.get<std::uint64_t>(i.from[0]));
}
void generic_to_shared(Thread& t, const Instruction& i) {
  t.set(i.to[0], t.get<std::uint64_t>(i.from[0]) - reinterpret_cast<std::uint64_t>(t.shared));
}

Handler decode_address(Decoder& d) {
  const bool to_space = d.take("to");
  const bool shared = d.one_of({"global", "local", "const", "shared", "shared::cta"}) >= 3;
  const Type type = d.type({"u64"});
  d.to(type);
  d.from(type);
  d.end();
  if (!shared) return copy<std::uint64_t>;
  return to_space ? generic_to_shared : shared_to_generic;
}

}  // namespace

std::vector<Operation> move_operations() {
  return {
      {"mov", "move", decode_move},
      {"cvta", "move", decode_address},
  };
}

}  // namespace sslkern::ptx
