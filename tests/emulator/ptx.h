#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

// What a PTX text says, before any meaning: one Statement a line of code. Source: PTX ISA 9.0.
namespace emu::ptx {

struct Operand {
  enum class Kind : uint8_t {
    reg,      // %r1, also special registers (%tid.x)
    integer,  // bits: two's complement
    real,     // 0f…: bits are of an f32; 0d… or 1.5: bits are of an f64 (wide)
    name,     // a variable, function or label
    vector,   // {a, b, …}: items
    pair,     // a|b: items
    address,  // [items[0] + offset]; a tensor's [map, {c…}] has items[1]
    sink,     // _
  };
  Kind kind = Kind::sink;
  bool negated = false;  // !%p
  bool wide = false;
  uint64_t bits = 0;
  int64_t offset = 0;
  std::string text;
  std::vector<Operand> items;
};

struct Statement {
  int line = 0;           // in the PTX text, from 1
  std::string predicate;  // "%p1" or empty
  bool predicate_negated = false;
  std::string op;                 // "mma"
  std::vector<std::string> mods;  // "sync", "aligned", "m16n8k16", "shared::cta", …: what the dots separate
  std::vector<Operand> args;      // a call has: return vector, name, argument vector
};

struct Variable {
  std::string space;   // "reg", "shared", "global", "const", "local", "param"
  std::string type;    // "b32", "pred", "f16x2", …
  std::string name;    // unique in its function: what a nested scope declares has "@" and a number behind it
  int64_t count = -1;  // .reg %r<13>: the names %r0 … %r12
  int64_t bytes = 0;   // of the whole (array) variable; 0: extern unsized; a predicate's is 0
  int64_t align = 1;
  bool external = false;
  std::vector<uint8_t> init;
  struct Relocation {  // an initialiser that is an address
    int64_t at;
    std::string name;
    int64_t addend;
  };
  std::vector<Relocation> relocations;
};

struct Function {
  std::string name;
  bool entry = false;
  int line = 0;
  std::vector<Variable> params, returns;
  std::vector<Variable> variables;  // reg, shared, local, param of the body
  std::vector<Statement> body;
  std::map<std::string, size_t> labels;                            // index into body
  std::map<std::string, std::vector<std::string>> branch_targets;  // .branchtargets of brx.idx
  std::map<std::string, std::vector<int64_t>> directives;  // maxntid, reqntid, minnctapersm, reqnctapercluster, …
};

struct Module {
  std::string target;  // "sm_90a"
  std::vector<Variable> variables;
  std::vector<Function> functions;
  std::string text;  // the source, for messages
};

std::string_view source_line(const Module&, int line);
/// Bytes of a fundamental type ("b32"); pred 0, no such type −1.
int type_bytes(std::string_view type);

/// Throws emu::Fault naming the line.
std::unique_ptr<Module> parse(std::string_view text);

}  // namespace emu::ptx
