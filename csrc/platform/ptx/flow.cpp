#include "platform/ptx/flow.h"

#include <algorithm>

namespace sslkern::ptx {
namespace {

bool is_branch(const Written& w) { return w.mnemonic.rfind("bra", 0) == 0; }
bool is_end(const Written& w) {
  const std::string opcode = w.mnemonic.substr(0, w.mnemonic.find('.'));
  return opcode == "ret" || opcode == "exit" || opcode == "trap";
}

struct Loop {
  int header;
  std::vector<bool> body;
  std::size_t size;
};

// Finds dominators and natural loops.
class Analysis {
 public:
  Analysis(const Kernel& kernel, Flow& flow) : flow_(flow) {
    split(kernel);
    connect(kernel);
    number();
    find_dominators();
    find_loops();
    nest();
  }

 private:
  void split(const Kernel& kernel) {
    flow_.begins.assign(kernel.code.size(), false);
    if (!kernel.code.empty()) flow_.begins[0] = true;
    for (std::size_t n = 0; n < kernel.code.size(); ++n) {
      const bool branch = is_branch(kernel.written[n]);
      if (branch) mark(std::size_t(kernel.code[n].offset));
      if (branch || is_end(kernel.written[n])) mark(n + 1);
    }
    int block = -1;
    for (const bool begins : flow_.begins) flow_.block_of.push_back(block += begins);
    flow_.next.resize(std::size_t(block + 1));
    before_.resize(flow_.next.size());
  }

  void mark(std::size_t instruction) {
    if (instruction < flow_.begins.size()) flow_.begins[instruction] = true;
  }

  void connect(const Kernel& kernel) {
    const std::size_t end = kernel.code.size();
    for (std::size_t n = 0; n < end; ++n) {
      if (n + 1 < end && !flow_.begins[n + 1]) continue;
      const bool branch = is_branch(kernel.written[n]);
      const bool goes_on =
          kernel.code[n].guard != kNoSlot || !(branch || is_end(kernel.written[n]));
      if (branch) connect(n, std::size_t(kernel.code[n].offset));
      if (goes_on) connect(n, n + 1);
    }
  }

  void connect(std::size_t from, std::size_t to) {
    if (to >= flow_.block_of.size()) return;
    const int a = flow_.block_of[from], b = flow_.block_of[to];
    flow_.next[std::size_t(a)].push_back(b);
    before_[std::size_t(b)].push_back(a);
  }

  // In reverse postorder; blocks that nothing leads to stay without a place.
  void number() {
    place_.assign(flow_.next.size(), -1);
    if (flow_.next.empty()) return;
    std::vector<std::pair<int, std::size_t>> open = {{0, 0}};
    std::vector<bool> seen(flow_.next.size());
    seen[0] = true;
    while (!open.empty()) {
      auto& [block, done] = open.back();
      if (done == flow_.next[std::size_t(block)].size()) {
        order_.push_back(block);
        open.pop_back();
        continue;
      }
      const int other = flow_.next[std::size_t(block)][done++];
      if (seen[std::size_t(other)]) continue;
      seen[std::size_t(other)] = true;
      open.emplace_back(other, 0);
    }
    std::reverse(order_.begin(), order_.end());
    for (std::size_t k = 0; k < order_.size(); ++k) place_[std::size_t(order_[k])] = int(k);
  }

  // Cooper, Harvey and Kennedy, "A simple, fast dominance algorithm".
  void find_dominators() {
    dominator_.assign(flow_.next.size(), -1);
    if (!order_.empty()) dominator_[0] = 0;
    for (bool changed = true; changed;) {
      changed = false;
      for (const int block : order_) {
        const int found = block == 0 ? 0 : common_dominator(block);
        changed |= found != dominator_[std::size_t(block)];
        dominator_[std::size_t(block)] = found;
      }
    }
  }

  int common_dominator(int block) const {
    int found = -1;
    for (int other : before_[std::size_t(block)]) {
      if (dominator_[std::size_t(other)] < 0) continue;
      found = found < 0 ? other : meet(found, other);
    }
    return found;
  }

  int meet(int a, int b) const {
    while (a != b) {
      int& later = place(a) > place(b) ? a : b;
      later = dominator_[std::size_t(later)];
    }
    return a;
  }

  int place(int block) const { return place_[std::size_t(block)]; }

  bool dominates(int a, int block) const {
    while (place(block) > place(a)) block = dominator_[std::size_t(block)];
    return block == a;
  }

  void find_loops() {
    for (const int header : order_) {
      std::vector<int> ends;
      for (const int block : before_[std::size_t(header)]) {
        if (place(block) < place(header)) continue;  // on the way there, or never reached
        if (dominates(header, block)) {
          ends.push_back(block);
        } else {
          flow_.reducible = false;
        }
      }
      if (!ends.empty()) loops_.push_back(loop_of(header, ends));
    }
  }

  // What leads to the ends without passing the header.
  Loop loop_of(int header, std::vector<int> open) const {
    Loop loop{header, std::vector<bool>(flow_.next.size()), 1};
    loop.body[std::size_t(header)] = true;
    while (!open.empty()) {
      const auto block = std::size_t(open.back());
      open.pop_back();
      if (loop.body[block] || place_[block] < 0) continue;
      loop.body[block] = true;
      ++loop.size;
      open.insert(open.end(), before_[block].begin(), before_[block].end());
    }
    return loop;
  }

  // The smallest loop that holds a block, `but` excepted.
  int innermost(std::size_t block, int but) const {
    int found = Flow::kNone;
    for (int k = 0; k < int(loops_.size()); ++k) {
      const Loop& loop = loops_[std::size_t(k)];
      if (k == but || !loop.body[block]) continue;
      if (found == Flow::kNone || loop.size < loops_[std::size_t(found)].size) found = k;
    }
    return found;
  }

  void nest() {
    flow_.headed.assign(flow_.next.size(), Flow::kNone);
    for (int k = 0; k < int(loops_.size()); ++k) {
      const auto header = std::size_t(loops_[std::size_t(k)].header);
      flow_.headed[header] = k;
      flow_.around.push_back(innermost(header, k));
    }
    for (std::size_t block = 0; block < flow_.next.size(); ++block) {
      flow_.loop_of.push_back(innermost(block, Flow::kNone));
    }
  }

  Flow& flow_;
  std::vector<std::vector<int>> before_;  // of blocks
  std::vector<int> order_, place_, dominator_;
  std::vector<Loop> loops_;
};

}  // namespace

Flow::Flow(const Kernel& kernel) { Analysis(kernel, *this); }

bool Flow::is_inside(int block, int loop) const {
  int k = block == kNone ? kNone : loop_of[std::size_t(block)];
  while (k != kNone && k != loop) k = around[std::size_t(k)];
  return k == loop;
}

void Path::start(const Flow& flow) {
  block_ = Flow::kNone;
  context_ = 0;
  iterations_.assign(flow.around.size(), 0);
  contexts_.assign(flow.around.size(), 0);
  if (!flow.reducible) visits_.assign(flow.blocks(), 0);
}

void Path::enter(const Flow& flow, int block) {
  const auto b = std::size_t(block);
  if (!flow.reducible) {
    context_ = ++visits_[b];
    return;
  }
  if (const int loop = flow.headed[b]; loop != Flow::kNone) {
    const auto k = std::size_t(loop);
    const int outer = flow.around[k];
    iterations_[k] = flow.is_inside(block_, loop) ? iterations_[k] + 1 : 0;
    contexts_[k] =
        mixed(outer == Flow::kNone ? 0 : contexts_[std::size_t(outer)], iterations_[k] + 1);
  }
  const int loop = flow.loop_of[b];
  context_ = loop == Flow::kNone ? 0 : contexts_[std::size_t(loop)];
  block_ = block;
}

}  // namespace sslkern::ptx
