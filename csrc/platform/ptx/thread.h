// A thread that executes a kernel.
#pragma once
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "platform/ptx/program.h"
#include "platform/simt/runtime.h"

namespace sslkern::ptx {

class Counter;
class Thread;

// What all threads of a launch share.
struct Launch {
  const Program* program;
  const Kernel* kernel;
  const unsigned char* parameters;
  std::uint64_t steps_left;
  // By their number in the block, for the next block to use. Kept here, as nothing on the stack of
  // a thread that cannot go on is destroyed.
  std::vector<std::unique_ptr<Thread>> threads;
  Counter* counter = nullptr;  // if what happens is counted
};

// Variables of .local space: seen by their thread alone.
struct LocalMemory {
  std::vector<unsigned char> bytes;
  std::vector<bool> written;

  bool holds(const char* p) const {
    const auto at = reinterpret_cast<std::uintptr_t>(p);
    const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
    return at >= begin && at < begin + bytes.size();
  }
};

class Thread {
 public:
  explicit Thread(Launch& launch) : launch(launch) {}
  void run();  // from the kernel's beginning, at simt::here

  // The low bits of a word. Those above are of no meaning, except that signed values extend.
  template <class T>
  T get(Slot slot) const {
    T value;
    std::memcpy(&value, &words_[slot], sizeof(value));
    return value;
  }
  template <class T>
  void set(Slot slot, T value) {
    if constexpr (std::is_integral_v<T>) {
      words_[slot] = static_cast<std::uint64_t>(value);
    } else {
      words_[slot] = 0;
      std::memcpy(&words_[slot], &value, sizeof(value));
    }
  }
  bool predicate(Slot slot) const { return (words_[slot] & 1) != 0; }

  simt::At at(const Instruction& i) const { return {launch.program->file.c_str(), i.line}; }
  // Records a finding with the statement and its line.
  void report(const Instruction& i, const char* kind, const std::string& what) const;
  [[noreturn]] void report_and_stop(const Instruction& i, const char* kind,
                                    const std::string& what) const;

  void jump(std::size_t to) { next_ = to; }
  void end() { next_ = launch.kernel->code.size(); }

  Launch& launch;
  LocalMemory local;
  char* shared = nullptr;  // where offsets in shared memory begin
  bool carry = false;      // of add.cc and its like

 private:
  void start();
  void fill_specials();
  template <bool kCounts>
  void go_on();

  std::vector<std::uint64_t> words_;
  std::size_t next_ = 0;
};

}  // namespace sslkern::ptx
