#include "platform/ptx/names.h"

#include "platform/ptx/lexer.h"

namespace sslkern::ptx {
namespace {

// Registers that nobody has written.
constexpr std::uint64_t kUnwritten = ~std::uint64_t(0);

const std::map<std::string, Special> kSpecials = {
    {"%tid.x", Special::kThreadX},
    {"%tid.y", Special::kThreadY},
    {"%tid.z", Special::kThreadZ},
    {"%ntid.x", Special::kBlockSizeX},
    {"%ntid.y", Special::kBlockSizeY},
    {"%ntid.z", Special::kBlockSizeZ},
    {"%ctaid.x", Special::kBlockX},
    {"%ctaid.y", Special::kBlockY},
    {"%ctaid.z", Special::kBlockZ},
    {"%nctaid.x", Special::kGridSizeX},
    {"%nctaid.y", Special::kGridSizeY},
    {"%nctaid.z", Special::kGridSizeZ},
    {"%laneid", Special::kLane},
    {"%warpid", Special::kWarp},
    {"%lanemask_eq", Special::kMaskEqual},
    {"%lanemask_lt", Special::kMaskLess},
    {"%lanemask_le", Special::kMaskLessEqual},
    {"%lanemask_gt", Special::kMaskGreater},
    {"%lanemask_ge", Special::kMaskGreaterEqual},
};

void refuse_second(bool first, const std::string& name) {
  if (!first) throw Refused(name + " is declared twice");
}

}  // namespace

Names::Names(Program& program, Kernel& kernel) : program_(program), kernel_(kernel) {
  add_word(0);  // kSink
  scopes_.push_back({-1, {}, {}, {}});
  open_.push_back(0);
}

void Names::open() {
  scopes_.push_back({scope(), {}, {}, {}});
  open_.push_back(int(scopes_.size()) - 1);
}

void Names::close() { open_.pop_back(); }

Slot Names::add_word(std::uint64_t initial) {
  kernel_.words.push_back(initial);
  kernel_.is_register.push_back(false);
  return Slot(kernel_.words.size() - 1);
}

Slot Names::add_register() {
  const Slot slot = add_word(kUnwritten);
  kernel_.is_register[slot] = true;
  return slot;
}

void Names::declare(const RegisterNames& names) {
  auto& registers = scopes_[std::size_t(scope())].registers;
  const auto add = [&](const std::string& name) {
    refuse_second(registers.insert({name, {add_register(), names.type}}).second, name);
  };
  if (names.count < 0) add(names.name);
  for (int i = 0; i < names.count; ++i) add(names.name + std::to_string(i));
}

void Names::declare(const Variable& variable) {
  kernel_.variables.push_back(std::make_unique<Variable>(variable));
  auto& variables = scopes_[std::size_t(scope())].variables;
  refuse_second(variables.insert({variable.name, kernel_.variables.back().get()}).second,
                variable.name);
}

void Names::declare_label(const std::string& name) {
  auto& labels = scopes_[std::size_t(scope())].labels;
  refuse_second(labels.insert({name, kernel_.code.size()}).second, name);
}

std::optional<Register> Names::find_register(const std::string& name) const {
  if (name == "_") return Register{kSink, kPredicate};
  for (int s = scope(); s >= 0; s = scopes_[std::size_t(s)].parent) {
    const auto& registers = scopes_[std::size_t(s)].registers;
    const auto found = registers.find(name);
    if (found != registers.end()) return found->second;
  }
  return std::nullopt;
}

const Variable* Names::find_variable(const std::string& name) const {
  for (int s = scope(); s >= 0; s = scopes_[std::size_t(s)].parent) {
    const auto& variables = scopes_[std::size_t(s)].variables;
    const auto found = variables.find(name);
    if (found != variables.end()) return found->second;
  }
  for (const auto& variable : program_.variables) {
    if (variable->name == name) return variable.get();
  }
  return nullptr;
}

Slot Names::address_of(const Variable& variable) {
  const auto known = addresses_.find(&variable);
  if (known != addresses_.end()) return known->second;
  const Slot slot = add_word(0);
  if (variable.space == Space::kShared) {
    if (!variable.external) kernel_.shared.push_back({slot, &variable});  // external: at offset 0
  } else if (variable.space == Space::kLocal) {
    const std::size_t aligned = std::max<std::size_t>(variable.alignment, 16);
    const std::size_t offset = (kernel_.local_bytes + aligned - 1) / aligned * aligned;
    kernel_.local.push_back({slot, offset});
    kernel_.local_bytes = offset + variable.bytes;
  } else {
    kernel_.words[slot] = reinterpret_cast<std::uint64_t>(variable.initial.data());
  }
  return addresses_[&variable] = slot;
}

std::optional<Register> Names::find_other(const std::string& name) {
  if (const Variable* variable = find_variable(name)) {
    const bool shared = variable->space == Space::kShared;
    return Register{address_of(*variable), shared ? kBits32 : kBits64};
  }
  // The address of a parameter, of which nothing is asked but that ld.param finds it again.
  if (const Parameter* parameter = find_parameter(name)) {
    return Register{constant(parameter->offset), kBits64};
  }
  const auto special = kSpecials.find(name);
  if (special == kSpecials.end() && name != "WARP_SZ") return std::nullopt;
  if (name == "WARP_SZ") return Register{constant(32), kBits32};
  const auto [entry, fresh] = specials_.insert({name, 0});
  if (fresh) {
    entry->second = add_word(0);
    kernel_.specials.push_back({entry->second, special->second});
  }
  return Register{entry->second, kBits32};
}

const Parameter* Names::find_parameter(const std::string& name) const {
  for (const Parameter& p : kernel_.parameters) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

Slot Names::constant(std::uint64_t bits) {
  const auto [entry, fresh] = constants_.insert({bits, 0});
  if (fresh) entry->second = add_word(bits);
  return entry->second;
}

std::optional<std::size_t> Names::find_label(const std::string& name, int scope) const {
  for (int s = scope; s >= 0; s = scopes_[std::size_t(s)].parent) {
    const auto& labels = scopes_[std::size_t(s)].labels;
    const auto found = labels.find(name);
    if (found != labels.end()) return found->second;
  }
  return std::nullopt;
}

}  // namespace sslkern::ptx
