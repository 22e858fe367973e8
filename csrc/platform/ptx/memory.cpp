// Loads and stores. Caching and prefetching are accepted and have no effect here; volatile, relaxed
// and ordered accesses are not modelled.
#include "platform/ptx/access.h"
#include "platform/ptx/operations.h"

namespace sslkern::ptx {
namespace {

template <class T>
void load(Thread& t, const Instruction& i) {
  char* p = address_of(t, i);
  check_access(t, i, p, sizeof(T) * i.results, simt::Access::kRead);
  T values[kMostResults];
  std::memcpy(values, p, sizeof(T) * i.results);
  for (unsigned k = 0; k < i.results; ++k) t.set<T>(i.to[k], values[k]);
}

// The address is the first source.
template <class T>
void store(Thread& t, const Instruction& i) {
  char* p = address_of(t, i);
  const unsigned count = i.sources - 1u;
  check_access(t, i, p, sizeof(T) * count, simt::Access::kWrite);
  for (unsigned k = 0; k < count; ++k) {
    const T value = t.get<T>(i.from[k + 1]);
    std::memcpy(p + k * sizeof(T), &value, sizeof(T));
  }
}

template <class T>
void load_parameter(Thread& t, const Instruction& i) {
  for (unsigned k = 0; k < i.results; ++k) {
    T value;
    std::memcpy(&value, t.launch.parameters + std::size_t(i.offset) + k * sizeof(T), sizeof(T));
    t.set<T>(i.to[k], value);
  }
}

// At an address that was computed from a parameter's.
template <class T>
void load_parameter_at(Thread& t, const Instruction& i) {
  const auto offset = t.get<std::uint64_t>(i.from[0]) + std::uint64_t(i.offset);
  const std::size_t bytes = i.results * sizeof(T), all = t.launch.kernel->parameter_bytes;
  if (offset > all || bytes > all - offset) {
    t.report_and_stop(i, "out of bounds", "beyond the parameters");
  }
  for (unsigned k = 0; k < i.results; ++k) {
    T value;
    std::memcpy(&value, t.launch.parameters + offset + k * sizeof(T), sizeof(T));
    t.set<T>(i.to[k], value);
  }
}

const char* group_of(Space space) {
  switch (space) {
    case Space::kGlobal:
      return "global";
    case Space::kShared:
      return "shared";
    case Space::kLocal:
      return "local";
    case Space::kParameter:
      return "parameter";
    case Space::kConstant:
      return "constant";
    default:
      return "generic";
  }
}

Space space(Decoder& d) {
  constexpr const char* kNames[] = {"global", "shared", "shared::cta", "local", "param", "const"};
  for (const char* name : kNames) {
    if (d.take(name)) return *space_of(name);
  }
  return Space::kGeneric;
}

// How an access is cached: no matter here.
void caching(Decoder& d) {
  d.take_any({"ca", "cg", "cs", "lu", "wb", "wt"});
  d.take_any({"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last",
              "L1::no_allocate"});
  d.take_any({"L2::64B", "L2::128B", "L2::256B"});
}

struct Shape {
  Space space;
  unsigned count;  // elements
  Type type;
};

Shape shape(Decoder& d) {
  Shape s{};
  d.take("weak");
  s.space = space(d);
  caching(d);
  if (d.take("nc")) {
    if (s.space != Space::kGlobal) d.refuse(".nc is for .global");
    caching(d);
  }
  s.count = d.take("v2") ? 2 : d.take("v4") ? 4 : d.take("v8") ? 8 : 1;
  s.type = d.type({"b8", "b16", "b32", "b64", "u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64",
                   "f32", "f64"});
  const std::size_t bytes = s.type.bytes() * s.count;
  const bool widest = s.space == Space::kGlobal && s.type.bytes() >= 4 && bytes == 32;
  if (bytes > 16 && !widest) d.refuse("vectors of more than 16 bytes are not modelled here");
  d.instruction().group = group_of(s.space);
  return s;
}

Handler decode_load_parameter(Decoder& d, const Shape& s) {
  if (!d.is_parameter_next()) {
    d.address(Space::kParameter);
    d.end();
    return for_integer(s.type, [](auto tag) -> Handler {
      return load_parameter_at<typename decltype(tag)::type>;
    });
  }
  std::size_t offset;
  const Parameter& parameter = d.parameter(offset);
  d.end();
  if (offset + s.type.bytes() * s.count > parameter.bytes) d.refuse("beyond the parameter");
  d.instruction().offset = std::int64_t(parameter.offset + offset);
  return for_integer(
      s.type, [](auto tag) -> Handler { return load_parameter<typename decltype(tag)::type>; });
}

Handler decode_load(Decoder& d) {
  const Shape s = shape(d);
  s.count == 1 ? d.to_wide(s.type) : d.vector_to(s.count, s.type);
  if (s.space == Space::kParameter) return decode_load_parameter(d, s);
  d.address(s.space);
  d.end();
  return for_integer(s.type,
                     [](auto tag) -> Handler { return load<typename decltype(tag)::type>; });
}

Handler decode_store(Decoder& d) {
  const Shape s = shape(d);
  if (s.space == Space::kParameter || s.space == Space::kConstant) d.refuse("no stores there");
  d.address(s.space);
  s.count == 1 ? d.from_wide(s.type) : d.vector_from(s.count, s.type);
  d.end();
  return for_integer({'b', s.type.bits},
                     [](auto tag) -> Handler { return store<typename decltype(tag)::type>; });
}

}  // namespace

std::vector<Operation> memory_operations() {
  return {
      {"ld", "memory", decode_load},
      {"st", "memory", decode_store},
  };
}

}  // namespace sslkern::ptx
