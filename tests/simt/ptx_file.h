// A file of PTX, of whose kernels only those are compiled that are needed: it has a hundred.
#pragma once
#include <algorithm>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "platform/ptx/module.h"

namespace sslkern::ptx {

class File {
 public:
  explicit File(const std::string& path) : name_(path.substr(path.rfind('/') + 1)) {
    std::ifstream stream(path);
    if (!stream) throw std::invalid_argument("cannot read " + path);
    std::stringstream text;
    text << stream.rdbuf();
    text_ = text.str();
    find_kernels();
  }

  std::vector<std::string> kernels() const {
    std::vector<std::string> names;
    for (const Kernel& kernel : kernels_) names.push_back(kernel.name);
    return names;
  }

  // With what stands outside all kernels; its lines have the numbers that they have in the file.
  Module module_of(const std::string& name) const {
    std::string text;
    std::size_t end = 0;
    for (const Kernel& kernel : kernels_) {
      text.append(text_, end, kernel.begin - end);
      const auto from = text_.begin() + std::ptrdiff_t(kernel.begin);
      const auto to = text_.begin() + std::ptrdiff_t(kernel.end);
      if (kernel.name == name) {
        text.append(from, to);
      } else {
        text.append(std::size_t(std::count(from, to, '\n')), '\n');
      }
      end = kernel.end;
    }
    text.append(text_, end);
    return Module(text, name_);
  }

 private:
  struct Kernel {
    std::string name;
    std::size_t begin, end;  // in the text
  };

  // A kernel is from the line of its .entry to the brace that closes its body.
  void find_kernels() {
    const std::string entry = ".entry ";
    for (std::size_t at = 0; (at = text_.find(entry, at)) != std::string::npos;) {
      const std::size_t name = at + entry.size(), line = text_.rfind('\n', at) + 1;
      const std::size_t end = end_of_body(text_.find('{', at));
      kernels_.push_back({text_.substr(name, text_.find('(', name) - name), line, end});
      at = end;
    }
  }

  std::size_t end_of_body(std::size_t at) const {
    for (int depth = 0; at < text_.size(); ++at) {
      if (text_[at] == '{') ++depth;
      if (text_[at] == '}' && --depth == 0) return at + 1;
    }
    throw std::invalid_argument(name_ + ": a kernel's body has no end");
  }

  std::string name_, text_;
  std::vector<Kernel> kernels_;
};

}  // namespace sslkern::ptx
