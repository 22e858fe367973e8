// Settings, counters and findings.
#include <cstdarg>
#include <cstdio>
#include <set>
#include <tuple>

#include "platform/simt/machine.h"
#include "platform/simt/source.h"

namespace sslkern::simt {
namespace {

std::vector<Finding> all_findings;
std::set<std::string> seen;  // texts without the place
std::set<std::tuple<std::string, void*, std::string, int>> places;

std::string formatted(const char* format, va_list arguments) {
  char text[1024];
  std::vsnprintf(text, sizeof(text), format, arguments);
  return text;
}

void add_finding(const char* kind, const std::string& text) {
  ++machine().troubles;
  const std::string what = std::string(machine().kernel) + ": " + text;
  if (!seen.insert(kind + what).second) return;
  if (all_findings.size() >= config().most_findings) return;
  char place[128] = "";
  if (here != nullptr) {
    std::snprintf(place, sizeof(place), " [block %u,%u,%u, thread %u, seed %llu]", here->block.x,
                  here->block.y, here->block.z, here->linear,
                  static_cast<unsigned long long>(config().seed));
  }
  all_findings.push_back({kind, what + place});
}

}  // namespace

Place* here = nullptr;
bool every_access_is_seen = true;

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

void report(const char* kind, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  add_finding(kind, formatted(format, arguments));
  va_end(arguments);
}

void report_at(const char* kind, const Origin& origin, const char* format, ...) {
  ++machine().troubles;
  const char* file = origin.at.file == nullptr ? "" : origin.at.file;
  if (!places.insert({kind, origin.program_counter, file, origin.at.line}).second) return;
  va_list arguments;
  va_start(arguments, format);
  add_finding(kind, formatted(format, arguments) + " (" + source_of(origin) + ")");
  va_end(arguments);
}

}  // namespace sslkern::simt
