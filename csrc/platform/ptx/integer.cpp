// Integer arithmetic. All of it wraps. What PTX leaves open: a division by zero gives all ones, its
// remainder the dividend.
#include <algorithm>

#include "platform/ptx/functors.h"
#include "platform/ptx/operations.h"
#include "platform/ptx/thread.h"

namespace sslkern::ptx {
namespace {

constexpr Types kAll = {"u16", "u32", "u64", "s16", "s32", "s64"};
constexpr Types kSigned = {"s16", "s32", "s64"};
constexpr Types kWords = {"u32", "u64", "s32", "s64"};

template <class T>
T wrapped(unsigned __int128 x) {
  return T(x);
}

struct Subtract {
  template <class T>
  T operator()(T a, T b) const {
    return T(std::uint64_t(a) - std::uint64_t(b));
  }
};
struct MultiplyLow {
  template <class T>
  T operator()(T a, T b) const {
    return T(std::uint64_t(a) * std::uint64_t(b));
  }
};
struct MultiplyHigh {
  template <class T>
  T operator()(T a, T b) const {
    return T((__int128(a) * __int128(b)) >> (sizeof(T) * 8));
  }
};
template <>
std::uint64_t MultiplyHigh::operator()(std::uint64_t a, std::uint64_t b) const {
  return std::uint64_t((static_cast<unsigned __int128>(a) * b) >> 64);
}
struct Divide {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return T(-1);
    return T(__int128(a) / __int128(b));
  }
};
struct Remainder {
  template <class T>
  T operator()(T a, T b) const {
    return b == 0 ? a : T(__int128(a) % __int128(b));
  }
};
struct AddSaturated {
  std::int32_t operator()(std::int32_t a, std::int32_t b) const {
    return std::int32_t(std::clamp<std::int64_t>(std::int64_t(a) + b, INT32_MIN, INT32_MAX));
  }
};
struct SubtractSaturated {
  std::int32_t operator()(std::int32_t a, std::int32_t b) const {
    return std::int32_t(std::clamp<std::int64_t>(std::int64_t(a) - b, INT32_MIN, INT32_MAX));
  }
};

template <class T, class Op>
void binary(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], Op{}(t.get<T>(i.from[0]), t.get<T>(i.from[1])));
}

// Op on the first two, the third added.
template <class T, class Op>
void combine_and_add(Thread& t, const Instruction& i) {
  const T product = Op{}(t.get<T>(i.from[0]), t.get<T>(i.from[1]));
  t.set<T>(i.to[0], Add{}(product, t.get<T>(i.from[2])));
}

template <class Op>
Handler decode_plain(Decoder& d, Types types) {
  const Type type = d.type(types);
  d.to(type);
  d.from(type);
  d.from(type);
  d.end();
  return for_integer(type,
                     [](auto tag) -> Handler { return binary<typename decltype(tag)::type, Op>; });
}

Handler decode_divide(Decoder& d) { return decode_plain<Divide>(d, kAll); }
Handler decode_remainder(Decoder& d) { return decode_plain<Remainder>(d, kAll); }
Handler decode_minimum(Decoder& d) { return decode_plain<Minimum>(d, kAll); }
Handler decode_maximum(Decoder& d) { return decode_plain<Maximum>(d, kAll); }

// ---- carries: the mode says what an instruction reads and writes of the flag

constexpr std::uint8_t kReadsCarry = 1, kWritesCarry = 2, kSubtracts = 4;

// a + b + carry, or a - b - carry, whose flag is a borrow.
template <class T>
T add_with_carry(Thread& t, const Instruction& i, T a, T b) {
  const unsigned in = (i.mode & kReadsCarry) != 0 && t.carry ? 1 : 0;
  using Wide = unsigned __int128;
  const Wide sum = (i.mode & kSubtracts) != 0 ? Wide(a) - Wide(b) - in : Wide(a) + Wide(b) + in;
  if ((i.mode & kWritesCarry) != 0) t.carry = (sum >> (sizeof(T) * 8) & 1) != 0;
  return wrapped<T>(sum);
}

template <class T>
void carrying_sum(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], add_with_carry(t, i, t.get<T>(i.from[0]), t.get<T>(i.from[1])));
}

template <class T, class S, class Op>
void carrying_product(Thread& t, const Instruction& i) {
  const T product = T(Op{}(t.get<S>(i.from[0]), t.get<S>(i.from[1])));
  t.set<T>(i.to[0], add_with_carry(t, i, product, t.get<T>(i.from[2])));
}

Handler decode_carrying_sum(Decoder& d, std::uint8_t mode) {
  d.instruction().mode = mode;
  const Type type = d.type({"u32", "s32", "u64", "s64"});
  d.to(type);
  d.from(type);
  d.from(type);
  d.end();
  return type.bits == 32 ? carrying_sum<std::uint32_t> : carrying_sum<std::uint64_t>;
}

std::uint8_t carry_out(Decoder& d) { return d.take("cc") ? kWritesCarry : 0; }

Handler decode_add(Decoder& d) {
  if (d.take("cc")) return decode_carrying_sum(d, kWritesCarry);
  if (!d.take("sat")) return decode_plain<Add>(d, kAll);
  decode_plain<Add>(d, {"s32"});
  return binary<std::int32_t, AddSaturated>;
}
Handler decode_subtract(Decoder& d) {
  if (d.take("cc")) return decode_carrying_sum(d, kWritesCarry | kSubtracts);
  if (!d.take("sat")) return decode_plain<Subtract>(d, kAll);
  decode_plain<Subtract>(d, {"s32"});
  return binary<std::int32_t, SubtractSaturated>;
}
Handler decode_add_carry(Decoder& d) {
  return decode_carrying_sum(d, std::uint8_t(kReadsCarry | carry_out(d)));
}
Handler decode_subtract_carry(Decoder& d) {
  return decode_carrying_sum(d, std::uint8_t(kReadsCarry | kSubtracts | carry_out(d)));
}

// ---- products

template <class T, class Wide, bool kAdds>
void widening_product(Thread& t, const Instruction& i) {
  Wide result = Wide(std::uint64_t(t.get<T>(i.from[0])) * std::uint64_t(t.get<T>(i.from[1])));
  if (kAdds) result = Add{}(result, t.get<Wide>(i.from[2]));
  t.set<Wide>(i.to[0], result);
}

template <bool kAdds>
Handler decode_widening(Decoder& d) {
  const Type type = d.type({"u16", "u32", "s16", "s32"}), wide{type.kind, type.bits * 2};
  d.to(wide);
  d.from(type);
  d.from(type);
  if (kAdds) d.from(wide);
  d.end();
  if (type.bits == 16) {
    return type.kind == 's' ? widening_product<std::int16_t, std::int32_t, kAdds>
                            : widening_product<std::uint16_t, std::uint32_t, kAdds>;
  }
  return type.kind == 's' ? widening_product<std::int32_t, std::int64_t, kAdds>
                          : widening_product<std::uint32_t, std::uint64_t, kAdds>;
}

Handler decode_multiply(Decoder& d) {
  switch (d.one_of({"wide", "lo", "hi"})) {
    case 0:
      return decode_widening<false>(d);
    case 1:
      return decode_plain<MultiplyLow>(d, kAll);
    default:
      return decode_plain<MultiplyHigh>(d, kAll);
  }
}

void three_sources(Decoder& d, Type type) {
  d.to(type);
  for (int k = 0; k < 3; ++k) d.from(type);
  d.end();
}

template <class Op>
Handler decode_carrying_product(Decoder& d, std::uint8_t mode) {
  d.instruction().mode = mode;
  const Type type = d.type(kWords);
  three_sources(d, type);
  return for_integer(type, [](auto tag) -> Handler {
    using S = typename decltype(tag)::type;
    return carrying_product<std::make_unsigned_t<S>, S, Op>;
  });
}

template <class Op>
Handler decode_multiply_add_half(Decoder& d) {
  if (d.take("cc")) return decode_carrying_product<Op>(d, kWritesCarry);
  const Type type = d.type(kAll);
  three_sources(d, type);
  return for_integer(
      type, [](auto tag) -> Handler { return combine_and_add<typename decltype(tag)::type, Op>; });
}

Handler decode_multiply_add(Decoder& d) {
  switch (d.one_of({"wide", "lo", "hi"})) {
    case 0:
      return decode_widening<true>(d);
    case 1:
      return decode_multiply_add_half<MultiplyLow>(d);
    default:
      return decode_multiply_add_half<MultiplyHigh>(d);
  }
}

Handler decode_multiply_add_carry(Decoder& d) {
  const bool low = d.one_of({"lo", "hi"}) == 0;
  const auto mode = std::uint8_t(kReadsCarry | carry_out(d));
  return low ? decode_carrying_product<MultiplyLow>(d, mode)
             : decode_carrying_product<MultiplyHigh>(d, mode);
}

// ---- one operand

template <class T>
void absolute(Thread& t, const Instruction& i) {
  const T x = t.get<T>(i.from[0]);
  t.set<T>(i.to[0], x < 0 ? Subtract{}(T(0), x) : x);
}

template <class T>
void negate(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], Subtract{}(T(0), t.get<T>(i.from[0])));
}

Type decode_unary(Decoder& d) {
  const Type type = d.type(kSigned);
  d.to(type);
  d.from(type);
  d.end();
  return type;
}

Handler decode_absolute(Decoder& d) {
  return for_integer(decode_unary(d),
                     [](auto tag) -> Handler { return absolute<typename decltype(tag)::type>; });
}
Handler decode_negate(Decoder& d) {
  return for_integer(decode_unary(d),
                     [](auto tag) -> Handler { return negate<typename decltype(tag)::type>; });
}

}  // namespace

std::vector<Operation> integer_operations() {
  return {
      {"add", "integer", decode_add},
      {"sub", "integer", decode_subtract},
      {"addc", "integer", decode_add_carry},
      {"subc", "integer", decode_subtract_carry},
      {"mul", "integer", decode_multiply},
      {"mad", "integer", decode_multiply_add},
      {"madc", "integer", decode_multiply_add_carry},
      {"div", "integer", decode_divide},
      {"rem", "integer", decode_remainder},
      {"min", "integer", decode_minimum},
      {"max", "integer", decode_maximum},
      {"abs", "integer", decode_absolute},
      {"neg", "integer", decode_negate},
  };
}

}  // namespace sslkern::ptx
