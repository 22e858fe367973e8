// driver.cpp and the launches of planted.cu, with the kernels taken from PTX:
//
//   ptx_driver [count] FILE [what driver takes]
//
// Behind what that prints comes a line for each instruction that no thread has executed, of the
// kernels that were launched, and what was counted if it is asked for.
#include <cstdio>
#include <exception>
#include <memory>
#include <set>
#include <string>

#include "platform/platform.h"
#include "platform/ptx/module.h"

namespace {

std::unique_ptr<sslkern::ptx::Module> module;
std::set<std::string> launched;

// `kernel` is a template of a fault, as it stands in the source: "block_sum<kFault>".
template <class... T>
void launch_ptx(const std::string& kernel, int fault, dim3 grid, dim3 block, std::size_t bytes,
                const T&... arguments) {
  std::string name = kernel.substr(0, kernel.find('<'));
  name += "IL5Fault" + std::to_string(fault) + "E";
  launched.insert(name);
  module->launch(name, grid, block, bytes, sslkern::ptx::arguments(arguments...));
}

}  // namespace

#undef SSLKERN_LAUNCH
#define SSLKERN_LAUNCH(kernel, grid, block, bytes, stream, ...) \
  launch_ptx(#kernel, int(kFault), grid, block, bytes, __VA_ARGS__)

#include "planted.cu"

#define main run_driver
#include "driver.cpp"
#undef main

namespace {

void print_unexecuted() {
  for (const auto& c : module->coverage()) {
    for (const std::string& name : launched) {
      if (c.executed > 0 || c.kernel.find(name) == std::string::npos) continue;
      std::cout << "not executed: " << c.line << ": " << c.text << "\n";
    }
  }
}

}  // namespace

int main(int count, char** words) try {
  const bool counting = count > 1 && std::string(words[1]) == "count";
  if (counting) --count, ++words;
  if (count < 2) return 2;
  module = std::make_unique<sslkern::ptx::Module>(sslkern::ptx::Module::read(words[1]));
  module->most_steps = 100'000'000;
  module->counting = counting;
  // Copies of one source line are many lines here.
  simt::config().most_findings = 1000;
  run_driver(count - 1, words + 1);
  print_unexecuted();
  if (counting) std::cout << "counted: " << sslkern::ptx::to_json(module->counts()) << "\n";
  return 0;
} catch (const std::exception& why) {
  std::cerr << why.what() << "\n";
  return 3;
}
