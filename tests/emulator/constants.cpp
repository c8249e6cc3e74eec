#include <bit>
#include <charconv>
#include <cstdlib>

#include "cursor.h"
#include "machine.h"

// Constant expressions.
namespace emu::ptx {
namespace {
uint64_t apply(std::string_view op, const Number& a, const Number& b) {
  const bool u = a.is_unsigned || b.is_unsigned;
  const uint64_t x = a.bits, y = b.bits;
  const auto sx = static_cast<int64_t>(x), sy = static_cast<int64_t>(y);
  if (op == "*") return x * y;
  if (op == "/") return u ? x / y : static_cast<uint64_t>(sx / sy);
  if (op == "%") return u ? x % y : static_cast<uint64_t>(sx % sy);
  if (op == "+") return x + y;
  if (op == "-") return x - y;
  if (op == "<<") return y > 63 ? 0 : x << y;
  if (op == ">>") return a.is_unsigned ? (y > 63 ? 0 : x >> y) : static_cast<uint64_t>(sx >> std::min<uint64_t>(y, 63));
  if (op == "<") return u ? x < y : sx < sy;
  if (op == "<=") return u ? x <= y : sx <= sy;
  if (op == ">") return u ? x > y : sx > sy;
  if (op == ">=") return u ? x >= y : sx >= sy;
  if (op == "==") return x == y;
  if (op == "!=") return x != y;
  if (op == "&") return x & y;
  if (op == "^") return x ^ y;
  if (op == "|") return x | y;
  return op == "&&" ? x && y : x || y;
}
}  // namespace

Number Cursor::literal() {
  const std::string_view t = word();
  Number n;
  if (t == "WARP_SZ") return n.bits = kLanes, n;
  const auto hex = [&](std::string_view digits, size_t count) {
    const auto [p, e] = std::from_chars(digits.data(), digits.data() + digits.size(), n.bits, 16);
    if (e != std::errc() || p != digits.data() + digits.size() || (count && digits.size() != count))
      --at_, fail("the number '" + std::string(t) + "'");
  };
  const char second = t.size() > 1 && t[0] == '0' ? t[1] : '\0';
  if (second == 'f' || second == 'F') {
    n.real = true;
    hex(t.substr(2), 8);
  } else if (second == 'd' || second == 'D') {
    n.real = n.wide = true;
    hex(t.substr(2), 16);
  } else if (t.find('.') != t.npos) {
    n.real = n.wide = true;
    char* end = nullptr;
    const std::string copy(t);
    n.bits = std::bit_cast<uint64_t>(std::strtod(copy.c_str(), &end));
    if (*end) --at_, fail("the number '" + copy + "'");
  } else {
    std::string_view digits = t;
    if (digits.back() == 'U') n.is_unsigned = true, digits.remove_suffix(1);
    const int base = second == 'x' || second == 'X' ? 16 : second == 'b' || second == 'B' ? 2 : second ? 8 : 10;
    if (base == 16 || base == 2) digits.remove_prefix(2);
    const auto [p, e] = std::from_chars(digits.data(), digits.data() + digits.size(), n.bits, base);
    if (e != std::errc() || p != digits.data() + digits.size()) --at_, fail("the number '" + std::string(t) + "'");
  }
  return n;
}
Number Cursor::unary() {
  if (accept('(')) {
    if (accept(".s64") || accept(".u64")) {
      const bool is_unsigned = tokens_[at_ - 1].text == ".u64";
      expect(')');
      Number n = unary();
      n.is_unsigned = is_unsigned;
      return n;
    }
    Number n = expression();
    expect(')');
    return n;
  }
  for (const char op : {'-', '~', '!', '+'}) {
    if (!accept(op)) continue;
    Number n = unary();
    if (n.real && op == '-') return n.bits ^= n.wide ? 1ull << 63 : 1ull << 31, n;
    if (n.real && op != '+') fail("an operator on a real constant");
    if (op != '+') n.bits = op == '-' ? -n.bits : op == '~' ? ~n.bits : !n.bits;
    return n;
  }
  return literal();
}
// The binary operator that stands here: its text and how strongly it binds; 0: none.
std::pair<std::string_view, int> Cursor::binary_operator() const {
  if (peek().kind != Token::Kind::punct) return {};
  const char c = peek().text[0];
  const bool twice = peek(1).is(c) && peek(1).text.data() == peek().text.data() + 1;
  const bool equal = peek(1).is('=') && peek(1).text.data() == peek().text.data() + 1;
  const std::string_view both(peek().text.data(), twice || equal ? 2 : 1);
  static const std::pair<std::string_view, int> table[] = {
      {"*", 10}, {"/", 10}, {"%", 10}, {"+", 9},  {"-", 9}, {"<<", 8}, {">>", 8}, {"<", 7},  {"<=", 7},
      {">", 7},  {">=", 7}, {"==", 6}, {"!=", 6}, {"&", 5}, {"^", 4},  {"|", 3},  {"&&", 2}, {"||", 1}};
  for (const auto& row : table)
    if (row.first == both) return row;
  return {};
}
Number Cursor::expression(int above) {
  Number a = unary();
  for (;;) {
    const auto [op, strength] = binary_operator();
    if (strength <= above) break;
    at_ += op.size();
    const Number b = expression(strength);
    if (a.real || b.real) fail("arithmetic on real constants");
    if ((op == "/" || op == "%") && b.bits == 0) fail("a division by zero");
    a.bits = apply(op, a, b);
    a.is_unsigned = a.is_unsigned || b.is_unsigned;
  }
  if (above == 0 && accept('?')) {
    const Number yes = expression();
    expect(':');
    const Number no = expression();
    return a.bits ? yes : no;
  }
  return a;
}

}  // namespace emu::ptx
