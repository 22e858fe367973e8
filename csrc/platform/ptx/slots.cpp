#include "platform/ptx/slots.h"

#include <algorithm>
#include <limits>
#include <set>

#include "platform/ptx/flow.h"

namespace sslkern::ptx {
namespace {

// Slots, one bit each.
class Slots {
 public:
  explicit Slots(std::size_t count) : words_((count + 63) / 64) {}

  bool has(std::size_t slot) const { return (words_[slot / 64] >> slot % 64 & 1) != 0; }
  void add(std::size_t slot) { words_[slot / 64] |= bit(slot); }
  void remove(std::size_t slot) { words_[slot / 64] &= ~bit(slot); }
  void add(const Slots& others) {
    for (std::size_t k = 0; k < words_.size(); ++k) words_[k] |= others.words_[k];
  }
  bool operator!=(const Slots& other) const { return words_ != other.words_; }

 private:
  static std::uint64_t bit(std::size_t slot) { return std::uint64_t(1) << slot % 64; }

  std::vector<std::uint64_t> words_;
};

// The instructions from the first to the last that a register has to be kept for.
struct Life {
  std::size_t begin = std::numeric_limits<std::size_t>::max(), end = 0;

  bool is_empty() const { return begin > end; }
  void add(std::size_t instruction) {
    begin = std::min(begin, instruction);
    end = std::max(end, instruction);
  }
};

// Of an instruction that may be const.
template <class I, class F>
void for_each_source(I& i, const F& f) {
  if (i.guard != kNoSlot) f(i.guard);
  for (unsigned k = 0; k < i.sources; ++k) f(i.from[k]);
}

template <class I, class F>
void for_each_result(I& i, const F& f) {
  for (unsigned k = 0; k < i.results; ++k) f(i.to[k]);
}

class Liveness {
 public:
  explicit Liveness(const Kernel& kernel)
      : code_(kernel.code), flow_(kernel), slots_(kernel.words.size()) {
    for (std::size_t n = 0; n < code_.size(); ++n) {
      if (flow_.begins[n]) first_.push_back(n);
    }
    first_.push_back(code_.size());
    find_entries();
    find_lives();
  }

  const Life& of(std::size_t slot) const { return lives_[slot]; }

 private:
  // Backwards, until nothing changes.
  void find_entries() {
    entries_.assign(flow_.blocks(), Slots(slots_));
    for (bool changed = true; changed;) {
      changed = false;
      for (std::size_t block = flow_.blocks(); block-- > 0;) {
        Slots live = behind(block);
        for (std::size_t n = first_[block + 1]; n-- > first_[block];) step_back(code_[n], live);
        changed |= live != entries_[block];
        entries_[block] = std::move(live);
      }
    }
  }

  // What is live where a block ends.
  Slots behind(std::size_t block) const {
    Slots live(slots_);
    for (const int next : flow_.next[block]) live.add(entries_[std::size_t(next)]);
    return live;
  }

  // What a predicate keeps from being written may be what it was.
  static void step_back(const Instruction& i, Slots& live) {
    if (i.guard == kNoSlot) for_each_result(i, [&](Slot slot) { live.remove(slot); });
    for_each_source(i, [&](Slot slot) { live.add(slot); });
  }

  void find_lives() {
    lives_.resize(slots_);
    for (std::size_t block = 0; block < flow_.blocks(); ++block) {
      const Slots live = behind(block);
      for (std::size_t slot = 0; slot < slots_; ++slot) {
        if (entries_[block].has(slot)) lives_[slot].add(first_[block]);
        if (live.has(slot)) lives_[slot].add(first_[block + 1] - 1);
      }
    }
    for (std::size_t n = 0; n < code_.size(); ++n) {
      const auto add = [&](Slot slot) { lives_[slot].add(n); };
      for_each_source(code_[n], add);
      for_each_result(code_[n], add);
    }
  }

  const std::vector<Instruction>& code_;
  const Flow flow_;
  const std::size_t slots_;
  std::vector<std::size_t> first_;  // instructions of blocks, and the end
  std::vector<Slots> entries_;      // what is live where a block begins
  std::vector<Life> lives_;
};

// Where each slot goes.
class Sharing {
 public:
  Sharing(const Kernel& kernel, const Liveness& liveness) : to_(kernel.words.size()) {
    std::vector<std::size_t> sharing;
    for (std::size_t slot = 0; slot < to_.size(); ++slot) {
      if (!kernel.is_register[slot]) {
        to_[slot] = add_word(kernel.words[slot]);
      } else if (!liveness.of(slot).is_empty()) {
        sharing.push_back(slot);
      }
    }
    std::sort(sharing.begin(), sharing.end(), [&](std::size_t a, std::size_t b) {
      return liveness.of(a).begin < liveness.of(b).begin;
    });
    for (const std::size_t slot : sharing) share(slot, liveness.of(slot), kernel.words[slot]);
  }

  Slot of(Slot slot) const { return to_[slot]; }
  std::vector<std::uint64_t> words() && { return std::move(words_); }

 private:
  Slot add_word(std::uint64_t initial) {
    words_.push_back(initial);
    return Slot(words_.size() - 1);
  }

  // One instruction does not write where it reads: it may write a result before its last source.
  void share(std::size_t slot, const Life& life, std::uint64_t initial) {
    while (!taken_.empty() && taken_.begin()->first < life.begin) {
      free_.insert(taken_.begin()->second);
      taken_.erase(taken_.begin());
    }
    if (free_.empty()) free_.insert(add_word(initial));
    to_[slot] = *free_.begin();
    taken_.insert({life.end, *free_.begin()});
    free_.erase(free_.begin());
  }

  std::vector<Slot> to_;
  std::vector<std::uint64_t> words_;
  std::set<Slot> free_;
  std::set<std::pair<std::size_t, Slot>> taken_;  // by the ends of lives
};

}  // namespace

void share_slots(Kernel& kernel) {
  Sharing sharing(kernel, Liveness(kernel));
  const auto move = [&](Slot& slot) { slot = sharing.of(slot); };
  for (Instruction& i : kernel.code) {
    for_each_source(i, move);
    for_each_result(i, move);
  }
  for (SpecialWord& word : kernel.specials) move(word.slot);
  for (SharedAddress& word : kernel.shared) move(word.slot);
  for (LocalAddress& word : kernel.local) move(word.slot);
  kernel.words = std::move(sharing).words();
  kernel.is_register.clear();
}

}  // namespace sslkern::ptx
