// Types and state spaces as PTX names them.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace sslkern::ptx {

struct Type {
  // 'u', 's': integers; 'b': bits; 'f': floating point; 'h': bfloat16; 't': tf32; 'p': a predicate;
  // 'F' and 'H': two of float16 and of bfloat16 in 32 bits.
  char kind;
  int bits;

  std::size_t bytes() const { return std::size_t(bits) / 8; }
  bool operator==(Type other) const { return kind == other.kind && bits == other.bits; }
  bool operator!=(Type other) const { return !(*this == other); }
};

constexpr Type kPredicate{'p', 1}, kBits32{'b', 32}, kBits64{'b', 64};

std::optional<Type> type_of(const std::string& name);  // "u32"
std::string name_of(Type type);

enum class Space : std::uint8_t { kGeneric, kGlobal, kShared, kLocal, kParameter, kConstant };

std::optional<Space> space_of(const std::string& name);  // "global"

}  // namespace sslkern::ptx
