// Settings, counters and findings.
#include <cstdarg>
#include <cstdio>
#include <set>
#include <tuple>

#include "platform/simt/machine.h"

namespace sslkern::simt {
namespace {

std::vector<Finding> all_findings;
std::set<std::string> seen;  // texts without the place
std::set<std::tuple<std::string, void*, std::string, int>> places;

}  // namespace

Place* here = nullptr;

Config& config() {
  static Config c;
  return c;
}

Counts& counts() {
  static Counts c;
  return c;
}

Machine& machine() {
  static Machine m;
  return m;
}

const std::vector<Finding>& findings() { return all_findings; }

void clear_findings() {
  all_findings.clear();
  seen.clear();
  places.clear();
}

bool first_at(const char* kind, const Origin& origin) {
  const char* file = origin.at.file == nullptr ? "" : origin.at.file;
  return places.insert({kind, origin.program_counter, file, origin.at.line}).second;
}

void report(const char* kind, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  const std::string what = std::string(machine().kernel) + ": " + text;
  if (!seen.insert(std::string(kind) + what).second) return;
  if (all_findings.size() >= config().most_findings) return;
  char place[128] = "";
  if (here != nullptr) {
    std::snprintf(place, sizeof(place), " [block %u,%u,%u, thread %u, seed %llu]", here->block.x,
                  here->block.y, here->block.z, here->linear,
                  static_cast<unsigned long long>(config().seed));
  }
  all_findings.push_back({kind, what + place});
}

}  // namespace sslkern::simt
