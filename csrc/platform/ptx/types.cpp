#include "platform/ptx/types.h"

#include <utility>

namespace sslkern::ptx {
namespace {

constexpr std::pair<const char*, Type> kTypes[] = {
    {"u8", {'u', 8}},     {"u16", {'u', 16}},    {"u32", {'u', 32}},  {"u64", {'u', 64}},
    {"s8", {'s', 8}},     {"s16", {'s', 16}},    {"s32", {'s', 32}},  {"s64", {'s', 64}},
    {"b8", {'b', 8}},     {"b16", {'b', 16}},    {"b32", {'b', 32}},  {"b64", {'b', 64}},
    {"f16", {'f', 16}},   {"f32", {'f', 32}},    {"f64", {'f', 64}},  {"bf16", {'h', 16}},
    {"f16x2", {'F', 32}}, {"bf16x2", {'H', 32}}, {"tf32", {'t', 32}}, {"pred", kPredicate},
};

constexpr std::pair<const char*, Space> kSpaces[] = {
    {"global", Space::kGlobal}, {"shared", Space::kShared},   {"shared::cta", Space::kShared},
    {"local", Space::kLocal},   {"param", Space::kParameter}, {"const", Space::kConstant},
};

}  // namespace

std::optional<Type> type_of(const std::string& name) {
  for (const auto& [known, type] : kTypes) {
    if (name == known) return type;
  }
  return std::nullopt;
}

std::string name_of(Type type) {
  for (const auto& [name, known] : kTypes) {
    if (type == known) return name;
  }
  return "?";
}

std::optional<Space> space_of(const std::string& name) {
  for (const auto& [known, space] : kSpaces) {
    if (name == known) return space;
  }
  return std::nullopt;
}

}  // namespace sslkern::ptx
