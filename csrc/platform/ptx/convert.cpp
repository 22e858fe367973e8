// cvt: between integers, floating-point types and both.
#include <algorithm>

#include "platform/ptx/operations.h"
#include "platform/ptx/thread.h"
#include "platform/ptx/values.h"

namespace sslkern::ptx {
namespace {

constexpr Types kIntegers = {"u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64"};
constexpr Types kTargets = {"u8",  "u16", "u32", "u64",  "s8",     "s16",   "s32", "s64",
                            "f16", "f32", "f64", "bf16", "bf16x2", "f16x2", "tf32"};
constexpr Types kSources = {"u8",  "u16", "u32", "u64", "s8",  "s16",
                            "s32", "s64", "f16", "f32", "f64", "bf16"};

bool is_integer(Type type) { return type.kind == 'u' || type.kind == 's'; }
bool is_real(Type type) { return type.kind == 'f' && type.bits >= 32; }

// ---- the conversions; to and from are what C++ calls the types

template <class To, class From>
void integer_to_integer(Thread& t, const Instruction& i) {
  const __int128 x = t.get<From>(i.from[0]);
  using Limits = std::numeric_limits<To>;
  const __int128 clamped = std::clamp<__int128>(x, Limits::min(), Limits::max());
  t.set<To>(i.to[0], To(i.saturate ? clamped : x));
}

template <class To, class From>
void integer_to_real(Thread& t, const Instruction& i) {
  volatile From x = t.get<From>(i.from[0]);
  const To result = rounded(i.rounding, [&] { return To(x); });
  t.set<To>(i.to[0], i.saturate ? saturated(result) : result);
}

template <class T>
T real_source(const Thread& t, const Instruction& i) {
  const T x = t.get<T>(i.from[0]);
  return i.flush ? flushed(x) : x;
}

template <class To, class From>
void real_to_integer(Thread& t, const Instruction& i) {
  t.set<To>(i.to[0], to_integer<To>(integral(real_source<From>(t, i), i.rounding)));
}

template <class T>
void set_real(Thread& t, const Instruction& i, T x) {
  if (i.flush) x = flushed(x);
  if (i.saturate) x = saturated(x);
  t.set<T>(i.to[0], canonical(x));
}

template <class To, class From>
void real_to_real(Thread& t, const Instruction& i) {
  volatile From x = real_source<From>(t, i);
  set_real<To>(t, i, rounded(i.rounding, [&] { return To(x); }));
}

template <class T>
void real_to_integral_real(Thread& t, const Instruction& i) {
  set_real<T>(t, i, integral(real_source<T>(t, i), i.rounding));
}

template <std::uint16_t (*kNarrow)(float, Rounding)>
void real_to_half(Thread& t, const Instruction& i) {
  t.set(i.to[0], kNarrow(t.get<float>(i.from[0]), i.rounding));
}

// The first source becomes the upper half.
template <std::uint16_t (*kNarrow)(float, Rounding)>
void reals_to_halves(Thread& t, const Instruction& i) {
  const std::uint32_t upper = kNarrow(t.get<float>(i.from[0]), i.rounding);
  const std::uint32_t lower = kNarrow(t.get<float>(i.from[1]), i.rounding);
  t.set(i.to[0], upper << 16 | lower);
}

template <float (*kWiden)(std::uint16_t)>
void half_to_real(Thread& t, const Instruction& i) {
  set_real<float>(t, i, kWiden(t.get<std::uint16_t>(i.from[0])));
}

void real_to_tf32(Thread& t, const Instruction& i) {
  t.set(i.to[0], to_tf32(t.get<float>(i.from[0]), i.rounding));
}

// ---- which of them

struct Modifiers {
  bool rounds, rounds_to_integral;
};

void refuse_if(Decoder& d, bool refused) {
  if (refused) d.refuse("no such conversion is modelled");
}

Handler integers(Decoder& d, Type to, Type from, Modifiers m) {
  refuse_if(d, m.rounds || m.rounds_to_integral || d.instruction().flush);
  return for_integer(to, [&](auto to_tag) -> Handler {
    return for_integer(from, [](auto from_tag) -> Handler {
      return integer_to_integer<typename decltype(to_tag)::type, typename decltype(from_tag)::type>;
    });
  });
}

Handler from_integer(Decoder& d, Type to, Type from, Modifiers m) {
  refuse_if(d, !m.rounds || d.instruction().flush);
  return for_real(to, [&](auto to_tag) -> Handler {
    return for_integer(from, [](auto from_tag) -> Handler {
      return integer_to_real<typename decltype(to_tag)::type, typename decltype(from_tag)::type>;
    });
  });
}

Handler to_integer_type(Decoder& d, Type to, Type from, Modifiers m) {
  refuse_if(d, !m.rounds_to_integral);
  return for_integer(to, [&](auto to_tag) -> Handler {
    return for_real(from, [](auto from_tag) -> Handler {
      return real_to_integer<typename decltype(to_tag)::type, typename decltype(from_tag)::type>;
    });
  });
}

Handler reals(Decoder& d, Type to, Type from, Modifiers m) {
  if (to == from) {
    refuse_if(d, m.rounds);
    if (!m.rounds_to_integral)
      return to.bits == 32 ? real_to_real<float, float> : real_to_real<double, double>;
    return to.bits == 32 ? real_to_integral_real<float> : real_to_integral_real<double>;
  }
  refuse_if(d, m.rounds_to_integral || m.rounds != (to.bits == 32));
  return to.bits == 32 ? real_to_real<float, double> : real_to_real<double, float>;
}

// float32 to a type of 16 bits, two of them or tf32.
Handler narrowing(Decoder& d, Type to, Modifiers m) {
  const Instruction& i = d.instruction();
  const bool down_or_up = i.rounding == Rounding::kDown || i.rounding == Rounding::kUp;
  refuse_if(d, !m.rounds || down_or_up || i.saturate || i.flush);
  if (to.kind == 't') return real_to_tf32;
  refuse_if(d, i.rounding == Rounding::kNearestAway);
  if (to.kind == 'F') return reals_to_halves<to_f16>;
  if (to.kind == 'H') return reals_to_halves<to_bf16>;
  return to.kind == 'f' ? real_to_half<to_f16> : real_to_half<to_bf16>;
}

Handler choose(Decoder& d, Type to, Type from, Modifiers m) {
  const Type single{'f', 32};
  const bool wide_enough = d.instruction().rounding != Rounding::kNearestAway;
  if (from == single && !is_integer(to) && !is_real(to)) return narrowing(d, to, m);
  refuse_if(d, !wide_enough);
  if (is_integer(to) && is_integer(from)) return integers(d, to, from, m);
  if (is_real(to) && is_integer(from)) return from_integer(d, to, from, m);
  if (is_integer(to) && is_real(from)) return to_integer_type(d, to, from, m);
  if (is_real(to) && is_real(from)) return reals(d, to, from, m);
  refuse_if(d, to != single || from.bits != 16 || m.rounds || m.rounds_to_integral);
  return from.kind == 'h' ? half_to_real<simt::from_bf16> : half_to_real<simt::from_f16>;
}

Handler decode_convert(Decoder& d) {
  Instruction& i = d.instruction();
  Modifiers m{};
  m.rounds_to_integral = d.rounding("i");
  m.rounds = !m.rounds_to_integral && d.rounding();
  if (d.take("rna")) {
    m.rounds = true;
    i.rounding = Rounding::kNearestAway;
  }
  d.flushing();
  i.saturate = d.take("sat");
  const Type to = d.type(kTargets), from = d.type(kSources);
  const bool single = to == Type{'f', 32} || from == Type{'f', 32};
  if (i.flush && !single) d.refuse(".ftz is for .f32");
  d.to_wide(to);
  d.from_wide(from);
  if (to.kind == 'F' || to.kind == 'H') d.from_wide(from);
  d.end();
  return choose(d, to, from, m);
}

}  // namespace

std::vector<Operation> convert_operations() { return {{"cvt", "convert", decode_convert}}; }

}  // namespace sslkern::ptx
