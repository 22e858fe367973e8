#include "platform/simt/source.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <map>

namespace sslkern::simt {
namespace {

std::string look_up(void* program_counter) {
  Dl_info info;
  if (dladdr(program_counter, &info) == 0 || info.dli_fname == nullptr) return "source unknown";
  const auto offset = static_cast<char*>(program_counter) - 1 - static_cast<char*>(info.dli_fbase);
  char command[600], line[600] = "";
  std::snprintf(command, sizeof(command), "addr2line -e '%s' 0x%tx 2>/dev/null", info.dli_fname,
                offset);
  if (std::FILE* pipe = popen(command, "r")) {
    if (std::fgets(line, sizeof(line), pipe) == nullptr) line[0] = 0;
    pclose(pipe);
  }
  std::string text = line;
  text = text.substr(0, text.find_first_of(" \n"));  // without "(discriminator 1)"
  const std::size_t slash = text.rfind('/');
  text = slash == std::string::npos ? text : text.substr(slash + 1);
  return text.empty() || text[0] == '?' ? "source unknown" : text;
}

}  // namespace

std::string source_of(const Origin& origin) {
  if (origin.at.file != nullptr) {
    const char* slash = std::strrchr(origin.at.file, '/');
    const char* name = slash == nullptr ? origin.at.file : slash + 1;
    return std::string(name) + ":" + std::to_string(origin.at.line);
  }
  static std::map<void*, std::string> known;
  const auto found = known.find(origin.program_counter);
  if (found != known.end()) return found->second;
  return known[origin.program_counter] = look_up(origin.program_counter);
}

}  // namespace sslkern::simt
