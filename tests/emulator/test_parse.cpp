#include <gtest/gtest.h>

#include <bit>
#include <chrono>
#include <cstring>

#include "machine.h"

// The parser: what each construct of the text becomes, and that what it does not know is an error with its line.
namespace {
using namespace emu::ptx;
using Kind = Operand::Kind;

const std::string kHead = ".version 9.0\n.target sm_90a\n.address_size 64\n";

std::unique_ptr<Module> body(const std::string& text) {
  return parse(kHead + ".visible .entry k()\n{\n" + text + "\nret;\n}\n");
}
Statement statement(const std::string& text) {
  return body(".reg .b32 %r<9>;\n.reg .pred %p<4>;\n" + text)->functions[0].body[0];
}

std::string error(const std::string& text) {
  try {
    parse(text);
  } catch (const emu::Fault& f) {
    return f.what();
  }
  return "";
}

TEST(Parse, Modifiers) {
  const Statement s =
      statement("@!%p1 cp.async.bulk.tensor.2d.shared::cluster.global [%r1], [%r2, {%r3, %r4}], [%r5+-16];");
  EXPECT_EQ(s.line, 8);
  EXPECT_EQ(s.predicate, "%p1");
  EXPECT_TRUE(s.predicate_negated);
  EXPECT_EQ(s.op, "cp");
  EXPECT_EQ(s.mods, (std::vector<std::string>{"async", "bulk", "tensor", "2d", "shared::cluster", "global"}));
  ASSERT_EQ(s.args.size(), 3u);
  EXPECT_EQ(s.args[0].kind, Kind::address);
  ASSERT_EQ(s.args[1].items.size(), 2u);
  EXPECT_EQ(s.args[1].items[0].text, "%r2");
  EXPECT_EQ(s.args[1].items[1].kind, Kind::vector);
  EXPECT_EQ(s.args[1].items[1].items[1].text, "%r4");
  EXPECT_EQ(s.args[2].offset, -16);
}

TEST(Parse, Numbers) {
  const struct {
    const char* text;
    uint64_t bits;
  } integers[] = {{"17", 17},
                  {"-17", uint64_t(-17)},
                  {"0x1F", 31},
                  {"0b101", 5},
                  {"017", 15},
                  {"5U", 5},
                  {"0", 0},
                  {"~0", ~0ull},
                  {"(1<<4)|3", 19},
                  {"2+3*4", 14},
                  {"-(7/2)", uint64_t(-3)},
                  {"1 ? 5 : 6", 5},
                  {"WARP_SZ", 32},
                  {"!3", 0},
                  {"(9>4)&&(2==2)", 1}};
  for (const auto& [text, bits] : integers) {
    const Operand o = statement(std::string("mov.b64 %r1, ") + text + ";").args[1];
    EXPECT_EQ(o.kind, Kind::integer) << text;
    EXPECT_EQ(o.bits, bits) << text;
  }
  Operand o = statement("mov.f32 %r1, 0f3FC00000;").args[1];
  EXPECT_EQ(o.kind, Kind::real);
  EXPECT_FALSE(o.wide);
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(o.bits)), 1.5f);
  o = statement("mov.f64 %r1, 0dBFF8000000000000;").args[1];
  EXPECT_TRUE(o.wide);
  EXPECT_EQ(std::bit_cast<double>(o.bits), -1.5);
  o = statement("mov.f32 %r1, -0.375;").args[1];
  EXPECT_TRUE(o.wide);
  EXPECT_EQ(std::bit_cast<double>(o.bits), -0.375);
}

TEST(Parse, Operands) {
  Statement s = statement("shfl.sync.bfly.b32 %r1|%p2, %r3, 1, 31, -1;");
  EXPECT_EQ(s.args[0].kind, Kind::pair);
  EXPECT_EQ(s.args[0].items[1].text, "%p2");
  EXPECT_EQ(s.args[4].bits, ~0ull);
  s = statement("setp.lt.and.s32 _|%p2, %r1, %r2, !%p3;");
  EXPECT_EQ(s.args[0].items[0].kind, Kind::sink);
  EXPECT_TRUE(s.args[3].negated);
  EXPECT_EQ(s.args[3].kind, Kind::reg);
  s = statement("mov.u32 %r1, %tid.x;");
  EXPECT_EQ(s.args[1].kind, Kind::reg);
  EXPECT_EQ(s.args[1].text, "%tid.x");
  s = statement("mov.b64 {%r1, _}, table+8;");
  EXPECT_EQ(s.args[0].kind, Kind::vector);
  EXPECT_EQ(s.args[0].items[1].kind, Kind::sink);
  EXPECT_EQ(s.args[1].kind, Kind::name);
  EXPECT_EQ(s.args[1].offset, 8);
  s = statement("st.shared.b32 [1024+4], %r1;");
  EXPECT_EQ(s.args[0].items[0].bits + s.args[0].offset, 1028u);
}

TEST(Parse, ScopesKeepNamesApart) {
  const auto m = body(R"(
    .reg .b32 t;
    mov.b32 t, 1;
    { .reg .b32 t, %x<2>; .reg .pred p; mov.b32 t, 2; @p bra done; mov.b32 %x1, t; done: }
    { .reg .b64 t; mov.b64 t, 3; bra done; done: mov.b64 t, 4; }
    mov.b32 t, 5;)");
  const Function& f = m->functions[0];
  const auto name = [&](size_t i) { return f.body[i].args[0].text; };
  EXPECT_EQ(name(0), "t");
  EXPECT_EQ(f.body[0].args[0].kind, Kind::reg);
  EXPECT_NE(name(1), "t");
  EXPECT_EQ(f.body[3].args[1].text, name(1));
  EXPECT_NE(name(4), name(1));
  EXPECT_EQ(name(6), name(4));
  EXPECT_EQ(name(7), "t");
  EXPECT_EQ(f.labels.at(f.body[2].args[0].text), 4u);  // @p bra done
  EXPECT_EQ(f.labels.at(f.body[5].args[0].text), 6u);
  for (const Variable& v : f.variables) {
    if (v.name == name(4)) {
      EXPECT_EQ(v.bytes, 8);
    }
  }
}

TEST(Parse, Variables) {
  const auto m = parse(kHead + R"(
    .extern .shared .align 1024 .b8 smem[];
    .visible .global .align 4 .u32 counter = 3;
    .global .align 1 .b8 text[6] = {104, 101, 108, 108, 111};
    .global .align 1 .b8 other[] = "ab";
    .global .align 8 .u64 pointers[3] = {generic(text), counter+4, 7};
    .global .align 8 .b8 packed[16] = {1, 0, 0, 0, 0, 0, 0, 0, 0xFF(text), 0xFF00(text), 0xFF0000(text),
       0xFF000000(text), 0xFF00000000(text), 0xFF0000000000(text), 0xFF000000000000(text), 0xFF00000000000000(text)};
    .const .align 4 .f32 table[2][2] = {{0f3F800000, 2.0}, {0f40400000}};
    .global .align 8 .f64 wide = 1.5;
    .extern .global .b32 elsewhere;)");
  const auto& v = m->variables;
  ASSERT_EQ(v.size(), 9u);
  EXPECT_EQ(v[0].bytes, 0);
  EXPECT_EQ(v[0].align, 1024);
  EXPECT_TRUE(v[0].external);
  EXPECT_EQ(v[1].init, (std::vector<uint8_t>{3, 0, 0, 0}));
  EXPECT_EQ(v[2].init, (std::vector<uint8_t>{104, 101, 108, 108, 111, 0}));
  EXPECT_EQ(v[3].bytes, 3);
  ASSERT_EQ(v[4].relocations.size(), 2u);
  EXPECT_EQ(v[4].relocations[1].at, 8);
  EXPECT_EQ(v[4].relocations[1].name, "counter");
  EXPECT_EQ(v[4].relocations[1].addend, 4);
  EXPECT_EQ(v[4].init[16], 7);
  ASSERT_EQ(v[5].relocations.size(), 1u);
  EXPECT_EQ(v[5].relocations[0].at, 8);
  float table[4];
  ASSERT_EQ(v[6].init.size(), sizeof table);
  std::memcpy(table, v[6].init.data(), sizeof table);
  EXPECT_EQ(table[0], 1.f);
  EXPECT_EQ(table[1], 2.f);
  EXPECT_EQ(table[2], 3.f);
  EXPECT_EQ(table[3], 0.f);
  EXPECT_EQ(v[7].init[7], 0x3f);
  EXPECT_TRUE(v[8].external);
}

TEST(Parse, Functions) {
  const auto m = parse(kHead + R"(
    .func (.param .b32 r) later(.param .b64 a);
    .weak .func (.param .align 8 .b8 r[16]) f(.param .b64 a, .param .align 4 .b8 b[12]) .noreturn
    { .reg .b32 %r<2>; ret; }
    .visible .entry k(.param .u64 .ptr .global .align 16 k_0, .param .align 64 .b8 k_1[128], .param .u8 k_2)
    .maxntid 256, 1, 1
    .minnctapersm 2 .explicitcluster
    .reqnctapercluster 2, 1, 1
    {
      .reg .pred %p<3>;
      .local .align 16 .b8 depot[48];
      .pragma "nounroll";
      .loc 1 5 3, function_name $L__info0, inlined_at 1 7 2
      { .param .b64 param0; .param .align 8 .b8 retval0[16];
        st.param.b64 [param0], 1;
        call.uni (retval0), f, (param0, param0);
      }
      prototype_0: .callprototype (.param .b32 _) _ (.param .b64 _) ;
      ts: .branchtargets A, B;
      call noargs;
      A: bra B;
      B: exit;
    }
    .section .debug_str { .b8 0 a: .b8 1 })");
  ASSERT_EQ(m->functions.size(), 2u);
  const Function &f = m->functions[0], &k = m->functions[1];
  EXPECT_FALSE(f.entry);
  EXPECT_EQ(f.returns[0].bytes, 16);
  EXPECT_EQ(f.params[1].align, 4);
  EXPECT_TRUE(k.entry);
  EXPECT_EQ(k.params[0].align, 8);  // 16 is the pointee's
  EXPECT_EQ(k.params[1].bytes, 128);
  EXPECT_EQ(k.params[1].align, 64);
  EXPECT_EQ(k.directives.at("maxntid"), (std::vector<int64_t>{256, 1, 1}));
  EXPECT_EQ(k.directives.at("reqnctapercluster"), (std::vector<int64_t>{2, 1, 1}));
  EXPECT_TRUE(k.directives.contains("explicitcluster"));
  EXPECT_EQ(k.branch_targets.at("ts"), (std::vector<std::string>{"A", "B"}));
  const Statement& call = k.body[1];
  EXPECT_EQ(call.args[0].items.size(), 1u);
  EXPECT_EQ(call.args[1].text, "f");
  EXPECT_EQ(call.args[2].items.size(), 2u);
  EXPECT_EQ(call.args[2].items[0].text, k.body[0].args[0].items[0].text);
  EXPECT_TRUE(k.body[2].args[2].items.empty());
}

TEST(Parse, Errors) {
  const auto in = [](const std::string& text, const std::string& part) {
    const std::string e = error(text);
    EXPECT_NE(e.find(part), std::string::npos) << "'" << e << "' lacks '" << part << "'";
  };
  in(kHead + "\n.entry k() {\n  .frobnicate 3;\n}", "line 6: the directive '.frobnicate': .frobnicate 3;");
  in(kHead + ".entry k() { mov.b32 %r1 %r2; }", "line 4");
  in(kHead + ".entry k() { mov.b32 %r1, 0f3F80; }", "0f3F80");
  in(kHead + ".entry k() { mov.b32 %r1, 12x; }", "12x");
  in(kHead + ".entry k() { A: A: ret; }", "a second time");
  in(kHead + ".entry k() { mov.b32 %r1, 4/0; }", "division by zero");
  in(kHead + ".texref t;", ".texref");
  in(kHead + ".global .b8 x[2] = {1, 2, 3};", "more initial values");
  in(kHead + "#", "the character '#'");
  in(kHead + ".entry k() .unheard 3 { ret; }", ".unheard");
  in(".version 9.0\n.target sm_90\n.address_size 32\n", "line 3");
}

TEST(Parse, Speed) {  // 6,400 lines, the size of a complete attention kernel, in well under 0.3 s
  std::string text = ".reg .b32 %r<6500>;\n.reg .f32 %f<6500>;\n";
  for (int i = 1; i < 6400; ++i) {
    const std::string n = std::to_string(i);
    text += "\tfma.rn.f32 \t%f" + n + ", %f" + std::to_string(i - 1) + ", 0f3F800000, %f" + n + ";\n";
  }
  const auto start = std::chrono::steady_clock::now();
  const auto m = body(text);
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 0.3);
  EXPECT_EQ(m->functions[0].body.size(), 6400u);
}

}  // namespace
