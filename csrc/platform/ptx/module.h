// The PTX that nvcc has made of kernels, executed on the emulation of simt/runtime.h: with the same
// threads, orders and findings as the kernels' source has there, and with the text inside `asm`.
//
//   ptx::Module module = ptx::Module::read("kernels.ptx");
//   simt::KnownMemory known(x.data(), bytes, true);
//   module.launch("block_sum", dim3(2), dim3(64), 0, ptx::arguments(x.data(), out.data(), n));
//   simt::findings();
//
// A text that holds anything that is not modelled (an opcode, a modifier, a type, a directive) is
// refused as a whole, with the line: nothing is passed over. What a finding gives as a thread's
// place is the line of the PTX.
#pragma once
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "platform/ptx/counting.h"
#include "platform/ptx/lexer.h"
#include "platform/simt/types.h"

namespace sslkern::ptx {

struct Program;
struct Kernel;
class Counter;

// The arguments of a kernel as the launch lays them out: each at a multiple of its alignment.
template <class... T>
std::vector<unsigned char> arguments(const T&... values) {
  std::vector<unsigned char> bytes;
  const auto add = [&bytes](const auto& value) {
    using V = std::decay_t<decltype(value)>;
    static_assert(std::is_trivially_copyable_v<V>);
    const std::size_t offset = (bytes.size() + alignof(V) - 1) / alignof(V) * alignof(V);
    bytes.resize(offset + sizeof(V));
    std::memcpy(bytes.data() + offset, &value, sizeof(V));
  };
  (add(values), ...);
  return bytes;
}

// How often threads have executed an instruction; not where its predicate kept them from it.
struct Coverage {
  std::string kernel;
  int line;
  std::string text, group;
  std::uint64_t executed;
};

class Module {
 public:
  // `file` is what messages call the text. Throws Refused.
  Module(const std::string& text, const std::string& file);
  static Module read(const std::string& path);
  Module(Module&&) noexcept;
  ~Module();

  std::vector<std::string> kernels() const;  // their (mangled) names

  // Runs the kernel of this name, or the one whose name holds it. False if there was something to
  // report. Throws std::invalid_argument where there is no such kernel, more than one, or the
  // arguments are not as many bytes as its parameters.
  bool launch(const std::string& name, dim3 grid, dim3 block, std::size_t dynamic_bytes,
              const std::vector<unsigned char>& arguments);

  // Of all launches so far: every instruction, and the sums by group ("integer", "global", ...).
  std::vector<Coverage> coverage() const;
  std::map<std::string, std::uint64_t> executed_by_group() const;

  // Whether launches from here on are counted, which takes longer. What was counted so far, by
  // kernel, of those that were launched.
  bool counting = false;
  std::map<std::string, KernelCounts> counts() const;
  void clear_counts();

  // Of all threads of a launch together; what goes on for longer is reported as endless.
  std::uint64_t most_steps = std::uint64_t(1) << 36;

 private:
  Kernel& find(const std::string& name) const;
  Counter& counter_of(const Kernel& kernel);

  std::unique_ptr<Program> program_;
  std::map<const Kernel*, std::unique_ptr<Counter>> counters_;
};

}  // namespace sslkern::ptx
