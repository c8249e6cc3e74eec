#include "lexer.h"

#include <algorithm>
#include <string>

#include "machine.h"

namespace emu::ptx {
namespace {
bool word_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' ||
         c == '%' || c == '.';
}

std::string_view nth_line(std::string_view text, int line) {
  for (; line > 1; --line) {
    const size_t end = text.find('\n');
    if (end == text.npos) return {};
    text.remove_prefix(end + 1);
  }
  text = text.substr(0, text.find('\n'));
  const size_t first = text.find_first_not_of(" \t\r");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}
}  // namespace

void syntax_error(std::string_view text, int line, std::string_view why) {
  throw Fault("PTX line " + std::to_string(line) + ": " + std::string(why) + ": " + std::string(nth_line(text, line)));
}

std::string_view source_line(const Module& m, int line) { return nth_line(m.text, line); }

std::vector<Token> lex(std::string_view text) {
  std::vector<Token> out;
  out.reserve(text.size() / 4);
  int line = 1;
  const char* p = text.data();
  const char* const end = p + text.size();
  const auto add = [&](Token::Kind kind, const char* from, const char* to) {
    out.push_back({kind, {from, static_cast<size_t>(to - from)}, line});
  };
  while (p < end) {
    const char* from = p;
    if (*p == '\n') {
      ++line, ++p;
    } else if (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\0') {  // a fat binary pads with zeros
      ++p;
    } else if (*p == '/' && p + 1 < end && p[1] == '/') {
      p = std::find(p, end, '\n');
    } else if (*p == '/' && p + 1 < end && p[1] == '*') {
      const std::string_view rest(p + 2, end - p - 2);
      const size_t close = rest.find("*/");
      if (close == rest.npos) syntax_error(text, line, "a comment without end");
      line += static_cast<int>(std::count(p, p + 2 + close, '\n'));
      p += close + 4;
    } else if (*p == '"') {
      for (++p; p < end && *p != '"' && *p != '\n'; ++p)
        if (*p == '\\') ++p;
      if (p >= end || *p != '"') syntax_error(text, line, "a string without end");
      add(Token::Kind::string, from + 1, p++);
    } else if (word_char(*p)) {
      while (p < end && (word_char(*p) || (*p == ':' && p + 2 < end && p[1] == ':' && word_char(p[2]))))
        p += *p == ':' ? 2 : 1;
      add(Token::Kind::word, from, p);
    } else if (std::string_view("{}[]()<>,;:=+-*/%!~|&^@?").find(*p) != std::string_view::npos) {
      add(Token::Kind::punct, from, ++p);
    } else {
      syntax_error(text, line, std::string("the character '") + *p + "'");
    }
  }
  add(Token::Kind::end, end, end);
  return out;
}

}  // namespace emu::ptx
