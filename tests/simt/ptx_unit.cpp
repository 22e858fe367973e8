// Runs one kernel of a PTX file on an array of 64-bit words and prints the array that it writes:
//
//   ptx_unit FILE KERNEL THREADS DYNAMIC_BYTES INPUT_WORDS OUTPUT_WORDS [BLOCKS LAUNCHES ORDER]
//       < the input, in hexadecimal
//
// The kernel's parameters are the two arrays. Then the findings and, by group, the instructions
// that were executed; with a number of blocks and launches, and a simt::Order, what is counted.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <vector>

#include "platform/ptx/module.h"
#include "platform/simt/runtime.h"

namespace ptx = sslkern::ptx;
namespace simt = sslkern::simt;

namespace {

// Words whose address is a multiple of what the widest accesses need, as those of cudaMalloc are.
class Words {
 public:
  Words(std::size_t count, std::uint64_t value) : storage_(count + kSlack, value), count_(count) {
    void* begin = storage_.data();
    std::size_t room = storage_.size() * 8;
    begin_ = static_cast<std::uint64_t*>(std::align(kSlack * 8, count * 8, begin, room));
  }
  std::uint64_t* begin() const { return begin_; }
  std::uint64_t* end() const { return begin_ + count_; }
  std::size_t bytes() const { return count_ * 8; }

 private:
  static constexpr std::size_t kSlack = 32;
  std::vector<std::uint64_t> storage_;
  std::size_t count_;
  std::uint64_t* begin_;
};

void run(char** words, bool counts) {
  ptx::Module module = ptx::Module::read(words[1]);
  module.most_steps = 1'000'000;
  const auto number = [&](int word) { return std::strtoull(words[word], nullptr, 10); };
  const Words in(number(5), 0), out(number(6), ~std::uint64_t(0));
  for (auto& word : in) {
    if (std::scanf("%" SCNx64, &word) != 1) throw std::runtime_error("too little input");
  }
  const simt::KnownMemory known_in(in.begin(), in.bytes(), true);
  const simt::KnownMemory known_out(out.begin(), out.bytes(), true);
  module.counting = counts;
  if (counts) simt::config().order = simt::Order(number(9));
  for (auto left = counts ? number(8) : 1; left > 0; --left) {
    module.launch(words[2], dim3(counts ? unsigned(number(7)) : 1), dim3(unsigned(number(3))),
                  number(4), ptx::arguments(in.begin(), out.begin()));
  }
  for (const auto word : out) std::printf("%016" PRIx64 "\n", word);
  for (const auto& finding : simt::findings()) {
    std::printf("%s: %s\n", finding.kind.c_str(), finding.text.c_str());
  }
  for (const auto& [group, times] : module.executed_by_group()) {
    std::printf("executed: %s %" PRIu64 "\n", group.c_str(), times);
  }
  if (counts) std::printf("counted: %s\n", ptx::to_json(module.counts()).c_str());
}

}  // namespace

int main(int count, char** words) try {
  if (count != 7 && count != 10) return 2;
  run(words, count == 10);
  return 0;
} catch (const std::exception& why) {
  std::fprintf(stderr, "%s\n", why.what());
  return 3;
}
