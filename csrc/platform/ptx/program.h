// Kernels as they are executed. A thread has one array of 64-bit words: its registers, and behind
// them what else instructions read (constants, special registers, addresses of variables), so that
// every operand is the index of a word.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "platform/ptx/syntax.h"

namespace sslkern::ptx {

class Thread;
struct Instruction;

using Slot = std::uint32_t;
using Handler = void (*)(Thread&, const Instruction&);

constexpr Slot kSink = 0;  // where results go that nobody wants; every thread has it
constexpr Slot kNoSlot = ~Slot(0);
constexpr std::size_t kMostResults = 8, kMostSources = 12;

enum class Rounding : std::uint8_t { kNearest, kNearestAway, kZero, kDown, kUp };

struct Instruction {
  Handler run = nullptr;
  Slot guard = kNoSlot;
  bool guard_negated = false;

  Slot to[kMostResults] = {}, from[kMostSources] = {};
  std::uint8_t results = 0, sources = 0;
  std::int64_t offset = 0;  // of an address; what a branch goes to

  // Modifiers, as far as they are not in the handler.
  Rounding rounding = Rounding::kNearest;
  Space space = Space::kGeneric;
  bool flush = false, saturate = false;  // .ftz, .sat
  bool negated = false;                  // the predicate among the sources
  bool narrow = false;                   // the address is a 32-bit one
  std::uint8_t mode = 0;                 // each group's own

  int line = 0;
  const char* group = "";
  mutable std::uint64_t executed = 0;
};

// What is put into a thread's words when it starts.
enum class Special : std::uint8_t {
  kThreadX,
  kThreadY,
  kThreadZ,
  kBlockSizeX,
  kBlockSizeY,
  kBlockSizeZ,
  kBlockX,
  kBlockY,
  kBlockZ,
  kGridSizeX,
  kGridSizeY,
  kGridSizeZ,
  kLane,
  kWarp,
  kMaskEqual,
  kMaskLess,
  kMaskLessEqual,
  kMaskGreater,
  kMaskGreaterEqual,
};

struct SpecialWord {
  Slot slot;
  Special special;
};
struct SharedAddress {
  Slot slot;
  const Variable* variable;
};
struct LocalAddress {
  Slot slot;
  std::size_t offset;
};

// What the text says of an instruction and its execution does not need.
struct Written {
  std::string mnemonic;  // "ld.global.f32"
  Position position;
};

struct Kernel {
  std::string name;
  int line = 0;
  std::vector<Parameter> parameters;
  std::size_t parameter_bytes = 0;
  std::uint64_t most_threads = 0, exact_threads = 0;

  std::vector<Instruction> code;
  std::vector<Written> written;      // of each instruction
  std::vector<std::uint64_t> words;  // as a thread starts with them
  std::vector<bool> is_register;     // of words; empty once registers share them: see slots.h
  std::vector<SpecialWord> specials;
  std::vector<SharedAddress> shared;
  std::vector<LocalAddress> local;
  std::size_t local_bytes = 0;
  std::vector<std::unique_ptr<Variable>> variables;  // its own
};

struct Program {
  std::string file;
  std::vector<std::string> lines;
  std::map<int, std::string> files;                  // of the source, by the numbers of positions
  std::vector<std::unique_ptr<Variable>> variables;  // of all kernels; `initial` is their memory
  std::vector<std::unique_ptr<Kernel>> kernels;

  std::string text_of(int line) const;              // without blanks around it and comments
  std::string source_of(int file, int line) const;  // "x.cu:12"; nothing where it is not said
};

// Throws Refused("FILE:LINE: STATEMENT: why").
Program compile(const std::string& text, const std::string& file);

}  // namespace sslkern::ptx
