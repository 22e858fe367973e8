// The PTX that the launchers of a library run: the files that emulation_load was told of, whose
// kernels are compiled at once or when they are first launched.
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include "platform/ptx/launch.h"
#include "platform/ptx/module.h"
#include "platform/simt/shadow.h"
#include "ptx_file.h"

namespace ptx = sslkern::ptx;

namespace {

struct Kernel {
  std::shared_ptr<const ptx::File> file;
  std::optional<ptx::Module> module;
  bool launched = false;  // and gone through, with nothing to report
};

std::map<std::string, Kernel> kernels;
std::string error, launches;
std::uint64_t most_steps = 0;  // 0: as many as a module lets
bool counting = false, recording = false;

void set(ptx::Module& module) {
  module.counting = counting;
  if (most_steps != 0) module.most_steps = most_steps;
}

ptx::Module& module_of(const std::string& name, Kernel& kernel) {
  if (!kernel.module) {
    kernel.module.emplace(kernel.file->module_of(name));
    set(*kernel.module);
  }
  return *kernel.module;
}

template <class F>
void for_each_module(const F& f) {
  for (auto& [name, kernel] : kernels) {
    if (kernel.module) f(*kernel.module);
  }
}

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
  const auto found = kernels.find(kernel);
  if (found == kernels.end()) throw std::invalid_argument("no PTX of " + kernel);
  if (recording) record(kernel, grid, block, dynamic_bytes, arguments);
  ptx::Module& module = module_of(kernel, found->second);
  const bool clean = module.launch(kernel, grid, block, dynamic_bytes, arguments);
  found->second.launched |= clean;
  return clean;
}

#define SSLKERN_CONTROL extern "C" __attribute__((visibility("default")))

// One more file, to be compiled now or where it is needed, whose kernels take the place of others
// of their names; what is wrong with it, or null.
SSLKERN_CONTROL const char* emulation_load(const char* path, int now) try {
  const auto file = std::make_shared<const ptx::File>(path);
  for (const std::string& name : file->kernels()) {
    Kernel& kernel = kernels[name];
    kernel.file = file;
    kernel.module.reset();
    if (now != 0) module_of(name, kernel);
  }
  return nullptr;
} catch (const std::exception& why) {
  error = why.what();
  return error.c_str();
}

// Of all threads of a launch together; more is reported as endless.
SSLKERN_CONTROL void emulation_most_steps(unsigned long long steps) {
  most_steps = steps;
  for_each_module(set);
}

// Counts what is launched from here on (platform/ptx/counting.h), or no longer.
SSLKERN_CONTROL void emulation_count(int on) {
  counting = on != 0;
  for_each_module(set);
}

// What was counted since the last call, as JSON; valid until the next.
SSLKERN_CONTROL const char* emulation_counts() {
  static std::string text;
  std::map<std::string, ptx::KernelCounts> all;
  for_each_module([&](ptx::Module& module) {
    all.merge(module.counts());
    module.clear_counts();
  });
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

// The kernels that no launch has gone through, a line each; valid until the next call.
SSLKERN_CONTROL const char* emulation_unlaunched() {
  static std::string text;
  text.clear();
  for (const auto& [name, kernel] : kernels) {
    if (!kernel.launched) text += name + "\n";
  }
  return text.c_str();
}
