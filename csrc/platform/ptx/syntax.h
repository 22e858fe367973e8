// A PTX text as it is written: nothing is resolved or understood yet.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "platform/ptx/types.h"

namespace sslkern::ptx {

struct Operand {
  enum Kind {
    kName,
    kInteger,
    kFloat32,
    kFloat64,
    kAddress,  // elements[0] + bits
    kVector
  };
  Kind kind = kInteger;
  std::string name;
  std::uint64_t bits = 0;
  bool negated = false;  // !name
  bool joined = false;   // a second result: what is behind the bar of d|p
  std::vector<Operand> elements;
};

// Where a statement comes from, by .loc: a line of a source file, by its number. What was inlined
// there has its own line, and that of the call in the kernel's own text.
struct Position {
  int file = 0, line = 0;
  int caller_file = 0, caller_line = 0;  // 0: not inlined
};

struct Statement {
  int line = 0;
  Position position;
  std::string guard;  // the predicate behind @, or nothing
  bool guard_negated = false;
  std::string opcode;                  // "mad"
  std::vector<std::string> modifiers;  // "lo", "s32"
  std::vector<Operand> operands;
};

// Variables outside of registers.
struct Variable {
  int line = 0;
  Space space = Space::kGlobal;
  bool external = false;  // shared memory whose size the launch gives
  std::size_t alignment = 1, bytes = 0;
  std::string name;
  std::vector<unsigned char> initial;
};

struct RegisterNames {
  int line = 0;
  Type type{};
  std::string name;
  int count = -1;  // name0 .. name(count - 1); -1: the name itself
};

struct Item {
  enum Kind { kStatement, kLabel, kRegisters, kVariable, kOpen, kClose };
  Kind kind;
  Statement statement;
  std::string label;
  RegisterNames registers;
  Variable variable;
};

struct Parameter {
  std::string name;
  std::size_t offset, bytes;
};

struct EntrySyntax {
  int line = 0;
  std::string name;
  std::vector<Parameter> parameters;
  std::size_t parameter_bytes = 0;
  std::uint64_t most_threads = 0, exact_threads = 0;  // 0: not said
  std::vector<Item> body;
};

struct ModuleSyntax {
  std::map<int, std::string> files;  // of positions
  std::vector<Variable> variables;
  std::vector<EntrySyntax> entries;
};

}  // namespace sslkern::ptx
