// From statements to instructions.
#include "platform/ptx/lexer.h"
#include "platform/ptx/operations.h"
#include "platform/ptx/parser.h"

namespace sslkern::ptx {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += c == '\t' ? ' ' : c;
    }
  }
  return lines;
}

bool is_floating(const Statement& s) {
  if (s.modifiers.empty()) return false;
  const auto type = type_of(s.modifiers.back());
  return type && type->kind == 'f' && type->bits >= 32;
}

std::string mnemonic_of(const Statement& s) {
  std::string mnemonic = s.opcode;
  for (const std::string& modifier : s.modifiers) mnemonic += "." + modifier;
  return mnemonic;
}

struct Branch {
  std::size_t instruction;
  std::string label;
  int scope;
};

class Compiler {
 public:
  Compiler(Program& program, const EntrySyntax& entry) : program_(program), kernel_(add(program)) {
    kernel_.name = entry.name;
    kernel_.line = entry.line;
    kernel_.parameters = entry.parameters;
    kernel_.parameter_bytes = entry.parameter_bytes;
    kernel_.most_threads = entry.most_threads;
    kernel_.exact_threads = entry.exact_threads;
    names_ = std::make_unique<Names>(program, kernel_);
  }

  void run(const std::vector<Item>& body) {
    for (const Item& item : body) add(item);
    for (const Branch& branch : branches_) resolve(branch);
  }

 private:
  static Kernel& add(Program& program) {
    program.kernels.push_back(std::make_unique<Kernel>());
    return *program.kernels.back();
  }

  void add(const Item& item) {
    switch (item.kind) {
      case Item::kStatement:
        return at(item.statement.line, [&] { add(item.statement); });
      case Item::kLabel:
        return at(kernel_.line, [&] { names_->declare_label(item.label); });
      case Item::kRegisters:
        return at(item.registers.line, [&] { names_->declare(item.registers); });
      case Item::kVariable:
        return at(item.variable.line, [&] { names_->declare(item.variable); });
      case Item::kOpen:
        return names_->open();
      case Item::kClose:
        return names_->close();
    }
  }

  // f(), whose refusals get the line.
  template <class F>
  void at(int line, const F& f) {
    try {
      f();
    } catch (const Refused& why) {
      throw Refused(program_.file + ":" + std::to_string(line) + ": " + program_.text_of(line) +
                    ": " + why.what());
    }
  }

  void add(const Statement& s) {
    Instruction i;
    i.line = s.line;
    if (!s.guard.empty()) guard(s, i);
    const Operation* operation = find_operation(s.opcode, is_floating(s));
    if (operation == nullptr) throw Refused("opcode " + s.opcode + " is not modelled");
    i.group = operation->group;
    Decoder decoder(s, *names_, i);
    i.run = operation->decode(decoder);
    if (s.opcode == "bra") {
      branches_.push_back({kernel_.code.size(), s.operands[0].name, names_->scope()});
    }
    kernel_.code.push_back(i);
    kernel_.written.push_back({mnemonic_of(s), s.position});
  }

  void guard(const Statement& s, Instruction& i) {
    const auto found = names_->find_register(s.guard);
    if (!found || found->type != kPredicate) throw Refused(s.guard + " is no predicate");
    i.guard = found->slot;
    i.guard_negated = s.guard_negated;
  }

  void resolve(const Branch& branch) {
    Instruction& i = kernel_.code[branch.instruction];
    at(i.line, [&] {
      const auto found = names_->find_label(branch.label, branch.scope);
      if (!found) throw Refused("no label " + branch.label);
      i.offset = std::int64_t(*found);
    });
  }

  Program& program_;
  Kernel& kernel_;
  std::unique_ptr<Names> names_;
  std::vector<Branch> branches_;
};

ModuleSyntax parsed(const std::string& text, const std::string& file) {
  try {
    return parse(text);
  } catch (const Refused& why) {
    throw Refused(file + ":" + why.what());
  }
}

}  // namespace

std::string Program::text_of(int line) const {
  if (line < 1 || std::size_t(line) > lines.size()) return "";
  std::string text = lines[std::size_t(line) - 1];
  text = text.substr(0, text.find("//"));
  const std::size_t begin = text.find_first_not_of(' '), end = text.find_last_not_of(" ;");
  return begin == std::string::npos ? "" : text.substr(begin, end + 1 - begin);
}

std::string Program::source_of(int file, int line) const {
  const auto found = files.find(file);
  if (found == files.end()) return "";
  const std::string& path = found->second;
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
}

Program compile(const std::string& text, const std::string& file) {
  Program program;
  program.file = file;
  program.lines = lines_of(text);
  const ModuleSyntax module = parsed(text, file);
  program.files = module.files;
  for (const Variable& variable : module.variables) {
    program.variables.push_back(std::make_unique<Variable>(variable));
    if (variable.space != Space::kShared) program.variables.back()->initial.resize(variable.bytes);
  }
  for (const EntrySyntax& entry : module.entries) Compiler(program, entry).run(entry.body);
  return program;
}

}  // namespace sslkern::ptx
