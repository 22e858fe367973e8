#include "platform/ptx/parser.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "platform/ptx/lexer.h"

namespace sslkern::ptx {
namespace {

using SourcePoint = std::array<int, 3>;  // file, line, column

std::vector<std::string> split(const std::string& word) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= word.size();) {
    const std::size_t dot = std::min(word.find('.', begin), word.size());
    parts.push_back(word.substr(begin, dot - begin));
    begin = dot + 1;
  }
  return parts;
}

class Parser {
 public:
  explicit Parser(const std::string& text) : tokens_(tokens_of(text)) {}

  ModuleSyntax run() {
    while (peek().kind != Token::kEnd) top_level();
    return std::move(module_);
  }

 private:
  // ---- tokens

  const Token& peek(std::size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool take(const char* text) {
    if (!peek().is(text)) return false;
    next();
    return true;
  }
  void expect(const char* text) {
    if (!take(text)) refuse("expected " + std::string(text) + ", got " + peek().text);
  }
  std::string word() {
    if (peek().kind != Token::kWord) refuse("expected a name, got " + peek().text);
    return next().text;
  }
  [[noreturn]] void refuse(const std::string& why) const { refuse(peek().line, why); }
  [[noreturn]] static void refuse(int line, const std::string& why) {
    throw Refused(std::to_string(line) + ": " + why);
  }

  // ---- numbers

  std::uint64_t integer() {
    const bool negative = take("-");
    const Token& token = peek();
    if (token.kind != Token::kNumber) refuse("expected a number, got " + token.text);
    std::string digits = token.text;
    if (digits.back() == 'U') digits.pop_back();
    const bool binary = digits.size() > 2 && digits[0] == '0' && (digits[1] | 32) == 'b';
    char* end = nullptr;
    const std::uint64_t value =
        std::strtoull(digits.c_str() + (binary ? 2 : 0), &end, binary ? 2 : 0);
    if (*end != '\0') refuse("expected an integer, got " + token.text);
    next();
    return negative ? 0 - value : value;
  }

  // The bits of a float32 (0f and 8 hexadecimal digits) or float64 (0d and 16), 1.5 or an integer.
  Operand number() {
    const std::size_t sign = peek().is("-") ? 1 : 0;
    const std::string text = peek(sign).text;
    const char mark = text.size() > 2 && text[0] == '0' ? char(text[1] | 32) : '\0';
    Operand result;
    if (mark == 'f' || mark == 'd') {
      result.kind = mark == 'f' ? Operand::kFloat32 : Operand::kFloat64;
      if (sign == 1 || text.size() != (mark == 'f' ? 10 : 18)) refuse("bad number " + text);
      result.bits = std::strtoull(text.c_str() + 2, nullptr, 16);
      next();
    } else if (text.find('.') != std::string::npos) {
      const double value = std::strtod(text.c_str(), nullptr) * (sign == 1 ? -1 : 1);
      result.kind = Operand::kFloat64;
      std::memcpy(&result.bits, &value, sizeof(value));
      at_ += sign + 1;
    } else {
      result.bits = integer();
    }
    return result;
  }

  // ---- operands

  Operand operand() {
    if (take("!")) {
      Operand result = operand();
      result.negated = !result.negated;
      return result;
    }
    if (take("[")) return address();
    if (take("{")) return vector();
    if (peek().kind == Token::kNumber || peek().is("-")) return number();
    if (peek().is("(")) refuse("functions and their calls are not modelled");
    Operand result;
    result.kind = Operand::kName;
    result.name = word();
    return result;
  }

  Operand address() {
    Operand result;
    result.kind = Operand::kAddress;
    result.elements.push_back(operand());
    if (take("+")) result.bits = integer();
    if (peek().is("-")) result.bits += integer();
    expect("]");
    return result;
  }

  Operand vector() {
    Operand result;
    result.kind = Operand::kVector;
    do result.elements.push_back(operand());
    while (take(","));
    expect("}");
    return result;
  }

  std::vector<Operand> operands() {
    std::vector<Operand> result;
    if (take(";")) return result;
    bool joined = false;
    do {
      result.push_back(operand());
      result.back().joined = joined;
      joined = peek().is("|");
    } while (take(",") || take("|"));
    expect(";");
    return result;
  }

  Statement statement() {
    Statement s;
    if (take("@")) {
      s.guard_negated = take("!");
      s.guard = word();
    }
    s.line = peek().line;
    s.position = position_;
    s.modifiers = split(word());
    s.opcode = s.modifiers.front();
    s.modifiers.erase(s.modifiers.begin());
    s.operands = operands();
    return s;
  }

  // ---- declarations

  Type type() {
    const std::string text = word();
    const auto found = text[0] == '.' ? type_of(text.substr(1)) : std::nullopt;
    if (!found) refuse("type " + text + " is not modelled");
    return *found;
  }

  std::size_t alignment(Type type) {
    return take(".align") ? std::size_t(integer()) : std::max<std::size_t>(type.bytes(), 1);
  }

  // Behind the state space: [.align N] .type name [extents] [= values];
  Variable variable(Space space, bool external) {
    Variable v;
    v.line = peek().line;
    v.space = space;
    v.external = external;
    v.alignment = alignment({'b', 8});
    const Type element = type();
    if (element.bits < 8) refuse("variables of predicates are not modelled");
    v.alignment = std::max(v.alignment, element.bytes());
    v.name = word();
    v.bytes = element.bytes() * extents();
    if (take("=")) v.initial = initial(element);
    if (v.initial.size() > v.bytes) refuse("more values than " + v.name + " has room for");
    expect(";");
    return v;
  }

  std::size_t extents() {
    std::size_t count = 1;
    while (take("[")) {
      if (take("]")) return 0;
      count *= std::size_t(integer());
      expect("]");
    }
    return count;
  }

  std::vector<unsigned char> initial(Type element) {
    std::vector<unsigned char> bytes;
    const bool list = take("{");
    do {
      if (peek().kind == Token::kWord) refuse("initial addresses are not modelled");
      const std::uint64_t bits = number().bits;
      const auto* first = reinterpret_cast<const unsigned char*>(&bits);
      bytes.insert(bytes.end(), first, first + element.bytes());
    } while (list && take(","));
    if (list) expect("}");
    return bytes;
  }

  void registers(std::vector<Item>& body) {
    const Type of = type();
    do {
      Item item{Item::kRegisters, {}, {}, {peek().line, of, word(), -1}, {}};
      if (take("<")) {
        item.registers.count = int(integer());
        expect(">");
      }
      body.push_back(std::move(item));
    } while (take(","));
    expect(";");
  }

  // ---- what says nothing about the result

  bool debug_information() {
    if (take(".file")) {
      const int number = int(integer());
      const std::string quoted = next().text;
      module_.files[number] = quoted.substr(1, quoted.size() - 2);
      while (take(",")) next();
    } else if (take(".loc")) {
      position();
    } else if (take(".section")) {
      while (!take("}")) {
        if (next().kind == Token::kEnd) refuse("a section without end");
      }
    } else {
      return false;
    }
    return true;
  }

  // file line column [, function_name label [+ offset]] [, inlined_at file line column]
  void position() {
    const SourcePoint own = source_point();
    position_ = {own[0], own[1], 0, 0};
    while (take(",")) {
      if (take("function_name")) {
        word();
        if (take("+")) integer();
      } else {
        expect("inlined_at");
        inlined(own, source_point());
      }
    }
  }

  SourcePoint source_point() {
    SourcePoint point;
    for (int& number : point) number = int(integer());
    return point;
  }

  // Where a function that calls was inlined itself, an earlier .loc has said.
  void inlined(const SourcePoint& own, const SourcePoint& call) {
    const auto outer = callers_.find(call);
    const SourcePoint caller = outer == callers_.end() ? call : outer->second;
    callers_[own] = caller;
    position_.caller_file = caller[0];
    position_.caller_line = caller[1];
  }

  bool hint() {
    if (!take(".pragma")) return false;  // for the optimiser: .pragma "nounroll"
    next();
    expect(";");
    return true;
  }

  // ---- kernels

  void body(std::vector<Item>& items) {
    for (int depth = 1; depth > 0;) {
      if (debug_information() || hint()) continue;
      if (take("{")) {
        items.push_back({Item::kOpen, {}, {}, {}, {}});
        ++depth;
      } else if (take("}")) {
        if (--depth > 0) items.push_back({Item::kClose, {}, {}, {}, {}});
      } else if (take(".reg")) {
        registers(items);
      } else if (take(".shared")) {
        items.push_back({Item::kVariable, {}, {}, {}, variable(Space::kShared, false)});
      } else if (take(".local")) {
        items.push_back({Item::kVariable, {}, {}, {}, variable(Space::kLocal, false)});
      } else if (peek().kind == Token::kWord && peek(1).is(":")) {
        items.push_back({Item::kLabel, {}, word(), {}, {}});
        expect(":");
      } else if (peek().text[0] == '.') {
        refuse("directive " + peek().text + " is not modelled");
      } else {
        items.push_back({Item::kStatement, statement(), {}, {}, {}});
      }
    }
  }

  void parameters(EntrySyntax& entry) {
    do {
      expect(".param");
      std::size_t aligned = take(".align") ? std::size_t(integer()) : 1;
      const Type element = type();
      if (take(".ptr")) {  // what the pointer points to: nothing that matters here
        if (peek().text != ".align" && peek().text[0] == '.') next();
        if (take(".align")) integer();
      }
      Parameter p;
      p.name = word();
      p.bytes = element.bytes() * extents();
      aligned = std::max(aligned, element.bytes());
      p.offset = (entry.parameter_bytes + aligned - 1) / aligned * aligned;
      entry.parameter_bytes = p.offset + p.bytes;
      entry.parameters.push_back(p);
    } while (take(","));
  }

  std::uint64_t product() {
    std::uint64_t count = integer();
    while (take(",")) count *= integer();
    return count;
  }

  void entry() {
    EntrySyntax e;
    position_ = {};
    e.line = peek().line;
    e.name = word();
    if (take("(") && !take(")")) {
      parameters(e);
      expect(")");
    }
    while (!take("{")) {
      if (take(".maxntid")) {
        e.most_threads = product();
      } else if (take(".reqntid")) {
        e.exact_threads = product();
      } else if (take(".minnctapersm") || take(".maxnreg")) {
        integer();  // of registers and occupancy
      } else if (!hint()) {
        refuse("directive " + peek().text + " is not modelled");
      }
    }
    body(e.body);
    module_.entries.push_back(std::move(e));
  }

  bool header() {
    if (take(".version") || take(".address_size")) {
      next();
    } else if (take(".target")) {
      do word();
      while (take(","));
    } else {
      return false;
    }
    return true;
  }

  void top_level() {
    if (header() || debug_information() || hint()) return;
    const bool external = take(".extern");
    if (!external && !take(".visible")) take(".weak");
    if (take(".entry")) return entry();
    const auto space = peek().text[0] == '.' ? space_of(peek().text.substr(1)) : std::nullopt;
    if (!space || *space == Space::kParameter || (external && *space != Space::kShared)) {
      refuse((external ? ".extern " : "") + peek().text + " is not modelled");
    }
    next();
    module_.variables.push_back(variable(*space, external));
  }

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  Position position_;                           // of what comes next
  std::map<SourcePoint, SourcePoint> callers_;  // of what was inlined
  ModuleSyntax module_;
};

}  // namespace

ModuleSyntax parse(const std::string& text) { return Parser(text).run(); }

}  // namespace sslkern::ptx
