#include "platform/ptx/kinds.h"

#include <algorithm>
#include <vector>

#include "platform/ptx/types.h"

namespace sslkern::ptx {
namespace {

std::vector<std::string> split(const std::string& mnemonic) {
  std::vector<std::string> parts(1);
  for (const char c : mnemonic) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

using Names = std::initializer_list<const char*>;

bool is_any(const std::string& name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

class Reader {
 public:
  explicit Reader(const std::string& mnemonic) : parts_(split(mnemonic)), opcode_(parts_[0]) {}

  Kind run() const {
    if (opcode_ == "mma") return matrix();
    if (opcode_ == "ldmatrix") return {"ldmatrix", Use::kMatrix, 16, "", 0};
    if (opcode_ == "cp") return copy();
    if (opcode_ == "ld" || opcode_ == "st") return access();
    if (is_any(opcode_, {"atom", "red"})) return {"atomic", Use::kAtomic, element_bytes(), "", 0};
    if (is_any(opcode_, {"bar", "barrier", "membar", "fence"})) return plain("barrier");
    if (is_any(opcode_, {"shfl", "vote", "match", "redux"})) return plain("warp");
    if (is_any(opcode_, {"bra", "ret", "exit", "trap"})) return plain("control");
    if (opcode_ == "cvt") return plain("convert");
    const bool moves = is_any(opcode_, {"mov", "cvta", "setp", "selp", "testp"});
    return moves || parts_.back() == "pred" ? plain("move") : arithmetic();
  }

 private:
  static Kind plain(const char* of) { return {of, Use::kNone, 0, "", 0}; }

  bool has(const char* modifier) const {
    return std::find(parts_.begin() + 1, parts_.end(), modifier) != parts_.end();
  }

  // m16n8k16: two for each product.
  Kind matrix() const {
    std::uint32_t flop = 2, number = 0;
    for (const char c : parts_[3] + "m") {
      const bool digit = c >= '0' && c <= '9';
      if (!digit && number > 0) flop *= number;
      number = digit ? number * 10 + std::uint32_t(c - '0') : 0;
    }
    return {"matrix", Use::kNone, 0, "matrix_" + parts_[7], flop};
  }

  // The size is an operand: see Instruction::mode.
  Kind copy() const {
    const bool issues = has("shared") || has("shared::cta");
    return issues ? Kind{"copy", Use::kCopy, 0, "", 0} : plain("copy_wait");
  }

  std::uint8_t element_bytes() const {
    const auto type = type_of(parts_.back());
    return type ? std::uint8_t(type->bytes()) : std::uint8_t(0);
  }

  Kind access() const {
    const bool load = opcode_ == "ld";
    if (has("param") || has("const")) return plain("constant");
    const unsigned count = has("v2") ? 2 : has("v4") ? 4 : has("v8") ? 8 : 1;
    const std::string space = has("global")                         ? "global"
                              : has("shared") || has("shared::cta") ? "shared"
                                                                    : "generic";
    const std::string of = has("local") ? "local" : space + (load ? "_load" : "_store");
    return {of, load ? Use::kLoad : Use::kStore, std::uint8_t(element_bytes() * count), "", 0};
  }

  Kind arithmetic() const {
    const auto type = type_of(parts_.back());
    if (!type || type->kind != 'f' || type->bits < 32) return plain("integer");
    const std::string of = type->bits == 32 ? "fp32" : "fp64";
    const bool function =
        is_any(opcode_, {"ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh", "div"});
    if (function) return plain(of == "fp32" ? "function" : "fp64");
    const std::uint32_t flop = is_any(opcode_, {"fma", "mad"})          ? 2
                               : is_any(opcode_, {"add", "sub", "mul"}) ? 1
                                                                        : 0;
    return {of, Use::kNone, 0, of, flop};
  }

  std::vector<std::string> parts_;
  const std::string& opcode_;
};

}  // namespace

const char* name_of(Use use) {
  constexpr const char* kNames[] = {"none", "load", "store", "copy", "atomic", "ldmatrix"};
  return kNames[std::size_t(use)];
}

Kind kind_of(const std::string& mnemonic) { return Reader(mnemonic).run(); }

}  // namespace sslkern::ptx
