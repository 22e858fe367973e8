// Reads one statement into an instruction. What a group does not ask for is refused: a modifier or
// an operand is never passed over.
#pragma once
#include <initializer_list>
#include <string>

#include "platform/ptx/names.h"
#include "platform/ptx/syntax.h"

namespace sslkern::ptx {

using Types = std::initializer_list<const char*>;

class Decoder {
 public:
  Decoder(const Statement& statement, Names& names, Instruction& instruction)
      : statement_(statement), names_(names), i_(instruction) {}

  Instruction& instruction() { return i_; }
  [[noreturn]] void refuse(const std::string& why) const;

  // ---- modifiers, in the order in which they are written

  bool take(const char* modifier);
  void expect(const char* modifier);
  // The index of the one that is next; refused if none is.
  unsigned one_of(std::initializer_list<const char*> modifiers);
  bool take_any(std::initializer_list<const char*> modifiers);
  Type type(Types allowed);
  bool more_modifiers() const { return modifier_ < statement_.modifiers.size(); }
  // .rn .rz .rm .rp, with `integral` behind: .rni and so on. False if none is next.
  bool rounding(const char* integral = "");
  void flushing() { i_.flush = take("ftz"); }

  // ---- operands, in the order in which they are written

  void to(Type type);       // a register of just these bits
  void to_wide(Type type);  // of so many or more
  void from(Type type);     // a register, number, special register or address of a variable
  void from_wide(Type type);
  void from_predicate();  // p or !p
  bool joined() const;    // whether the next operand stands behind a bar
  std::size_t operands_left() const { return statement_.operands.size() - operand_; }
  std::size_t elements() const;                  // of the next operand: 0 if it is no vector
  void vector_to(std::size_t count, Type type);  // {a, b}, registers of so many bits or more
  void vector_from(std::size_t count, Type type);
  void address(Space space);  // [a + n] or [a]
  bool is_parameter_next() const;
  const Parameter& parameter(std::size_t& offset);
  std::uint64_t number();
  std::string name();

  int scope() const { return names_.scope(); }
  void end() const;  // nothing may be left

 private:
  const Operand& next();
  Slot source(const Operand& operand, Type type, bool exact);
  Slot result(const Operand& operand, Type type, bool exact);
  Slot constant(const Operand& operand, Type type);
  void add_result(Slot slot);
  void add_source(Slot slot);

  const Statement& statement_;
  Names& names_;
  Instruction& i_;
  std::size_t modifier_ = 0, operand_ = 0;
};

}  // namespace sslkern::ptx
