// What the names of a kernel stand for, and the words they are given.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "platform/ptx/program.h"

namespace sslkern::ptx {

struct Register {
  Slot slot;
  Type type;
};

class Names {
 public:
  Names(Program& program, Kernel& kernel);

  void open();  // { and }: names end with their scope
  void close();
  void declare(const RegisterNames& names);
  void declare(const Variable& variable);
  void declare_label(const std::string& name);  // for the next instruction

  std::optional<Register> find_register(const std::string& name) const;
  // Of a variable's address (64 bits; in shared memory the offset, which may be used as 32 bits) or
  // of a special register.
  std::optional<Register> find_other(const std::string& name);
  const Parameter* find_parameter(const std::string& name) const;
  Slot constant(std::uint64_t bits);

  // Labels may be used before they stand there.
  int scope() const { return open_.back(); }
  std::optional<std::size_t> find_label(const std::string& name, int scope) const;

 private:
  struct Scope {
    int parent;
    std::map<std::string, Register> registers;
    std::map<std::string, const Variable*> variables;
    std::map<std::string, std::size_t> labels;
  };

  Slot add_word(std::uint64_t initial);
  Slot add_register();
  const Variable* find_variable(const std::string& name) const;
  Slot address_of(const Variable& variable);

  Program& program_;
  Kernel& kernel_;
  std::vector<Scope> scopes_;
  std::vector<int> open_;
  std::map<std::uint64_t, Slot> constants_;
  std::map<std::string, Slot> specials_;
  std::map<const Variable*, Slot> addresses_;
};

}  // namespace sslkern::ptx
