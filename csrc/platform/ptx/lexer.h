// The words of a PTX text.
#pragma once
#include <stdexcept>
#include <string>
#include <vector>

namespace sslkern::ptx {

// Why a text is not run: what it says cannot be read or is not modelled.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Token {
  enum Kind {
    kWord,    // a directive, an opcode with its modifiers, a name
    kNumber,  // begins with a digit
    kString,
    kSign,  // one character
    kEnd
  };
  Kind kind;
  std::string text;
  int line;

  bool is(const char* other) const { return kind != kString && text == other; }
};

// Ends with a token kEnd.
std::vector<Token> tokens_of(const std::string& text);

}  // namespace sslkern::ptx
