// Runs one kernel of a PTX file on an array of 64-bit words and prints the array that it writes:
//
//   ptx_unit FILE KERNEL THREADS DYNAMIC_BYTES INPUT_WORDS OUTPUT_WORDS < the input, in hexadecimal
//
// The kernel's parameters are the two arrays. Then the findings and, by group, the instructions
// that were executed.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "platform/ptx/module.h"
#include "platform/simt/runtime.h"

namespace ptx = sslkern::ptx;
namespace simt = sslkern::simt;

namespace {

void run(char** words) {
  ptx::Module module = ptx::Module::read(words[1]);
  module.most_steps = 1'000'000;
  const auto number = [&](int word) { return std::strtoull(words[word], nullptr, 10); };
  std::vector<std::uint64_t> in(number(5)), out(number(6), ~std::uint64_t(0));
  for (auto& word : in) {
    if (std::scanf("%" SCNx64, &word) != 1) throw std::runtime_error("too little input");
  }
  const simt::KnownMemory known_in(in.data(), in.size() * 8, true);
  const simt::KnownMemory known_out(out.data(), out.size() * 8, true);
  module.launch(words[2], dim3(1), dim3(unsigned(number(3))), number(4),
                ptx::arguments(in.data(), out.data()));
  for (const auto word : out) std::printf("%016" PRIx64 "\n", word);
  for (const auto& finding : simt::findings()) {
    std::printf("%s: %s\n", finding.kind.c_str(), finding.text.c_str());
  }
  for (const auto& [group, times] : module.executed_by_group()) {
    std::printf("executed: %s %" PRIu64 "\n", group.c_str(), times);
  }
}

}  // namespace

int main(int count, char** words) try {
  if (count != 7) return 2;
  run(words);
  return 0;
} catch (const std::exception& why) {
  std::fprintf(stderr, "%s\n", why.what());
  return 3;
}
