#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>

#include "machine.h"
#include "memory.h"

// Decode and scheduler on PTX text: what no CUDA source can say, or what only the emulator can see.
namespace {
using namespace emu;

constexpr uint32_t kThreads = 64;

struct Kernel {
  std::unique_ptr<ptx::Module> module;
  Symbols symbols;
  std::unique_ptr<Program> program;
  explicit Kernel(const std::string& text, const std::string& before = "")
      : module(ptx::parse(".version 9.0\n.target sm_90a\n.address_size 64\n" + before +
                          ".visible .entry k(.param .u64 out)\n{\n" + text + "}\n")) {
    for (const ptx::Function& f : module->functions)
      if (f.entry) program = decode(*module, f, symbols);
  }
  std::vector<uint32_t> run(uint64_t seed = 1, uint64_t max_steps = 1'000'000) {
    auto* out = static_cast<uint32_t*>(device_malloc(kThreads * sizeof(uint32_t)));
    std::memset(static_cast<void*>(out), 0, kThreads * sizeof(uint32_t));
    Grid g;
    g.program = program.get();
    g.block = {kThreads};
    g.params.resize(8);
    g.seed = seed;
    g.max_steps = max_steps;
    std::memcpy(g.params.data(), &out, sizeof out);
    struct Freed {
      void* at;
      ~Freed() { device_free(at); }
    } freed{out};
    emu::run(g);
    return {out, out + kThreads};
  }
};

template <class F>
std::string fault(const F& f) {
  try {
    f();
  } catch (const Fault& e) {
    return e.what();
  }
  return "no fault";
}
void expect(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts)
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

// out[tid] = %r0
const std::string kStore = R"(
  mov.u32 %t, %tid.x; ld.param.u64 %rd0, [out]; mul.wide.u32 %rd1, %t, 4; add.s64 %rd0, %rd0, %rd1;
  st.global.u32 [%rd0], %r0; ret;
)";
const std::string kRegisters = ".reg .u32 %r<2000>, %t; .reg .u64 %rd<4>; .reg .pred %p<8>;\n";

TEST(Decode, UnknownIsAnError) {
  const auto decoding = [](const std::string& text) {
    return fault([&] { Kernel k(kRegisters + text + "\nret;\n"); });
  };
  expect(decoding("frobnicate.u32 %r1, %r2;"), {"PTX line 7", "not supported", "frobnicate.u32 %r1, %r2;"});
  expect(decoding("bra nowhere;"), {"PTX line 7", "the label 'nowhere'"});
  expect(decoding("mov.u32 %r1, %tid.w;"), {"PTX line 7", "'%tid.w' is no register"});
  expect(decoding("mov.u32 %r1, %x9;"), {"'%x9' is no register"});
  expect(decoding("@%r1 bra somewhere; somewhere:"), {"'%r1' is no predicate"});
  expect(decoding("mov.u64 %rd1, nothing;"), {"the name 'nothing'"});
  expect(decoding("add.u32 %r1, %rd1, 3;"), {"'%rd1' has 8 bytes, not 4"});
  expect(decoding("setmaxnreg.inc.sync.aligned.u32 100;"), {"multiple of 8 from 24 to 256"});
  expect(decoding("call elsewhere;"), {"PTX line 7", "call"});
}

TEST(Machine, EndOfCode) {
  Kernel k(kRegisters + "mov.u32 %r0, 1;\n");
  expect(fault([&] { k.run(); }), {"ends without ret", "k, CTA (0, 0, 0), warp"});
}

TEST(Machine, MaxSteps) {
  Kernel k(kRegisters + "mov.u32 %r0, 0;\nagain: add.u32 %r0, %r0, 1; bra again;\n");
  expect(fault([&] { k.run(1, 200'000); }), {"instructions in k", "line 8"});
}

TEST(Machine, Counts) {
  Kernel k(kRegisters + R"(
    mov.u32 %r0, 0; mov.u32 %t, %tid.x; setp.lt.u32 %p1, %t, 40;
    @%p1 bra more;   // warp 0 whole, 8 lanes of warp 1
    bra done;
    more: add.u32 %r0, %r0, 5; add.u32 %r0, %r0, 6;
    done: bar.sync 0;)" +
           kStore);
  const auto out = k.run();
  for (uint32_t t = 0; t < kThreads; ++t) EXPECT_EQ(out[t], t < 40 ? 11u : 0u);
  const Counts& c = last_counts();
  const auto of = [&](Class cls) { return c.warp_instructions[static_cast<int>(cls)]; };
  EXPECT_EQ(of(Class::barrier), 2u);
  EXPECT_EQ(of(Class::store_global), 2u);
  EXPECT_EQ(of(Class::load_param), 2u);
  EXPECT_EQ(of(Class::control), 2u + 1 + 2);  // the branch, the 24 lanes' second, ret
  EXPECT_EQ(of(Class::integer), 4u + 2 * 2);  // add, add; mul.wide, add
  const uint64_t whole = 3 + 1 + 6;           // mov, mov, setp; bar; the store's six, of which ret
  EXPECT_EQ(c.lane_instructions, whole * 64 + 40 + 24 + 2 * 40);
}

TEST(Machine, CountsFile) {
  const std::string path = testing::TempDir() + "counts." + std::to_string(getpid());
  std::remove(path.c_str());
  setenv("SACCADE_EMULATOR_COUNTS", path.c_str(), 1);
  Kernel k(kRegisters + "mov.u32 %r0, 3; bar.sync 0;" + kStore);
  k.run();
  k.run();
  unsetenv("SACCADE_EMULATOR_COUNTS");
  std::ifstream file(path);
  std::string line;
  int lines = 0;
  for (; std::getline(file, line); ++lines)
    expect(line, {"{\"kernel\": \"k\", \"grid\": [1, 1, 1], \"block\": [64, 1, 1], \"cluster\": [1, 1, 1], ",
                  "\"barrier\": 2, ", "\"store_global\": 2, ", "\"lane_instructions\": 512, "});
  EXPECT_EQ(lines, 2);
  std::remove(path.c_str());
}

// A thousand registers, few alive at once: their places are shared, and the result is still theirs.
TEST(Machine, RegistersSharePlaces) {
  std::string text = "mov.u32 %t, %tid.x; mov.u32 %r0, %t; mov.u32 %r1, 1;\n";
  uint32_t want[kThreads];
  std::iota(want, want + kThreads, 0u);
  for (uint32_t i = 2; i < 1000; ++i) {
    const auto r = [](uint32_t n) { return "%r" + std::to_string(n); };
    text += "mad.lo.u32 " + r(i) + ", " + r(i - 1) + ", 3, " + r(i == 2 ? 0 : i - 2) + ";\n";
  }
  text += "xor.b32 %r1000, %r999, %r1;\nmov.u32 %r0, %r1000;\n";
  Kernel k(kRegisters + text + kStore);
  EXPECT_LT(k.program->register_bytes, 4096u);
  const auto out = k.run();
  for (uint32_t t = 0; t < kThreads; ++t) {
    uint32_t a = t, b = 1;  // r(i − 2), r(i − 1)
    for (uint32_t i = 2; i < 1000; ++i) {
      const uint32_t c = b * 3 + a;
      a = b, b = c;
    }
    EXPECT_EQ(out[t], b ^ 1u) << t;
  }
}

// Values alive around a loop and across divergent paths, under every order of the warps.
TEST(Machine, RegistersAcrossLoops) {
  Kernel k(kRegisters + R"(
    mov.u32 %t, %tid.x; and.b32 %r1, %t, 7; mov.u32 %r0, 0; mov.u32 %r2, 1; mov.u32 %r9, 100;
    loop:
      setp.eq.u32 %p1, %r1, 0; @%p1 bra out_of_loop;
      mul.lo.u32 %r3, %r2, 3; and.b32 %r4, %r3, 1; setp.ne.u32 %p2, %r4, %r1;
      @!%p2 bra odd;
      add.u32 %r5, %r3, %r9; add.u32 %r2, %r5, 1; bra next;
      odd: sub.u32 %r6, %r3, %r1; add.u32 %r2, %r6, %r9;
      next: sub.u32 %r1, %r1, 1; add.u32 %r0, %r0, %r2; bra loop;
    out_of_loop: add.u32 %r0, %r0, %r9;)" +
           kStore);
  for (uint64_t seed = 1; seed < 20; ++seed) {
    const auto out = k.run(seed);
    for (uint32_t t = 0; t < kThreads; ++t) {
      uint32_t sum = 0, v = 1;
      for (uint32_t n = t & 7; n; --n) {
        const uint32_t w = v * 3;
        v = (w & 1) != n ? w + 101 : w - n + 100;
        sum += v;
      }
      EXPECT_EQ(out[t], sum + 100) << t;
    }
  }
}

TEST(Machine, NeverWrittenRegisterIsPoison) {
  Kernel k(kRegisters + "mov.u32 %r0, %r7;\n" + kStore);
  for (const uint32_t v : k.run()) EXPECT_EQ(v, uint32_t{kPoison} << 16 | kPoison);
}

TEST(Machine, SharedVariablesAreLaidOutByAlignment) {
  Kernel k(kRegisters + R"(
    .shared .align 1 .b8 a[3];
    .shared .align 16 .b8 b[20];
    mov.u32 %r1, a; mov.u32 %r2, b; mov.u32 %r3, unused_here; mov.u32 %r4, dynamic;
    sub.u32 %r5, %r2, %r1; sub.u32 %r6, %r4, %r1; shl.b32 %r6, %r6, 16; or.b32 %r0, %r5, %r6;)" +
               kStore,
           ".shared .align 4 .b8 unused_here[4];\n.shared .align 4 .b8 never[4000];\n"
           ".extern .shared .align 256 .b8 dynamic[];\n");
  EXPECT_EQ(k.program->shared_bytes % 256, 0);
  EXPECT_LT(k.program->shared_bytes, 512);
  const uint32_t got = k.run()[0];
  EXPECT_EQ(got & 0xffff, 12u);  // `unused_here` lies at 0, a at 4, b at 16
  EXPECT_EQ(got >> 16, 256u - 4);
}

}  // namespace
