// Arithmetic of float32 and float64.
//
// The approximate forms (.approx, .full) give the exact value rounded to nearest: what hardware
// gives differs from it in the last bits. All others are as IEEE 754 has them, with the rounding
// that is asked for. Arithmetic of 16-bit types is not modelled.
#include "platform/ptx/operations.h"
#include "platform/ptx/thread.h"
#include "platform/ptx/values.h"

namespace sslkern::ptx {
namespace {

struct Add {
  template <class T>
  T operator()(T a, T b, T) const {
    return a + b;
  }
};
struct Subtract {
  template <class T>
  T operator()(T a, T b, T) const {
    return a - b;
  }
};
struct Multiply {
  template <class T>
  T operator()(T a, T b, T) const {
    return a * b;
  }
};
struct MultiplyAdd {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
struct Divide {
  template <class T>
  T operator()(T a, T b, T) const {
    return a / b;
  }
};
// The other operand where one is NaN; -0 is less than +0.
struct Minimum {
  template <class T>
  T operator()(T a, T b, T) const {
    if (a != a || b != b) return a != a ? b : a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
  }
};
struct Maximum {
  template <class T>
  T operator()(T a, T b, T) const {
    if (a != a || b != b) return a != a ? b : a;
    return a > b || (a == b && !std::signbit(a)) ? a : b;
  }
};
// NaN where one operand is (.NaN).
template <class Op>
struct Propagating {
  template <class T>
  T operator()(T a, T b, T c) const {
    return a != a ? a : b != b ? b : Op{}(a, b, c);
  }
};
struct Absolute {
  template <class T>
  T operator()(T a, T, T) const {
    return std::fabs(a);
  }
};
struct Negate {
  template <class T>
  T operator()(T a, T, T) const {
    return -a;
  }
};
struct Reciprocal {
  template <class T>
  T operator()(T a, T, T) const {
    return T(1) / a;
  }
};
struct SquareRoot {
  template <class T>
  T operator()(T a, T, T) const {
    return std::sqrt(a);
  }
};

// Of float32, by way of double.
template <double (*kFunction)(double)>
struct Function {
  template <class T>
  T operator()(T a, T, T) const {
    return T(kFunction(double(a)));
  }
};
double reciprocal_root(double x) { return 1 / std::sqrt(x); }
double exp2_of(double x) { return std::exp2(x); }
double log2_of(double x) { return std::log2(x); }
double sine(double x) { return std::sin(x); }
double cosine(double x) { return std::cos(x); }
double hyperbolic_tangent(double x) { return std::tanh(x); }

template <class T, class Op>
void evaluate_plainly(Thread& t, const Instruction& i) {
  const T result = Op{}(t.get<T>(i.from[0]), t.get<T>(i.from[1]), t.get<T>(i.from[2]));
  t.set<T>(i.to[0], canonical(result));
}

template <class T, class Op>
void evaluate(Thread& t, const Instruction& i) {
  volatile T in[3];
  for (int k = 0; k < 3; ++k) {
    const T x = t.get<T>(i.from[k]);
    in[k] = i.flush ? flushed(x) : x;
  }
  T result = rounded(i.rounding, [&] { return Op{}(T(in[0]), T(in[1]), T(in[2])); });
  if (i.flush) result = flushed(result);
  if (i.saturate) result = saturated(result);
  t.set<T>(i.to[0], canonical(result));
}

template <class Op>
Handler handler(const Instruction& i, Type type) {
  const bool plain = i.rounding == Rounding::kNearest && !i.flush && !i.saturate;
  return for_real(type, [plain](auto tag) -> Handler {
    using T = typename decltype(tag)::type;
    return plain ? evaluate_plainly<T, Op> : evaluate<T, Op>;
  });
}

// The type and the operands, all of that type.
Type operands(Decoder& d, int sources, Types types = {"f32", "f64"}) {
  const Type type = d.type(types);
  const Instruction& i = d.instruction();
  if (type.bits == 64 && i.saturate) d.refuse(".sat of .f64 is not modelled");
  d.to(type);
  for (int k = 0; k < sources; ++k) d.from(type);
  d.end();
  return type;
}

// [.rnd][.ftz][.sat]
template <class Op>
Handler decode_arithmetic(Decoder& d, int sources, bool rounding_required) {
  if (!d.rounding() && rounding_required) d.refuse("a rounding is missing");
  d.flushing();
  d.instruction().saturate = d.take("sat");
  const Type type = operands(d, sources);
  if (type.bits == 64 && d.instruction().flush) d.refuse("no .ftz of .f64");
  return handler<Op>(d.instruction(), type);
}

Handler decode_add(Decoder& d) { return decode_arithmetic<Add>(d, 2, false); }
Handler decode_subtract(Decoder& d) { return decode_arithmetic<Subtract>(d, 2, false); }
Handler decode_multiply(Decoder& d) { return decode_arithmetic<Multiply>(d, 2, false); }
Handler decode_multiply_add(Decoder& d) { return decode_arithmetic<MultiplyAdd>(d, 3, true); }

// .approx[.ftz].f32, or .rnd[.ftz].f32, .rnd.f64
template <class Op>
Handler decode_exact_or_approximate(Decoder& d, int sources) {
  const bool approximate = d.take("approx");
  if (!approximate && !d.rounding()) d.refuse("neither .approx nor a rounding");
  d.flushing();
  const Type type = operands(d, sources);
  const bool legal = type.bits == 32 || approximate == d.instruction().flush;
  if (!legal) d.refuse("no such form of .f64");
  return handler<Op>(d.instruction(), type);
}

Handler decode_divide(Decoder& d) {
  if (!d.take("full")) return decode_exact_or_approximate<Divide>(d, 2);
  d.flushing();
  return handler<Divide>(d.instruction(), operands(d, 2, {"f32"}));
}
Handler decode_reciprocal(Decoder& d) { return decode_exact_or_approximate<Reciprocal>(d, 1); }
Handler decode_root(Decoder& d) { return decode_exact_or_approximate<SquareRoot>(d, 1); }

template <double (*kFunction)(double)>
Handler decode_function(Decoder& d) {
  d.expect("approx");
  d.flushing();
  return handler<Function<kFunction>>(d.instruction(), operands(d, 1, {"f32"}));
}

// .approx[.ftz].f64 too
Handler decode_reciprocal_root(Decoder& d) {
  d.expect("approx");
  d.flushing();
  return handler<Function<reciprocal_root>>(d.instruction(), operands(d, 1));
}

// [.ftz][.NaN]
template <class Op>
Handler decode_extremum(Decoder& d) {
  d.flushing();
  const bool propagating = d.take("NaN");
  const Type type = operands(d, 2);
  if (type.bits == 64 && (propagating || d.instruction().flush)) d.refuse("no such form of .f64");
  return propagating ? handler<Propagating<Op>>(d.instruction(), type)
                     : handler<Op>(d.instruction(), type);
}

template <class Op>
Handler decode_sign(Decoder& d) {
  d.flushing();
  const Type type = operands(d, 1);
  if (type.bits == 64 && d.instruction().flush) d.refuse("no .ftz of .f64");
  return handler<Op>(d.instruction(), type);
}

// The sign of the first, the size of the second. Even of NaN, so not as the others.
template <class T>
void copy_sign(Thread& t, const Instruction& i) {
  t.set<T>(i.to[0], std::copysign(t.get<T>(i.from[1]), t.get<T>(i.from[0])));
}

Handler decode_copy_sign(Decoder& d) {
  return for_real(operands(d, 2),
                  [](auto tag) -> Handler { return copy_sign<typename decltype(tag)::type>; });
}

// ---- testp

template <class T>
bool has_property(T x, std::uint8_t property) {
  const int kind = std::fpclassify(x);
  const bool results[] = {std::isfinite(x) != 0, std::isinf(x) != 0,  x == x, x != x,
                          kind == FP_NORMAL,     kind == FP_SUBNORMAL};
  return results[property];
}

template <class T>
void test(Thread& t, const Instruction& i) {
  t.set<std::uint8_t>(i.to[0], has_property(t.get<T>(i.from[0]), i.mode));
}

Handler decode_test(Decoder& d) {
  d.instruction().mode =
      std::uint8_t(d.one_of({"finite", "infinite", "number", "notanumber", "normal", "subnormal"}));
  const Type type = d.type({"f32", "f64"});
  d.to(kPredicate);
  d.from(type);
  d.end();
  return for_real(type, [](auto tag) -> Handler { return test<typename decltype(tag)::type>; });
}

}  // namespace

std::vector<Operation> floating_operations() {
  return {
      {"add", "real", decode_add},
      {"sub", "real", decode_subtract},
      {"mul", "real", decode_multiply},
      {"fma", "real", decode_multiply_add},
      {"mad", "real", decode_multiply_add},
      {"div", "real", decode_divide},
      {"min", "real", decode_extremum<Minimum>},
      {"max", "real", decode_extremum<Maximum>},
      {"abs", "real", decode_sign<Absolute>},
      {"neg", "real", decode_sign<Negate>},
      {"copysign", "real", decode_copy_sign},
      {"testp", "real", decode_test},
      {"rcp", "function", decode_reciprocal},
      {"sqrt", "function", decode_root},
      {"rsqrt", "function", decode_reciprocal_root},
      {"ex2", "function", decode_function<exp2_of>},
      {"lg2", "function", decode_function<log2_of>},
      {"sin", "function", decode_function<sine>},
      {"cos", "function", decode_function<cosine>},
      {"tanh", "function", decode_function<hyperbolic_tangent>},
  };
}

}  // namespace sslkern::ptx
