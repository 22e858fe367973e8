#include "platform/ptx/lexer.h"

#include <cctype>

namespace sslkern::ptx {
namespace {

bool is_letter(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$';
}
bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }

class Lexer {
 public:
  explicit Lexer(const std::string& text) : text_(text) {}

  std::vector<Token> run() {
    for (skip(); at_ < text_.size(); skip()) {
      const std::size_t begin = at_;
      const Token::Kind kind = token();
      found_.push_back({kind, text_.substr(begin, at_ - begin), line_});
    }
    found_.push_back({Token::kEnd, "the end of the text", line_});
    return std::move(found_);
  }

 private:
  char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  // Blanks and comments.
  void skip() {
    for (; at_ < text_.size(); ++at_) {
      if (peek() == '\n') ++line_;
      if (peek() == '/' && peek(1) == '/') {
        while (at_ + 1 < text_.size() && peek(1) != '\n') ++at_;
      } else if (peek() == '/' && peek(1) == '*') {
        skip_block();
      } else if (std::isspace(static_cast<unsigned char>(peek())) == 0) {
        return;
      }
    }
  }

  void skip_block() {
    const std::size_t end = text_.find("*/", at_ + 2);
    if (end == std::string::npos) throw Refused("a comment without end");
    for (; at_ < end + 1; ++at_) line_ += peek() == '\n';
  }

  Token::Kind token() {
    if (is_digit(peek())) {
      while (is_letter(peek()) || peek() == '.') ++at_;
      return Token::kNumber;
    }
    if (is_letter(peek()) || peek() == '%' || peek() == '.') {
      for (++at_; is_letter(peek()) || peek() == '.' || part_of_word(); ++at_) {
      }
      return Token::kWord;
    }
    if (peek() == '"') {
      for (++at_; at_ < text_.size() && peek() != '"'; ++at_) {
      }
      ++at_;
      return Token::kString;
    }
    ++at_;
    return Token::kSign;
  }

  // The colons of .shared::cta, not that of a label.
  bool part_of_word() {
    if (peek() != ':' || peek(1) != ':' || !is_letter(peek(2))) return false;
    ++at_;
    return true;
  }

  const std::string& text_;
  std::size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> found_;
};

}  // namespace

std::vector<Token> tokens_of(const std::string& text) { return Lexer(text).run(); }

}  // namespace sslkern::ptx
