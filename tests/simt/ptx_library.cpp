// The PTX that the launchers of a library run: the files that emulation_load has read.
#include <cstring>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "platform/ptx/launch.h"
#include "platform/ptx/module.h"
#include "platform/simt/shadow.h"

namespace ptx = sslkern::ptx;

namespace {

std::vector<std::unique_ptr<ptx::Module>> modules;
std::map<std::string, ptx::Module*> module_of_kernel;
std::string error, launches;
bool counting = false, recording = false;

// "kernel gx,gy,gz bx,by,bz bytes words...": the arguments as words of 8 bytes in hexadecimal, one
// that is an address in memory known to kernels as "pointer".
void record(const std::string& kernel, dim3 grid, dim3 block, std::size_t dynamic_bytes,
            const std::vector<unsigned char>& arguments) {
  std::ostringstream line;
  line << kernel << ' ' << grid.x << ',' << grid.y << ',' << grid.z << ' ' << block.x << ','
       << block.y << ',' << block.z << ' ' << dynamic_bytes << std::hex;
  for (std::size_t k = 0; k + 8 <= arguments.size(); k += 8) {
    std::uint64_t word;
    std::memcpy(&word, arguments.data() + k, 8);
    const bool known = sslkern::simt::find_range(reinterpret_cast<const void*>(word)) != nullptr;
    line << ' ';
    known ? line << "pointer" : line << word;
  }
  launches += line.str() + "\n";
}

}  // namespace

bool ptx::run(const std::string& kernel, dim3 grid, dim3 block, std::size_t dynamic_bytes,
              const std::vector<unsigned char>& arguments) {
  const auto found = module_of_kernel.find(kernel);
  if (found == module_of_kernel.end()) throw std::invalid_argument("no PTX of " + kernel);
  if (recording) record(kernel, grid, block, dynamic_bytes, arguments);
  return found->second->launch(kernel, grid, block, dynamic_bytes, arguments);
}

#define SSLKERN_CONTROL extern "C" __attribute__((visibility("default")))

// Reads one more file; what is wrong with it, or null.
SSLKERN_CONTROL const char* emulation_load(const char* path) try {
  modules.push_back(std::make_unique<ptx::Module>(ptx::Module::read(path)));
  modules.back()->counting = counting;
  for (const std::string& name : modules.back()->kernels()) {
    module_of_kernel[name] = modules.back().get();
  }
  return nullptr;
} catch (const std::exception& why) {
  error = why.what();
  return error.c_str();
}

// Of all threads of a launch together, in files read before; more is reported as endless.
SSLKERN_CONTROL void emulation_most_steps(unsigned long long steps) {
  for (auto& module : modules) module->most_steps = steps;
}

// Counts what is launched from here on (platform/ptx/counting.h), or no longer.
SSLKERN_CONTROL void emulation_count(int on) {
  counting = on != 0;
  for (auto& module : modules) module->counting = counting;
}

// What was counted since the last call, as JSON; valid until the next.
SSLKERN_CONTROL const char* emulation_counts() {
  static std::string text;
  std::map<std::string, ptx::KernelCounts> all;
  for (auto& module : modules) {
    all.merge(module->counts());
    module->clear_counts();
  }
  text = ptx::to_json(all);
  return text.c_str();
}

// From here on launches are recorded, or no longer.
SSLKERN_CONTROL void emulation_record(int on) {
  recording = on != 0;
  launches.clear();
}

// Those recorded, a line each.
SSLKERN_CONTROL const char* emulation_launches() { return launches.c_str(); }
