#pragma once
#include <string_view>
#include <vector>

namespace emu::ptx {

struct Token {
  enum class Kind : uint8_t { word, string, punct, end };  // a word is all that dots and double colons hold together
  Kind kind = Kind::end;
  std::string_view text;
  int line = 0;
  bool is(char c) const { return kind == Kind::punct && text[0] == c; }
  bool is(std::string_view w) const { return kind == Kind::word && text == w; }
};

std::vector<Token> lex(std::string_view text);  // ends with one of Kind::end
[[noreturn]] void syntax_error(std::string_view text, int line, std::string_view why);

}  // namespace emu::ptx
