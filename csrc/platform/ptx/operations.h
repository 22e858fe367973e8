// The opcodes that are modelled, by group. What is not here is refused.
#pragma once
#include <vector>

#include "platform/ptx/decoder.h"

namespace sslkern::ptx {

// Reads the rest of a statement and says what executes it.
using Decode = Handler (*)(Decoder&);

struct Operation {
  const char* opcode;
  const char* group;
  Decode decode;
};

// Where an opcode has a floating-point form too, that is found by the last modifier, its type.
std::vector<Operation> floating_operations();

std::vector<Operation> integer_operations();
std::vector<Operation> bit_operations();
std::vector<Operation> compare_operations();
std::vector<Operation> convert_operations();
std::vector<Operation> move_operations();
std::vector<Operation> memory_operations();
std::vector<Operation> atomic_operations();
std::vector<Operation> control_operations();
std::vector<Operation> warp_operations();
std::vector<Operation> matrix_operations();
std::vector<Operation> copy_operations();

// Null if the opcode is not modelled.
const Operation* find_operation(const std::string& opcode, bool floating);

// ---- from a type that is known when the text is read to one that is known to the compiler

template <class T>
struct Tag {
  using type = T;
};

template <class F>
Handler for_integer(Type type, const F& f) {
  const bool has_sign = type.kind == 's';
  switch (type.bits) {
    case 8:
      return has_sign ? f(Tag<std::int8_t>{}) : f(Tag<std::uint8_t>{});
    case 16:
      return has_sign ? f(Tag<std::int16_t>{}) : f(Tag<std::uint16_t>{});
    case 32:
      return has_sign ? f(Tag<std::int32_t>{}) : f(Tag<std::uint32_t>{});
    default:
      return has_sign ? f(Tag<std::int64_t>{}) : f(Tag<std::uint64_t>{});
  }
}

template <class F>
Handler for_real(Type type, const F& f) {
  return type.bits == 32 ? f(Tag<float>{}) : f(Tag<double>{});
}

}  // namespace sslkern::ptx
