#include "ptx.h"

#include <algorithm>
#include <bit>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "cursor.h"
#include "machine.h"

namespace emu::ptx {

int type_bytes(std::string_view t) {
  static const std::unordered_map<std::string_view, int> sizes = {
      {"pred", 0}, {"b8", 1},   {"u8", 1},  {"s8", 1},  {"b16", 2},    {"u16", 2},   {"s16", 2},
      {"f16", 2},  {"bf16", 2}, {"b32", 4}, {"u32", 4}, {"s32", 4},    {"f32", 4},   {"f16x2", 4},
      {"b64", 8},  {"u64", 8},  {"s64", 8}, {"f64", 8}, {"bf16x2", 4}, {"b128", 16}, {"tf32", 4}};
  const auto it = sizes.find(t);
  return it == sizes.end() ? -1 : it->second;
}

namespace {

class Parser : Cursor {
 public:
  explicit Parser(Module& m) : Cursor(m) {}

  void module() {
    while (peek().kind != Token::Kind::end) {
      if (peek().is(".version") || peek().is(".address_size") || peek().is(".file") || peek().is(".loc")) {
        if (peek().is(".address_size") && !peek(1).is("64")) fail("an address size other than 64");
        skip_line();
      } else if (peek().is(".target")) {
        next();
        m_.target = std::string(word());
        --at_;
        skip_line();
      } else if (peek().is(".section")) {
        next(), word();
        skip_braces();
      } else if (peek().is(".pragma") || peek().is(".alias")) {
        if (peek().is(".alias")) fail("an alias is not supported");
        skip_statement();
      } else if (peek().is(';')) {
        next();
      } else {
        item();
      }
    }
  }

 private:
  Function* f_ = nullptr;
  struct Scope {
    int id = 0;
    size_t first_statement = 0;
    std::unordered_map<std::string_view, std::string> renamed;
    std::vector<std::string_view> labels;
    std::vector<std::string> lists;  // .branchtargets
  };
  std::vector<Scope> scopes_;                       // those nested in the body
  std::unordered_set<std::string_view> registers_;  // of the body, those whose names lack the %
  int scope_count_ = 0;

  // Operands.
  std::string resolve(std::string_view name, bool* is_register) {
    *is_register = name[0] == '%';
    for (size_t i = scopes_.size(); i-- > 0;)
      if (const auto it = scopes_[i].renamed.find(name); it != scopes_[i].renamed.end()) {
        if (!*is_register) *is_register = scopes_[i].renamed.contains(name) && it->second[0] == '%';
        return it->second;
      }
    if (!*is_register && registers_.contains(name)) *is_register = true;
    return std::string(name);
  }
  Operand simple() {
    Operand o;
    if (constant()) {
      const Number n = expression();
      o.kind = n.real ? Operand::Kind::real : Operand::Kind::integer;
      o.bits = n.bits, o.wide = n.wide;
      return o;
    }
    const std::string_view name = word();
    if (name == "_") return o;
    bool is_register = false;
    o.text = resolve(name, &is_register);
    o.kind = is_register ? Operand::Kind::reg : Operand::Kind::name;
    return o;
  }
  Operand operand() {
    if (peek().is('{')) return vector('{', '}');
    if (accept('[')) {
      Operand o;
      o.kind = Operand::Kind::address;
      o.items.push_back(simple());
      if (peek().is('+') || peek().is('-')) o.offset = integer();
      if (accept(',')) o.items.push_back(operand());
      expect(']');
      return o;
    }
    if (peek().is('!') && !constant()) {
      next();
      Operand o = simple();
      o.negated = true;
      return o;
    }
    Operand o = simple();
    if (accept('|')) {
      Operand pair;
      pair.kind = Operand::Kind::pair;
      pair.items.push_back(std::move(o));
      pair.items.push_back(simple());
      return pair;
    }
    if (o.kind == Operand::Kind::name && (peek().is('+') || peek().is('-'))) o.offset = integer();
    return o;
  }
  Operand vector(char open, char close) {
    Operand o;
    o.kind = Operand::Kind::vector;
    expect(open);
    while (!accept(close)) {
      o.items.push_back(operand());
      if (!peek().is(close)) expect(',');
    }
    return o;
  }

  // Declarations. `space` is read already.
  struct Head {
    std::string type;
    int64_t align = 0;
    int vector = 1;
  };
  Head head(bool parameter) {
    Head h;
    bool pointer = false;
    while (directive()) {
      const std::string_view d = next().text.substr(1);
      if (d == "align") {
        const int64_t n = integer();
        if (!pointer) h.align = n;  // behind .ptr: the pointee's
      } else if (d == "v2" || d == "v4") {
        h.vector = d[1] - '0';
      } else if (parameter &&
                 (d == "ptr" || (pointer && (d == "global" || d == "shared" || d == "local" || d == "const")))) {
        pointer = true;
      } else if (d == "attribute") {
        while (!accept(')')) next();
      } else if (type_bytes(d) >= 0) {
        h.type = std::string(d);
      } else {
        --at_, fail("the directive '." + std::string(d) + "' in a declaration");
      }
    }
    if (h.type.empty()) fail("a declaration without a type");
    return h;
  }
  Variable variable(std::string_view space, bool parameter = false) {
    const Head h = head(parameter);
    Variable v;
    v.space = std::string(space);
    v.type = h.type;
    if (h.vector != 1 && space == "reg") fail("a vector register");
    v.name = std::string(word());
    const int64_t element = type_bytes(h.type) * h.vector;
    v.align = h.align ? h.align : std::max<int64_t>(element, 1);
    v.bytes = element;
    bool unsized = false;
    while (accept('[')) {
      if (peek().is(']'))
        unsized = true;
      else
        v.bytes *= integer();
      expect(']');
    }
    if (unsized) v.bytes = 0;
    if (accept('=')) {
      initialiser(v, type_bytes(h.type), h.type);
      if (unsized) v.bytes = static_cast<int64_t>(v.init.size());
      if (static_cast<int64_t>(v.init.size()) > v.bytes) fail("more initial values than the variable holds");
      v.init.resize(v.bytes);
    }
    return v;
  }
  void initialiser(Variable& v, int element, std::string_view type) {
    if (accept('{')) {
      while (!accept('}')) {
        initialiser(v, element, type);
        if (!peek().is('}')) expect(',');
      }
      return;
    }
    const auto append = [&](uint64_t bits, int bytes) {
      for (int i = 0; i < bytes; ++i) v.init.push_back(static_cast<uint8_t>(bits >> (8 * i)));
    };
    if (peek().kind == Token::Kind::string) {
      for (const char c : next().text) append(static_cast<uint8_t>(c), 1);
      append(0, 1);
      return;
    }
    const auto at = static_cast<int64_t>(v.init.size());
    if (digit(peek()) && peek(1).is('(')) {  // 0xFF00(symbol): a byte of the address
      const uint64_t mask = literal().bits;
      expect('(');
      const bool generic = accept("generic");
      if (generic) expect('(');
      const std::string name(word());
      const int64_t addend = peek().is('+') || peek().is('-') ? integer() : 0;
      if (generic) expect(')');
      expect(')');
      const int shift = std::countr_zero(mask);
      if (element != 1 || shift % 8 || mask >> shift != 0xff) fail("a part of an address other than a byte");
      if (shift == 0)
        v.relocations.push_back({at, name, addend});
      else if (v.relocations.empty() || v.relocations.back().at != at - shift / 8 || v.relocations.back().name != name)
        fail("a byte of an address without those below it");
      append(0, 1);
      return;
    }
    if (!constant()) {
      const bool generic = peek().is("generic");
      if (generic) next(), expect('(');
      std::string name(word());
      int64_t addend = peek().is('+') || peek().is('-') ? integer() : 0;
      if (generic) expect(')');
      if (peek().is('+') || peek().is('-')) addend += integer();
      if (element != 8) fail("an address in fewer than 64 bits");
      v.relocations.push_back({at, std::move(name), addend});
      append(0, 8);
      return;
    }
    const Number n = expression();
    uint64_t bits = n.bits;
    if (n.real) {
      const double value = n.wide ? std::bit_cast<double>(bits) : std::bit_cast<float>(static_cast<uint32_t>(bits));
      if (type == "f64" || (type == "b64" && n.wide))
        bits = std::bit_cast<uint64_t>(value);
      else if (type == "f32" || type == "b32")
        bits = std::bit_cast<uint32_t>(static_cast<float>(value));
      else
        fail("a real constant for ." + std::string(type));
    }
    append(bits, element);
  }
  void declare(std::string_view space) {  // in a body
    if (space != "reg") {
      Variable v = variable(space);
      rename(v, false);
      expect(';');
      f_->variables.push_back(std::move(v));
      return;
    }
    const Head h = head(false);
    if (h.vector != 1) fail("a vector register");
    do {
      Variable v;
      v.space = "reg", v.type = h.type;
      v.bytes = type_bytes(h.type);
      v.align = std::max<int64_t>(v.bytes, 1);
      v.name = std::string(word());
      if (accept('<')) {
        v.count = integer_literal();
        expect('>');
        if (!scopes_.empty()) {
          for (int64_t i = 0; i < v.count; ++i) {
            Variable one = v;
            one.count = -1;
            one.name += std::to_string(i);
            names_.push_back(std::make_unique<std::string>(one.name));
            rename(one, true, *names_.back());
            f_->variables.push_back(std::move(one));
          }
          continue;
        }
      } else {
        rename(v, true, tokens_[at_ - 1].text);
      }
      f_->variables.push_back(std::move(v));
    } while (accept(','));
    expect(';');
  }
  std::vector<std::unique_ptr<std::string>> names_;  // that the maps' views point to
  int64_t integer_literal() {
    const Number n = literal();
    if (n.real) fail("expected an integer");
    return static_cast<int64_t>(n.bits);
  }
  void rename(Variable& v, bool is_register, std::string_view name = {}) {
    if (name.empty()) {
      names_.push_back(std::make_unique<std::string>(v.name));
      name = *names_.back();
    }
    if (scopes_.empty()) {
      if (is_register && name[0] != '%') registers_.insert(name);
      return;
    }
    v.name += "@" + std::to_string(scopes_.back().id);
    if (is_register && v.name[0] != '%') v.name.insert(0, "%");
    scopes_.back().renamed[name] = v.name;
  }

  // Module level: a variable or a function.
  void item() {
    bool external = false;
    for (;;) {
      if (accept(".extern"))
        external = true;
      else if (!accept(".visible") && !accept(".weak") && !accept(".common"))
        break;
    }
    if (accept(".entry")) return function(true);
    if (accept(".func")) return function(false);
    for (const std::string_view space : {"global", "const", "shared"}) {
      if (!peek().is("." + std::string(space))) continue;
      next();
      Variable v = variable(space);
      v.external = external;
      while (accept(',')) fail("several variables in one declaration");
      expect(';');
      m_.variables.push_back(std::move(v));
      return;
    }
    fail("'" + std::string(peek().text) + "' at module level");
  }
  std::vector<Variable> parameters() {
    std::vector<Variable> out;
    expect('(');
    while (!accept(')')) {
      if (!accept(".param")) fail("a parameter outside .param");
      out.push_back(variable("param", true));
      if (!peek().is(')')) expect(',');
    }
    return out;
  }
  void function(bool entry) {
    Function f;
    f.entry = entry;
    f.line = peek().line;
    while (accept(".attribute"))
      while (!accept(')')) next();
    if (!entry && peek().is('(')) f.returns = parameters();
    f.name = std::string(word());
    if (peek().is('(')) f.params = parameters();
    while (directive()) {
      const std::string name(next().text.substr(1));
      static const std::unordered_set<std::string_view> known = {"maxntid",
                                                                 "reqntid",
                                                                 "minnctapersm",
                                                                 "maxnctapersm",
                                                                 "maxnreg",
                                                                 "reqnctapercluster",
                                                                 "maxclusterrank",
                                                                 "explicitcluster",
                                                                 "noreturn",
                                                                 "blocksareclusters",
                                                                 "pragma",
                                                                 "abi_preserve",
                                                                 "abi_preserve_control"};
      if (!known.contains(name)) --at_, fail("the directive '." + name + "'");
      auto& values = f.directives[name];
      if (name == "pragma") {
        skip_statement();
        continue;
      }
      while (constant()) {
        values.push_back(integer());
        if (!accept(',')) break;
      }
    }
    if (accept(';')) return;  // a prototype
    f_ = &f;
    registers_.clear(), names_.clear();
    scope_count_ = 0;
    expect('{');
    body();
    f_ = nullptr;
    m_.functions.push_back(std::move(f));
  }
  void body() {
    for (;;) {
      const Token& t = peek();
      if (t.is('{')) {
        next();
        scopes_.push_back({++scope_count_, f_->body.size(), {}, {}, {}});
      } else if (t.is('}')) {
        next();
        if (scopes_.empty()) return;
        close_scope();
      } else if (t.is(';')) {
        next();
      } else if (directive()) {
        body_directive();
      } else if (t.kind == Token::Kind::word && peek(1).is(':')) {
        label();
      } else {
        statement();
      }
    }
  }
  void close_scope() {
    Scope& s = scopes_.back();
    for (const std::string_view name : s.labels) {
      const std::string unique = std::string(name) + "@" + std::to_string(s.id);
      for (size_t i = s.first_statement; i < f_->body.size(); ++i)
        for (Operand& o : f_->body[i].args)
          if (o.kind == Operand::Kind::name && o.text == name) o.text = unique;
      for (const std::string& list : s.lists) std::ranges::replace(f_->branch_targets[list], std::string(name), unique);
    }
    scopes_.pop_back();
  }
  void label() {
    const std::string_view name = word();
    expect(':');
    std::string unique(name);
    if (!scopes_.empty()) {
      unique += "@" + std::to_string(scopes_.back().id);
      scopes_.back().labels.push_back(name);
    }
    if (accept(".branchtargets")) {
      auto& targets = f_->branch_targets[unique];
      if (!scopes_.empty()) scopes_.back().lists.push_back(unique);
      do targets.emplace_back(word());
      while (accept(','));
      expect(';');
    } else if (peek().is(".callprototype") || peek().is(".calltargets")) {
      skip_statement();
    } else if (!f_->labels.emplace(unique, f_->body.size()).second) {
      fail("the label '" + std::string(name) + "' a second time");
    }
  }
  void body_directive() {
    const std::string_view d = peek().text.substr(1);
    if (d == "loc" || d == "file") return skip_line();
    if (d == "pragma") return skip_statement();
    if (d == "section") {
      next(), word();
      return skip_braces();
    }
    if (d == "reg" || d == "shared" || d == "local" || d == "param" || d == "global" || d == "const") {
      next();
      return declare(d);
    }
    fail("the directive '." + std::string(d) + "'");
  }
  void statement() {
    Statement s;
    s.line = peek().line;
    if (accept('@')) {
      s.predicate_negated = accept('!');
      bool is_register = false;
      s.predicate = resolve(word(), &is_register);
      if (!is_register) fail("a predicate that is no register");
    }
    std::string_view op = word();
    size_t dot = op.find('.');
    s.op = std::string(op.substr(0, dot));
    while (dot != op.npos) {
      op.remove_prefix(dot + 1);
      dot = op.find('.');
      s.mods.emplace_back(op.substr(0, dot));
    }
    if (s.op == "call") {
      call(s);
    } else {
      while (!peek().is(';')) {
        s.args.push_back(operand());
        if (!peek().is(';')) expect(',');
      }
    }
    expect(';');
    f_->body.push_back(std::move(s));
  }
  void call(Statement& s) {
    Operand none;
    none.kind = Operand::Kind::vector;
    s.args = {none, none, none};
    if (peek().is('(')) {
      s.args[0] = vector('(', ')');
      expect(',');
    }
    s.args[1] = simple();
    if (accept(',')) {
      if (peek().is('('))
        s.args[2] = vector('(', ')');
      else
        s.args.push_back(simple());
      if (accept(',')) s.args.push_back(simple());
    }
  }
};

}  // namespace

std::unique_ptr<Module> parse(std::string_view text) {
  auto m = std::make_unique<Module>();
  m->text = std::string(text);
  Parser(*m).module();
  return m;
}

}  // namespace emu::ptx
