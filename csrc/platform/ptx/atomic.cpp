// atom and red. Threads run one at a time, so that every access is atomic; which are meant to be is
// told to the check for races. Orders other than .relaxed are not modelled.
#include "platform/ptx/access.h"
#include "platform/ptx/functors.h"
#include "platform/ptx/operations.h"
#include "platform/ptx/values.h"

namespace sslkern::ptx {
namespace {

// The new value, from the one that is there and the operands.
struct Exchange {
  template <class T>
  T operator()(T, T x) const {
    return x;
  }
};
struct CompareAndSwap {
  template <class T>
  T operator()(T before, T expected, T x) const {
    return before == expected ? x : before;
  }
};
struct Increment {  // back to 0 behind the bound
  template <class T>
  T operator()(T before, T bound) const {
    return before >= bound ? T(0) : T(before + 1);
  }
};
struct Decrement {
  template <class T>
  T operator()(T before, T bound) const {
    return before == 0 || before > bound ? bound : T(before - 1);
  }
};

// float32 sums in global memory flush subnormal numbers, those in shared memory do not.
bool flushes(const Thread& t, const Instruction& i, const char* p) {
  constexpr std::ptrdiff_t kMostShared = 1 << 20;
  const std::ptrdiff_t offset = p - t.shared;
  const bool shared = i.space == Space::kShared || (offset >= 0 && offset < kMostShared);
  return !shared;
}

template <class T, class Op>
void update(Thread& t, const Instruction& i) {
  char* p = address_of(t, i);
  check_access(t, i, p, sizeof(T), simt::Access::kAtomic);
  T before;
  std::memcpy(&before, p, sizeof(T));
  T x = t.get<T>(i.from[1]), after;
  if constexpr (std::is_same_v<T, float>) {
    const bool flush = flushes(t, i, p);
    const float from = flush ? flushed(before) : before;
    after = Op{}(from, flush ? flushed(x) : x);
    after = canonical(flush ? flushed(after) : after);
  } else if constexpr (std::is_same_v<Op, CompareAndSwap>) {
    after = Op{}(before, x, t.get<T>(i.from[2]));
  } else {
    after = Op{}(before, x);
  }
  std::memcpy(p, &after, sizeof(T));
  if (i.results > 0) t.set<T>(i.to[0], before);
}

template <class Op>
Handler integral(Type type) {
  return for_integer(type, [](auto tag) -> Handler {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) >= 4) {
      return update<T, Op>;
    } else {
      return nullptr;  // no such type is read
    }
  });
}

Handler addition(Type type) {
  if (type.kind != 'f') return integral<Add>(type);
  return type.bits == 32 ? Handler(update<float, Add>) : Handler(update<double, Add>);
}

Handler operation(Decoder& d, Type& type) {
  const Types bits = {"b32", "b64"}, words = {"u32", "u64", "s32", "s64"};
  switch (d.one_of({"add", "min", "max", "and", "or", "xor", "inc", "dec", "exch", "cas"})) {
    case 0:
      return addition(type = d.type({"u32", "u64", "s32", "s64", "f32", "f64"}));
    case 1:
      return integral<Minimum>(type = d.type(words));
    case 2:
      return integral<Maximum>(type = d.type(words));
    case 3:
      return integral<And>(type = d.type(bits));
    case 4:
      return integral<Or>(type = d.type(bits));
    case 5:
      return integral<Xor>(type = d.type(bits));
    case 6:
      return integral<Increment>(type = d.type({"u32"}));
    case 7:
      return integral<Decrement>(type = d.type({"u32"}));
    case 8:
      return integral<Exchange>(type = d.type(bits));
    default:
      d.instruction().mode = 1;  // takes two operands
      return integral<CompareAndSwap>(type = d.type(bits));
  }
}

// A block's own scope is refused where other blocks might take part.
Space space_and_scope(Decoder& d) {
  d.take("relaxed");
  const bool own_block = d.take("cta");
  if (!own_block) d.take_any({"gpu", "sys"});
  const Space space = d.take("global")                        ? Space::kGlobal
                      : d.take_any({"shared", "shared::cta"}) ? Space::kShared
                                                              : Space::kGeneric;
  if (own_block && space != Space::kShared) d.refuse("scope .cta is for .shared alone");
  return space;
}

Handler decode_update(Decoder& d, bool returns) {
  const Space space = space_and_scope(d);
  Type type{};
  const Handler handler = operation(d, type);
  if (returns) d.to(type);
  d.address(space);
  d.from(type);
  if (d.instruction().mode == 1) d.from(type);
  d.end();
  return handler;
}

Handler decode_atomic(Decoder& d) { return decode_update(d, true); }
Handler decode_reduction(Decoder& d) { return decode_update(d, false); }

}  // namespace

std::vector<Operation> atomic_operations() {
  return {
      {"atom", "atomic", decode_atomic},
      {"red", "atomic", decode_reduction},
  };
}

}  // namespace sslkern::ptx
