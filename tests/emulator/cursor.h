#pragma once
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lexer.h"
#include "ptx.h"

namespace emu::ptx {

struct Number {
  bool real = false, wide = false, is_unsigned = false;
  uint64_t bits = 0;
};

/// A place among the tokens, and what is read there the same everywhere: punctuation, names, constant expressions.
class Cursor {
 protected:
  explicit Cursor(Module& m) : m_(m), tokens_(lex(m.text)) {}

  Module& m_;
  std::vector<Token> tokens_;
  size_t at_ = 0;

  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  [[noreturn]] void fail(std::string_view why) const { syntax_error(m_.text, peek().line, why); }
  bool accept(char c) {
    if (!peek().is(c)) return false;
    next();
    return true;
  }
  bool accept(std::string_view w) {
    if (!peek().is(w)) return false;
    next();
    return true;
  }
  void expect(char c) {
    if (!accept(c)) fail(std::string("expected '") + c + "', found '" + std::string(peek().text) + "'");
  }
  std::string_view word() {
    if (peek().kind != Token::Kind::word) fail("expected a name, found '" + std::string(peek().text) + "'");
    return next().text;
  }
  bool directive() const { return peek().kind == Token::Kind::word && peek().text[0] == '.'; }
  void skip_line() {
    const int line = peek().line;
    while (peek().kind != Token::Kind::end && peek().line == line) next();
  }
  void skip_statement() {
    while (!peek().is(';')) {
      if (next().kind == Token::Kind::end) fail("expected ';'");
    }
    next();
  }
  void skip_braces() {
    expect('{');
    for (int depth = 1; depth > 0;) {
      const Token& t = next();
      if (t.kind == Token::Kind::end) fail("expected '}'");
      depth += t.is('{') ? 1 : t.is('}') ? -1 : 0;
    }
  }

  Number literal();
  Number expression(int above = 0);  // of operators that bind more strongly
  int64_t integer() {
    const Number n = expression();
    if (n.real) fail("expected an integer");
    return static_cast<int64_t>(n.bits);
  }
  static bool digit(const Token& t) { return t.kind == Token::Kind::word && t.text[0] >= '0' && t.text[0] <= '9'; }
  bool constant() const {
    return digit(peek()) || peek().is('-') || peek().is('~') || peek().is('+') || peek().is('(') ||
           peek().is("WARP_SZ") || (peek().is('!') && (digit(peek(1)) || peek(1).is('(')));
  }

 private:
  Number unary();
  std::pair<std::string_view, int> binary_operator() const;
};

}  // namespace emu::ptx
