// Comparisons, and choices by their results.
#include <cstring>

#include "platform/ptx/operations.h"
#include "platform/ptx/thread.h"
#include "platform/ptx/values.h"

namespace sslkern::ptx {
namespace {

// How two values relate; a comparison is a set of these that it is true for.
enum Relation : std::uint8_t { kLess = 1, kEqual = 2, kGreater = 4, kUnordered = 8 };

struct Comparison {
  const char* name;
  std::uint8_t relations;
  const char* kinds;  // of the types that have it
};

constexpr Comparison kComparisons[] = {
    {"eq", kEqual, "busf"},
    {"ne", kLess | kGreater, "busf"},
    {"lt", kLess, "usf"},
    {"le", kLess | kEqual, "usf"},
    {"gt", kGreater, "usf"},
    {"ge", kGreater | kEqual, "usf"},
    {"lo", kLess, "u"},
    {"ls", kLess | kEqual, "u"},
    {"hi", kGreater, "u"},
    {"hs", kGreater | kEqual, "u"},
    {"equ", kEqual | kUnordered, "f"},
    {"neu", kLess | kGreater | kUnordered, "f"},
    {"ltu", kLess | kUnordered, "f"},
    {"leu", kLess | kEqual | kUnordered, "f"},
    {"gtu", kGreater | kUnordered, "f"},
    {"geu", kGreater | kEqual | kUnordered, "f"},
    {"num", kLess | kEqual | kGreater, "f"},
    {"nan", kUnordered, "f"},
};

enum class Boolean : std::uint8_t { kAnd, kOr, kXor };

// In the mode: the relations in the low four bits, then how the third source is combined.
constexpr std::uint8_t kCombines = 16;
constexpr unsigned kBooleanShift = 5;

bool combine(bool a, bool b, Boolean how) {
  switch (how) {
    case Boolean::kAnd:
      return a && b;
    case Boolean::kOr:
      return a || b;
    default:
      return a != b;
  }
}

template <class T>
std::uint8_t relation(T a, T b) {
  return a < b ? kLess : a > b ? kGreater : a == b ? kEqual : kUnordered;
}

// The first result is that of the comparison, the second that of its opposite.
template <class T>
void compare(Thread& t, const Instruction& i) {
  T a = t.get<T>(i.from[0]), b = t.get<T>(i.from[1]);
  if constexpr (std::is_floating_point_v<T>) {
    if (i.flush) a = flushed(a), b = flushed(b);
  }
  const bool holds = (relation(a, b) & i.mode) != 0;
  bool results[2] = {holds, !holds};
  if ((i.mode & kCombines) != 0) {
    const bool other = t.predicate(i.from[2]) != i.negated;
    for (bool& r : results) r = combine(r, other, Boolean(i.mode >> kBooleanShift));
  }
  for (int k = 0; k < i.results; ++k) t.set<std::uint8_t>(i.to[k], results[k]);
}

const Comparison& comparison(Decoder& d) {
  for (const Comparison& c : kComparisons) {
    if (d.take(c.name)) return c;
  }
  d.refuse("this comparison is not modelled");
}

void boolean(Decoder& d) {
  Boolean how;
  if (d.take("and")) {
    how = Boolean::kAnd;
  } else if (d.take("or")) {
    how = Boolean::kOr;
  } else if (d.take("xor")) {
    how = Boolean::kXor;
  } else {
    return;
  }
  d.instruction().mode |= std::uint8_t(kCombines | unsigned(how) << kBooleanShift);
}

template <class F>
Handler for_any(Type type, const F& f) {
  return type.kind == 'f' ? for_real(type, f) : for_integer(type, f);
}

Handler decode_compare(Decoder& d) {
  const Comparison& wanted = comparison(d);
  Instruction& i = d.instruction();
  // An ordered != is false of NaN, as all that are ordered.
  i.mode = wanted.relations;
  boolean(d);
  d.flushing();
  const Type type =
      d.type({"b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"});
  if (std::strchr(wanted.kinds, type.kind) == nullptr) d.refuse("no such comparison of this type");
  if (i.flush && type != Type{'f', 32}) d.refuse(".ftz is for .f32");
  d.to(kPredicate);
  if (d.joined()) d.to(kPredicate);
  d.from(type);
  d.from(type);
  if ((i.mode & kCombines) != 0) d.from_predicate();
  d.end();
  return for_any(type, [](auto tag) -> Handler { return compare<typename decltype(tag)::type>; });
}

// ---- choices

template <class T>
void select(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], t.get<T>(i.from[t.predicate(i.from[2]) ? 0 : 1]));
}

Handler decode_select(Decoder& d) {
  const Type type =
      d.type({"b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"});
  d.to(type);
  d.from(type);
  d.from(type);
  d.from(kPredicate);
  d.end();
  return for_integer({'b', type.bits},
                     [](auto tag) -> Handler { return select<typename decltype(tag)::type>; });
}

}  // namespace

std::vector<Operation> compare_operations() {
  return {
      {"setp", "compare", decode_compare},
      {"selp", "compare", decode_select},
  };
}

}  // namespace sslkern::ptx
