// Logic, shifts, and what moves or counts bits.
#include <algorithm>

#include "platform/ptx/functors.h"
#include "platform/ptx/operations.h"
#include "platform/ptx/thread.h"

namespace sslkern::ptx {
namespace {

template <class T>
constexpr unsigned kBits = sizeof(T) * 8;

// ---- logic

template <class T, class Op>
void logic(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], Op{}(t.get<T>(i.from[0]), t.get<T>(i.from[1])));
}

template <class Op>
Handler decode_logic(Decoder& d) {
  const Type type = d.type({"pred", "b16", "b32", "b64"});
  d.to(type);
  d.from(type);
  d.from(type);
  d.end();
  if (type == kPredicate) return logic<std::uint8_t, Op>;
  return for_integer(type,
                     [](auto tag) -> Handler { return logic<typename decltype(tag)::type, Op>; });
}

template <class T>
void invert(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], T(~t.get<T>(i.from[0])));
}
void invert_predicate(Thread& t, const Instruction& i) {
  t.set<std::uint8_t>(i.to[0], !t.predicate(i.from[0]));
}

// 1 where there is no bit at all.
template <class T>
void is_zero(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], t.get<T>(i.from[0]) == 0);
}

Type unary(Decoder& d, Types types) {
  const Type type = d.type(types);
  d.to(type);
  d.from(type);
  d.end();
  return type;
}

Handler decode_not(Decoder& d) {
  const Type type = unary(d, {"pred", "b16", "b32", "b64"});
  if (type == kPredicate) return invert_predicate;
  return for_integer(type,
                     [](auto tag) -> Handler { return invert<typename decltype(tag)::type>; });
}

Handler decode_cnot(Decoder& d) {
  return for_integer(unary(d, {"b16", "b32", "b64"}),
                     [](auto tag) -> Handler { return is_zero<typename decltype(tag)::type>; });
}

// Bit k of the table is the result where the three bits are the digits of k.
void look_up(Thread& t, const Instruction& i) {
  std::uint32_t result = 0;
  for (unsigned bit = 0; bit < 32; ++bit) {
    unsigned k = 0;
    for (int source = 0; source < 3; ++source) {
      k = k * 2 + (t.get<std::uint32_t>(i.from[source]) >> bit & 1);
    }
    result |= std::uint32_t(i.mode >> k & 1) << bit;
  }
  t.set(i.to[0], result);
}

Handler decode_look_up(Decoder& d) {
  d.type({"b32"});
  d.to(kBits32);
  for (int k = 0; k < 3; ++k) d.from(kBits32);
  d.instruction().mode = std::uint8_t(d.number());
  d.end();
  return look_up;
}

// ---- shifts: by 32 bits' worth of distance, and all bits out where it is the width or more

template <class T>
void shift_left(Thread& t, const Instruction& i) {
  const auto by = t.get<std::uint32_t>(i.from[1]);
  t.set<T>(i.to[0], by >= kBits<T> ? T(0) : T(std::uint64_t(t.get<T>(i.from[0])) << by));
}

template <class T>
void shift_right(Thread& t, const Instruction& i) {
  const auto by = t.get<std::uint32_t>(i.from[1]);
  const T x = t.get<T>(i.from[0]);
  const T empty = x < 0 ? T(-1) : T(0);
  t.set<T>(i.to[0], by >= kBits<T> ? empty : T(x >> by));
}

Type shift_operands(Decoder& d, Types types) {
  const Type type = d.type(types);
  d.to(type);
  d.from(type);
  d.from(kBits32);
  d.end();
  return type;
}

Handler decode_shift_left(Decoder& d) {
  return for_integer(shift_operands(d, {"b16", "b32", "b64"}),
                     [](auto tag) -> Handler { return shift_left<typename decltype(tag)::type>; });
}
Handler decode_shift_right(Decoder& d) {
  const Types types = {"b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64"};
  return for_integer(shift_operands(d, types),
                     [](auto tag) -> Handler { return shift_right<typename decltype(tag)::type>; });
}

// Of two words put together, the second above the first: the upper word of a shift to the left, the
// lower of one to the right.
template <bool kLeft, bool kClamps>
void funnel(Thread& t, const Instruction& i) {
  const std::uint64_t both =
      t.get<std::uint32_t>(i.from[0]) | std::uint64_t(t.get<std::uint32_t>(i.from[1])) << 32;
  const auto asked = t.get<std::uint32_t>(i.from[2]);
  const std::uint32_t by = kClamps ? std::min(asked, 32u) : asked & 31;
  t.set(i.to[0], std::uint32_t(kLeft ? both << by >> 32 : both >> by));
}

Handler decode_funnel(Decoder& d) {
  const bool left = d.one_of({"l", "r"}) == 0, clamps = d.one_of({"wrap", "clamp"}) == 1;
  d.type({"b32"});
  d.to(kBits32);
  for (int k = 0; k < 3; ++k) d.from(kBits32);
  d.end();
  if (left) return clamps ? funnel<true, true> : funnel<true, false>;
  return clamps ? funnel<false, true> : funnel<false, false>;
}

// ---- fields: position and length are the low bytes of their operands

template <class T>
void insert_field(Thread& t, const Instruction& i) {
  const T field = t.get<T>(i.from[0]), base = t.get<T>(i.from[1]);
  const unsigned position = t.get<std::uint8_t>(i.from[2]);
  const unsigned length = t.get<std::uint8_t>(i.from[3]);
  const T ones = length >= kBits<T> ? T(-1) : T((T(1) << length) - 1);
  const T mask = position >= kBits<T> ? T(0) : T(ones << position);
  const T moved = position >= kBits<T> ? T(0) : T(field << position);
  t.set<T>(i.to[0], T((base & ~mask) | (moved & mask)));
}

Handler decode_insert_field(Decoder& d) {
  const Type type = d.type({"b32", "b64"});
  d.to(type);
  d.from(type);
  d.from(type);
  d.from(kBits32);
  d.from(kBits32);
  d.end();
  return type.bits == 32 ? insert_field<std::uint32_t> : insert_field<std::uint64_t>;
}

// A signed field is extended by its highest bit, which is the operand's where the field goes
// beyond.
template <class T>
void extract_field(Thread& t, const Instruction& i) {
  const T x = t.get<T>(i.from[0]);
  const unsigned position = t.get<std::uint8_t>(i.from[1]);
  const unsigned length = t.get<std::uint8_t>(i.from[2]);
  const unsigned last = std::min(position + length - 1, kBits<T> - 1);
  const bool negative = std::is_signed_v<T> && length > 0 && (x >> last & 1) != 0;
  std::uint64_t result = 0;
  for (unsigned bit = 0; bit < kBits<T>; ++bit) {
    const bool inside = bit < length && position + bit < kBits<T>;
    const bool one = inside ? (x >> (position + bit) & 1) != 0 : negative;
    result |= std::uint64_t(one) << bit;
  }
  t.set<T>(i.to[0], T(result));
}

Handler decode_extract_field(Decoder& d) {
  const Type type = d.type({"u32", "u64", "s32", "s64"});
  d.to(type);
  d.from(type);
  d.from(kBits32);
  d.from(kBits32);
  d.end();
  return for_integer(
      type, [](auto tag) -> Handler { return extract_field<typename decltype(tag)::type>; });
}

// ---- counts

// The position of the highest bit that is not a copy of the sign; all ones if there is none. The
// mode says whether the distance from the top is asked for.
template <class T>
void find_highest(Thread& t, const Instruction& i) {
  T x = t.get<T>(i.from[0]);
  if (x < 0) x = T(~x);
  if (x == 0) return t.set(i.to[0], ~std::uint32_t(0));
  const unsigned position = 63 - unsigned(__builtin_clzll(std::uint64_t(x)));
  t.set(i.to[0], std::uint32_t(i.mode != 0 ? kBits<T> - 1 - position : position));
}

Handler decode_find_highest(Decoder& d) {
  d.instruction().mode = d.take("shiftamt");
  const Type type = d.type({"u32", "u64", "s32", "s64"});
  d.to(kBits32);
  d.from(type);
  d.end();
  return for_integer(
      type, [](auto tag) -> Handler { return find_highest<typename decltype(tag)::type>; });
}

template <class T>
void count_ones(Thread& t, const Instruction& i) {
  t.set(i.to[0], std::uint32_t(__builtin_popcountll(t.get<T>(i.from[0]))));
}

template <class T>
void count_leading_zeros(Thread& t, const Instruction& i) {
  const T x = t.get<T>(i.from[0]);
  const int zeros = x == 0 ? 64 : __builtin_clzll(x);
  t.set(i.to[0], std::uint32_t(zeros - int(64 - kBits<T>)));
}

Type count_operands(Decoder& d) {
  const Type type = d.type({"b32", "b64"});
  d.to(kBits32);
  d.from(type);
  d.end();
  return type;
}

Handler decode_count_ones(Decoder& d) {
  return count_operands(d).bits == 32 ? count_ones<std::uint32_t> : count_ones<std::uint64_t>;
}
Handler decode_count_leading_zeros(Decoder& d) {
  return count_operands(d).bits == 32 ? count_leading_zeros<std::uint32_t>
                                      : count_leading_zeros<std::uint64_t>;
}

template <class T>
void reverse(Thread& t, const Instruction& i) {
  const T x = t.get<T>(i.from[0]);
  T result = 0;
  for (unsigned bit = 0; bit < kBits<T>; ++bit) {
    result |= T(x >> bit & 1) << (kBits<T> - 1 - bit);
  }
  t.set<T>(i.to[0], result);
}

Handler decode_reverse(Decoder& d) {
  return unary(d, {"b32", "b64"}).bits == 32 ? reverse<std::uint32_t> : reverse<std::uint64_t>;
}

// ---- prmt

enum PermuteMode : std::uint8_t {
  kAnyOrder,
  kForward4,
  kBackward4,
  kReplicate8,
  kEdgeLeft,
  kEdgeRight,
  kReplicate16
};

// Which of the eight bytes goes to place `to`; in the modes, by the low two bits of the selector.
unsigned selected_byte(unsigned mode, std::uint32_t selector, unsigned to) {
  const unsigned s = selector & 3;
  switch (mode) {
    case kForward4:
      return s + to;
    case kBackward4:
      return (s - to) & 7;
    case kReplicate8:
      return s;
    case kEdgeLeft:
      return std::max(s, to);
    case kEdgeRight:
      return std::min(s, to);
    case kReplicate16:
      return (s & 1) * 2 + to % 2;
    default:
      return selector >> (4 * to) & 7;
  }
}

void permute(Thread& t, const Instruction& i) {
  const std::uint64_t bytes =
      t.get<std::uint32_t>(i.from[0]) | std::uint64_t(t.get<std::uint32_t>(i.from[1])) << 32;
  const auto selector = t.get<std::uint32_t>(i.from[2]);
  std::uint32_t result = 0;
  for (unsigned to = 0; to < 4; ++to) {
    std::uint32_t byte = bytes >> (8 * selected_byte(i.mode, selector, to)) & 0xff;
    const bool sign_alone = i.mode == kAnyOrder && (selector >> (4 * to) & 8) != 0;
    if (sign_alone) byte = (byte & 0x80) != 0 ? 0xff : 0;
    result |= byte << (8 * to);
  }
  t.set(i.to[0], result);
}

Handler decode_permute(Decoder& d) {
  d.type({"b32"});
  if (d.more_modifiers()) {
    const unsigned mode = d.one_of({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"});
    d.instruction().mode = std::uint8_t(kForward4 + mode);
  }
  d.to(kBits32);
  for (int k = 0; k < 3; ++k) d.from(kBits32);
  d.end();
  return permute;
}

}  // namespace

std::vector<Operation> bit_operations() {
  return {
      {"and", "bits", decode_logic<And>},    {"or", "bits", decode_logic<Or>},
      {"xor", "bits", decode_logic<Xor>},    {"not", "bits", decode_not},
      {"cnot", "bits", decode_cnot},         {"lop3", "bits", decode_look_up},
      {"shl", "bits", decode_shift_left},    {"shr", "bits", decode_shift_right},
      {"shf", "bits", decode_funnel},        {"bfi", "bits", decode_insert_field},
      {"bfe", "bits", decode_extract_field}, {"bfind", "bits", decode_find_highest},
      {"popc", "bits", decode_count_ones},   {"clz", "bits", decode_count_leading_zeros},
      {"brev", "bits", decode_reverse},      {"prmt", "bits", decode_permute},
  };
}

}  // namespace sslkern::ptx
