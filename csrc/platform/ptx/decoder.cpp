#include "platform/ptx/decoder.h"

#include <cstring>

#include "platform/ptx/lexer.h"

namespace sslkern::ptx {

void Decoder::refuse(const std::string& why) const { throw Refused(why); }

bool Decoder::take(const char* modifier) {
  if (!more_modifiers() || statement_.modifiers[modifier_] != modifier) return false;
  ++modifier_;
  return true;
}

void Decoder::expect(const char* modifier) {
  if (!take(modifier)) refuse(std::string("only with modifier .") + modifier + " modelled");
}

unsigned Decoder::one_of(std::initializer_list<const char*> modifiers) {
  unsigned index = 0;
  std::string known;
  for (const char* modifier : modifiers) {
    if (take(modifier)) return index;
    known += std::string(" .") + modifier;
    ++index;
  }
  const std::string got = more_modifiers() ? "." + statement_.modifiers[modifier_] : "none";
  refuse("modifier " + got + " is not modelled; known here:" + known);
}

bool Decoder::take_any(std::initializer_list<const char*> modifiers) {
  for (const char* modifier : modifiers) {
    if (take(modifier)) return true;
  }
  return false;
}

Type Decoder::type(Types allowed) {
  for (const char* name : allowed) {
    if (take(name)) return *type_of(name);
  }
  if (!more_modifiers()) refuse("a type is missing");
  const std::string& got = statement_.modifiers[modifier_];
  refuse((type_of(got) ? "type ." : "modifier .") + got + " is not modelled");
}

bool Decoder::rounding(const char* integral) {
  constexpr std::pair<const char*, Rounding> kModes[] = {
      {"rn", Rounding::kNearest},
      {"rz", Rounding::kZero},
      {"rm", Rounding::kDown},
      {"rp", Rounding::kUp},
  };
  for (const auto& [name, mode] : kModes) {
    if (!take((std::string(name) + integral).c_str())) continue;
    i_.rounding = mode;
    return true;
  }
  return false;
}

const Operand& Decoder::next() {
  if (operands_left() == 0) refuse("an operand is missing");
  return statement_.operands[operand_++];
}

bool Decoder::joined() const { return operands_left() > 0 && statement_.operands[operand_].joined; }

std::size_t Decoder::elements() const {
  return operands_left() == 0 ? 0 : statement_.operands[operand_].elements.size();
}

void Decoder::add_result(Slot slot) {
  if (i_.results == kMostResults) refuse("too many results");
  i_.to[i_.results++] = slot;
}

void Decoder::add_source(Slot slot) {
  if (i_.sources == kMostSources) refuse("too many operands");
  i_.from[i_.sources++] = slot;
}

Slot Decoder::result(const Operand& operand, Type type, bool exact) {
  if (operand.kind != Operand::kName || operand.negated) refuse("a result is no register");
  const auto found = names_.find_register(operand.name);
  if (!found) refuse("no register " + operand.name);
  if (found->slot == kSink) return kSink;
  const bool fits =
      exact || type == kPredicate ? found->type.bits == type.bits : found->type.bits >= type.bits;
  if (!fits) refuse(operand.name + " is of ." + name_of(found->type));
  return found->slot;
}

Slot Decoder::constant(const Operand& operand, Type type) {
  if (operand.kind == Operand::kInteger) {
    if (type.kind == 'f') refuse("an integer where ." + name_of(type) + " is due");
    return names_.constant(operand.bits);
  }
  const bool single = operand.kind == Operand::kFloat32;
  if (type.kind != 'f' && type.kind != 'b') refuse("a real number where an integer is due");
  if (type.bits == (single ? 32 : 64)) return names_.constant(operand.bits);
  if (!single || type.bits != 64) refuse("a real number of other bits than ." + name_of(type));
  float value;
  std::memcpy(&value, &operand.bits, sizeof(value));
  const double wide = value;
  std::uint64_t bits;
  std::memcpy(&bits, &wide, sizeof(bits));
  return names_.constant(bits);
}

Slot Decoder::source(const Operand& operand, Type type, bool exact) {
  if (operand.negated) refuse("negation of " + operand.name + " is not modelled here");
  if (operand.kind == Operand::kAddress || operand.kind == Operand::kVector) {
    refuse("a vector or an address where a value is due");
  }
  if (operand.kind != Operand::kName) return constant(operand, type);
  auto found = names_.find_register(operand.name);
  if (found && found->slot == kSink) refuse("_ has no value");
  // A special register and an offset in shared memory may be read as either width.
  const bool other = !found;
  if (other) found = names_.find_other(operand.name);
  if (!found) refuse("nothing is called " + operand.name);
  const int bits = found->type.bits;
  const bool fits = other ? type.bits >= bits && type != kPredicate
                    : exact || type == kPredicate || bits == 1 ? bits == type.bits
                                                               : bits >= type.bits;
  if (!fits) refuse(operand.name + " is of ." + name_of(found->type));
  return found->slot;
}

void Decoder::to(Type type) { add_result(result(next(), type, true)); }
void Decoder::to_wide(Type type) { add_result(result(next(), type, false)); }
void Decoder::from(Type type) { add_source(source(next(), type, true)); }
void Decoder::from_wide(Type type) { add_source(source(next(), type, false)); }

void Decoder::from_predicate() {
  Operand operand = next();
  i_.negated = operand.negated;
  operand.negated = false;
  add_source(source(operand, kPredicate, true));
}

void Decoder::vector_to(std::size_t count, Type type) {
  const Operand& operand = next();
  if (operand.kind != Operand::kVector || operand.elements.size() != count) {
    refuse("expected a vector of " + std::to_string(count) + " registers");
  }
  for (const Operand& element : operand.elements) add_result(result(element, type, false));
}

void Decoder::vector_from(std::size_t count, Type type) {
  const Operand& operand = next();
  if (operand.kind != Operand::kVector || operand.elements.size() != count) {
    refuse("expected a vector of " + std::to_string(count) + " registers");
  }
  for (const Operand& element : operand.elements) add_source(source(element, type, false));
}

void Decoder::address(Space space) {
  const Operand& operand = next();
  if (operand.kind != Operand::kAddress) refuse("expected an address");
  const Operand& base = operand.elements[0];
  if (base.kind != Operand::kName || base.negated) refuse("a number is no address");
  auto found = names_.find_register(base.name);
  if (!found) found = names_.find_other(base.name);
  if (!found || found->slot == kSink) refuse("nothing is called " + base.name);
  i_.space = space;
  i_.offset = std::int64_t(operand.bits);
  i_.narrow = found->type.bits == 32;
  if (found->type.bits != 64 && !(i_.narrow && space == Space::kShared)) {
    refuse(base.name + " is of ." + name_of(found->type) + ", no address of this space");
  }
  add_source(found->slot);
}

bool Decoder::is_parameter_next() const {
  const Operand& operand = statement_.operands[operand_];
  return operand.kind == Operand::kAddress &&
         names_.find_parameter(operand.elements[0].name) != nullptr;
}

const Parameter& Decoder::parameter(std::size_t& offset) {
  const Operand& operand = next();
  if (operand.kind != Operand::kAddress) refuse("expected an address");
  const Parameter* found = names_.find_parameter(operand.elements[0].name);
  if (found == nullptr) refuse("no parameter " + operand.elements[0].name);
  offset = std::size_t(operand.bits);
  return *found;
}

std::uint64_t Decoder::number() {
  const Operand& operand = next();
  if (operand.kind != Operand::kInteger) refuse("expected a number that is known here");
  return operand.bits;
}

std::string Decoder::name() {
  const Operand& operand = next();
  if (operand.kind != Operand::kName || operand.negated) refuse("expected a name");
  return operand.name;
}

void Decoder::end() const {
  if (more_modifiers()) {
    refuse("modifier ." + statement_.modifiers[modifier_] + " is not modelled");
  }
  if (operands_left() > 0) refuse("more operands than are modelled");
}

}  // namespace sslkern::ptx
