// The PTX that the launchers of a library run: the files that emulation_load has read.
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "platform/ptx/launch.h"
#include "platform/ptx/module.h"

namespace {

std::vector<std::unique_ptr<sslkern::ptx::Module>> modules;
std::map<std::string, sslkern::ptx::Module*> module_of_kernel;
std::string error;
bool counting = false;

}  // namespace

namespace sslkern::ptx {

Module& module_of(const std::string& kernel) {
  const auto found = module_of_kernel.find(kernel);
  if (found == module_of_kernel.end()) throw std::invalid_argument("no PTX of " + kernel);
  return *found->second;
}

}  // namespace sslkern::ptx

#define SSLKERN_COUNTS extern "C" __attribute__((visibility("default")))

// Counts what is launched from here on (platform/ptx/counting.h), or no longer.
SSLKERN_COUNTS void emulation_count(int on) {
  counting = on != 0;
  for (auto& module : modules) module->counting = counting;
}

// What was counted since the last call, as JSON; valid until the next.
SSLKERN_COUNTS const char* emulation_counts() {
  static std::string text;
  std::map<std::string, sslkern::ptx::KernelCounts> all;
  for (auto& module : modules) {
    all.merge(module->counts());
    module->clear_counts();
  }
  text = sslkern::ptx::to_json(all);
  return text.c_str();
}

// Reads one more file; what is wrong with it, or null.
extern "C" __attribute__((visibility("default"))) const char* emulation_load(const char* path) try {
  modules.push_back(std::make_unique<sslkern::ptx::Module>(sslkern::ptx::Module::read(path)));
  modules.back()->counting = counting;
  for (const std::string& name : modules.back()->kernels()) {
    module_of_kernel[name] = modules.back().get();
  }
  return nullptr;
} catch (const std::exception& why) {
  error = why.what();
  return error.c_str();
}
