#include "codes.h"

// mma.sync: every shape and type of sm_80 to sm_90. Matrices are laid out here by the PTX ISA's formulas, element by
// element, and multiplied in long double or int64.
namespace {

using test::bits_of, test::code_of, test::random_code, test::Type, test::unit, test::value;

using Kernel = void (*)(const void*, const void*, const void*, void*);
struct Form {
  const char* name;
  Kernel kernel;
  int m, k;
  Type a, b, c;
  const char* text;
  bool has(const char* mod) const { return std::strstr(text, mod) != nullptr; }
  bool real() const { return c != Type::s32; }
};

#define A2 "r"(a[0][l]), "r"(a[1][l])
#define A4 A2, "r"(a[2][l]), "r"(a[3][l])
#define RUN_424(text)                                                                                \
  asm volatile("mma.sync.aligned." text " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};" \
               : "=r"(d[0][l]), "=r"(d[1][l]), "=r"(d[2][l]), "=r"(d[3][l])                          \
               : A4, "r"(b[0][l]), "r"(b[1][l]), "r"(c[0][l]), "r"(c[1][l]), "r"(c[2][l]), "r"(c[3][l]))
#define RUN_422(text)                                                                \
  asm volatile("mma.sync.aligned." text " {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%8,%9};" \
               : "=r"(d[0][l]), "=r"(d[1][l])                                        \
               : A4, "r"(b[0][l]), "r"(b[1][l]), "r"(c[0][l]), "r"(c[1][l]))
#define RUN_214(text)                                                                    \
  asm volatile("mma.sync.aligned." text " {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};" \
               : "=r"(d[0][l]), "=r"(d[1][l]), "=r"(d[2][l]), "=r"(d[3][l])              \
               : A2, "r"(b[0][l]), "r"(c[0][l]), "r"(c[1][l]), "r"(c[2][l]), "r"(c[3][l]))
#define RUN_212(text)                                                       \
  asm volatile("mma.sync.aligned." text " {%0,%1}, {%2,%3}, {%4}, {%5,%6};" \
               : "=r"(d[0][l]), "=r"(d[1][l])                               \
               : A2, "r"(b[0][l]), "r"(c[0][l]), "r"(c[1][l]))
#define RUN_112(text)                                                    \
  asm volatile("mma.sync.aligned." text " {%0,%1}, {%2}, {%3}, {%4,%5};" \
               : "=r"(d[0][l]), "=r"(d[1][l])                            \
               : "r"(a[0][l]), "r"(b[0][l]), "r"(c[0][l]), "r"(c[1][l]))
#define RUN_D112(text)                                                   \
  asm volatile("mma.sync.aligned." text " {%0,%1}, {%2}, {%3}, {%4,%5};" \
               : "=d"(d[0][l]), "=d"(d[1][l])                            \
               : "d"(a[0][l]), "d"(b[0][l]), "d"(c[0][l]), "d"(c[1][l]))
#define RUN_D214(text)                                                                   \
  asm volatile("mma.sync.aligned." text " {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};" \
               : "=d"(d[0][l]), "=d"(d[1][l]), "=d"(d[2][l]), "=d"(d[3][l])              \
               : "d"(a[0][l]), "d"(a[1][l]), "d"(b[0][l]), "d"(c[0][l]), "d"(c[1][l]), "d"(c[2][l]), "d"(c[3][l]))
#define RUN_D424(text)                                                                                             \
  asm volatile("mma.sync.aligned." text " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"               \
               : "=d"(d[0][l]), "=d"(d[1][l]), "=d"(d[2][l]), "=d"(d[3][l])                                        \
               : "d"(a[0][l]), "d"(a[1][l]), "d"(a[2][l]), "d"(a[3][l]), "d"(b[0][l]), "d"(b[1][l]), "d"(c[0][l]), \
                 "d"(c[1][l]), "d"(c[2][l]), "d"(c[3][l]))
#define RUN_D844(text)                                                                                             \
  asm volatile("mma.sync.aligned." text                                                                            \
               " {%0,%1,%2,%3}, {%4,%5,%6,%7,%8,%9,%10,%11}, {%12,%13,%14,%15}, {%16,%17,%18,%19};"                \
               : "=d"(d[0][l]), "=d"(d[1][l]), "=d"(d[2][l]), "=d"(d[3][l])                                        \
               : "d"(a[0][l]), "d"(a[1][l]), "d"(a[2][l]), "d"(a[3][l]), "d"(a[4][l]), "d"(a[5][l]), "d"(a[6][l]), \
                 "d"(a[7][l]), "d"(b[0][l]), "d"(b[1][l]), "d"(b[2][l]), "d"(b[3][l]), "d"(c[0][l]), "d"(c[1][l]), \
                 "d"(c[2][l]), "d"(c[3][l]))

// X(registers, name, word, m, k, a, b, c, text)
#define FORMS_OF_BYTES(X, a, b)                                                                                   \
  X(112, a##_##b##_m8n8k16, uint32_t, 8, 16, a, b, s32, "m8n8k16.row.col.s32." #a "." #b ".s32")                  \
  X(214, a##_##b##_m16n8k16, uint32_t, 16, 16, a, b, s32, "m16n8k16.row.col.s32." #a "." #b ".s32")               \
  X(424, a##_##b##_m16n8k32, uint32_t, 16, 32, a, b, s32, "m16n8k32.row.col.s32." #a "." #b ".s32")               \
  X(112, a##_##b##_m8n8k16_sat, uint32_t, 8, 16, a, b, s32, "m8n8k16.row.col.satfinite.s32." #a "." #b ".s32")    \
  X(214, a##_##b##_m16n8k16_sat, uint32_t, 16, 16, a, b, s32, "m16n8k16.row.col.satfinite.s32." #a "." #b ".s32") \
  X(424, a##_##b##_m16n8k32_sat, uint32_t, 16, 32, a, b, s32, "m16n8k32.row.col.s32." #a "." #b ".s32.satfinite")
#define FORMS_OF_NIBBLES(X, a, b)                                                                   \
  X(112, a##_##b##_m8n8k32, uint32_t, 8, 32, a, b, s32, "m8n8k32.row.col.s32." #a "." #b ".s32")    \
  X(214, a##_##b##_m16n8k32, uint32_t, 16, 32, a, b, s32, "m16n8k32.row.col.s32." #a "." #b ".s32") \
  X(424, a##_##b##_m16n8k64, uint32_t, 16, 64, a, b, s32, "m16n8k64.row.col.s32." #a "." #b ".s32") \
  X(424, a##_##b##_m16n8k64_sat, uint32_t, 16, 64, a, b, s32, "m16n8k64.row.col.satfinite.s32." #a "." #b ".s32")
#define FORMS_OF_F8(X, a, b)                                                                            \
  X(214, a##_##b##_m16n8k16_f32, uint32_t, 16, 16, a, b, f32, "m16n8k16.row.col.f32." #a "." #b ".f32") \
  X(424, a##_##b##_m16n8k32_f32, uint32_t, 16, 32, a, b, f32, "m16n8k32.row.col.f32." #a "." #b ".f32") \
  X(212, a##_##b##_m16n8k16_f16, uint32_t, 16, 16, a, b, f16, "m16n8k16.row.col.f16." #a "." #b ".f16") \
  X(422, a##_##b##_m16n8k32_f16, uint32_t, 16, 32, a, b, f16, "m16n8k32.row.col.f16." #a "." #b ".f16")
#define FORMS_OF_BITS(X, op)                                                                                \
  X(112, b1_m8n8k128_##op, uint32_t, 8, 128, b1, b1, s32, "m8n8k128.row.col.s32.b1.b1.s32." #op ".popc")    \
  X(214, b1_m16n8k128_##op, uint32_t, 16, 128, b1, b1, s32, "m16n8k128.row.col.s32.b1.b1.s32." #op ".popc") \
  X(424, b1_m16n8k256_##op, uint32_t, 16, 256, b1, b1, s32, "m16n8k256.row.col.s32.b1.b1.s32." #op ".popc")
#define FORMS(X)                                                                                     \
  X(212, f16_m16n8k8_f16, uint32_t, 16, 8, f16, f16, f16, "m16n8k8.row.col.f16.f16.f16.f16")         \
  X(422, f16_m16n8k16_f16, uint32_t, 16, 16, f16, f16, f16, "m16n8k16.row.col.f16.f16.f16.f16")      \
  X(214, f16_m16n8k8_f32, uint32_t, 16, 8, f16, f16, f32, "m16n8k8.row.col.f32.f16.f16.f32")         \
  X(424, f16_m16n8k16_f32, uint32_t, 16, 16, f16, f16, f32, "m16n8k16.row.col.f32.f16.f16.f32")      \
  X(214, bf16_m16n8k8_f32, uint32_t, 16, 8, bf16, bf16, f32, "m16n8k8.row.col.f32.bf16.bf16.f32")    \
  X(424, bf16_m16n8k16_f32, uint32_t, 16, 16, bf16, bf16, f32, "m16n8k16.row.col.f32.bf16.bf16.f32") \
  X(214, tf32_m16n8k4_f32, uint32_t, 16, 4, tf32, tf32, f32, "m16n8k4.row.col.f32.tf32.tf32.f32")    \
  X(424, tf32_m16n8k8_f32, uint32_t, 16, 8, tf32, tf32, f32, "m16n8k8.row.col.f32.tf32.tf32.f32")    \
  FORMS_OF_F8(X, e4m3, e4m3)                                                                         \
  FORMS_OF_F8(X, e4m3, e5m2)                                                                         \
  FORMS_OF_F8(X, e5m2, e4m3)                                                                         \
  FORMS_OF_F8(X, e5m2, e5m2)                                                                         \
  FORMS_OF_BYTES(X, s8, s8)                                                                          \
  FORMS_OF_BYTES(X, s8, u8)                                                                          \
  FORMS_OF_BYTES(X, u8, s8)                                                                          \
  FORMS_OF_BYTES(X, u8, u8)                                                                          \
  FORMS_OF_NIBBLES(X, s4, s4)                                                                        \
  FORMS_OF_NIBBLES(X, s4, u4)                                                                        \
  FORMS_OF_NIBBLES(X, u4, s4)                                                                        \
  FORMS_OF_NIBBLES(X, u4, u4)                                                                        \
  FORMS_OF_BITS(X, and)                                                                              \
  FORMS_OF_BITS(X, xor)                                                                              \
  X(D112, f64_m8n8k4, double, 8, 4, f64, f64, f64, "m8n8k4.row.col.f64.f64.f64.f64")                 \
  X(D214, f64_m16n8k4, double, 16, 4, f64, f64, f64, "m16n8k4.row.col.f64.f64.f64.f64")              \
  X(D424, f64_m16n8k8, double, 16, 8, f64, f64, f64, "m16n8k8.row.col.f64.f64.f64.f64")              \
  X(D844, f64_m16n8k16, double, 16, 16, f64, f64, f64, "m16n8k16.row.col.f64.f64.f64.f64.rn")

#define KERNEL(registers, name, word, m, k, ta, tb, tc, text)                          \
  __global__ void name(const void* pa, const void* pb, const void* pc, void* pd) {     \
    using Lanes = word[32];                                                            \
    const auto *a = static_cast<const Lanes*>(pa), *b = static_cast<const Lanes*>(pb); \
    const auto* c = static_cast<const Lanes*>(pc);                                     \
    auto* d = static_cast<Lanes*>(pd);                                                 \
    const int l = threadIdx.x;                                                         \
    RUN_##registers(text);                                                             \
  }
FORMS(KERNEL)

#define ROW(registers, name, word, m, k, ta, tb, tc, text) {#name, name, m, k, Type::ta, Type::tb, Type::tc, text},
const Form kForms[] = {FORMS(ROW)};

// PTX ISA, "Matrix Fragments for mma.<shape> with <type>": element i of lane (group g, thread t of it).
struct Spot {
  int row, col;
};
Spot spot_a(const Form& f, int i, int lane) {
  const int g = lane >> 2, t = lane & 3, bits = bits_of(f.a), k = f.k;
  const auto in = [i](int from, int to) { return from <= i && i < to; };
  switch (bits) {
    case 64:
      if (f.m == 8) return {g, t};
      if (k == 4) return {i == 0 ? g : g + 8, t};
      if (k == 8) return {i == 0 || i == 2 ? g : g + 8, i < 2 ? t : t + 4};
      return {i % 2 == 0 ? g : g + 8, i % 2 == 0 ? i * 2 + t : i * 2 - 2 + t};
    case 32:
      if (k == 4) return {i == 0 ? g : g + 8, t};
      return {i == 0 || i == 2 ? g : g + 8, i < 2 ? t : t + 4};
    case 16:
      if (k == 8) return {i < 2 ? g : g + 8, t * 2 + (i & 1)};
      return {in(0, 2) || in(4, 6) ? g : g + 8, i < 4 ? t * 2 + (i & 1) : t * 2 + (i & 1) + 8};
    case 8:
      if (f.m == 8) return {g, t * 4 + i};
      if (k == 16) return {i < 4 ? g : g + 8, t * 4 + (i & 3)};
      return {in(0, 4) || in(8, 12) ? g : g + 8, i < 8 ? t * 4 + (i & 3) : t * 4 + (i & 3) + 16};
    case 4:
      if (f.m == 8) return {g, t * 8 + i};
      if (k == 32) return {i < 8 ? g : g + 8, t * 8 + (i & 7)};
      return {in(0, 8) || in(16, 24) ? g : g + 8, i < 16 ? t * 8 + (i & 7) : t * 8 + (i & 7) + 32};
    default:
      if (f.m == 8) return {g, t * 32 + i};
      if (k == 128) return {i < 32 ? g : g + 8, t * 32 + (i & 31)};
      return {in(0, 32) || in(64, 96) ? g : g + 8, i < 64 ? t * 32 + (i & 31) : t * 32 + (i & 31) + 128};
  }
}
Spot spot_b(const Form& f, int i, int lane) {
  const int g = lane >> 2, t = lane & 3;
  switch (bits_of(f.b)) {
    case 64:
      return {f.k == 16 ? i * 4 + t : i == 0 ? t : t + 4, g};
    case 32:
      return {i == 0 ? t : t + 4, g};
    case 16:
      return {i < 2 ? t * 2 + (i & 1) : t * 2 + (i & 1) + 8, g};
    case 8:
      return {i < 4 ? t * 4 + (i & 3) : t * 4 + (i & 3) + 16, g};
    case 4:
      return {i < 8 ? t * 8 + (i & 7) : t * 8 + (i & 7) + 32, g};
    default:
      return {i < 32 ? t * 32 + (i & 31) : t * 32 + (i & 31) + 128, g};
  }
}
Spot spot_c(const Form&, int i, int lane) {
  const int g = lane >> 2, t = lane & 3;
  return {i < 2 ? g : g + 8, t * 2 + (i & 1)};
}

using Codes = std::vector<uint64_t>;  // row-major
struct Problem {
  Codes a, b, c;
};

/// A fragment in registers: word[register][lane].
Codes pack(const Form& f, Type t, const Codes& matrix, int elements, int columns, Spot (*spot)(const Form&, int, int)) {
  const int word = t == Type::f64 ? 64 : 32, bits = bits_of(t), per_word = word / bits;
  const int in_lane = elements / 32;
  Codes words(static_cast<size_t>(in_lane) / per_word * 32);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < in_lane; ++i) {
      const Spot s = spot(f, i, lane);
      words[i / per_word * 32 + lane] |= matrix[s.row * columns + s.col] << bits * (i % per_word);
    }
  }
  return words;
}

template <class Word>
Codes launch(const Form& f, const Codes& a, const Codes& b, const Codes& c) {
  const auto words = [](const Codes& codes) { return std::vector<Word>(codes.begin(), codes.end()); };
  const test::Buffer<Word> da(words(a)), db(words(b)), dc(words(c)), dd(c.size());
  f.kernel<<<1, 32>>>(da, db, dc, dd);
  EXPECT_TRUE(test::ok());
  const auto d = dd.read();
  return Codes(d.begin(), d.end());
}

Codes run(const Form& f, const Problem& p) {
  const auto a = pack(f, f.a, p.a, f.m * f.k, f.k, spot_a), b = pack(f, f.b, p.b, f.k * 8, 8, spot_b);
  const auto c = pack(f, f.c, p.c, f.m * 8, 8, spot_c);
  const Codes words = f.c == Type::f64 ? launch<uint64_t>(f, a, b, c) : launch<uint32_t>(f, a, b, c);
  Codes out(static_cast<size_t>(f.m) * 8);
  const int bits = bits_of(f.c), per_word = (f.c == Type::f64 ? 64 : 32) / bits, in_lane = f.m * 8 / 32;
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < in_lane; ++i) {
      const Spot s = spot_c(f, i, lane);
      const uint64_t word = words[i / per_word * 32 + lane] >> bits * (i % per_word);
      out[s.row * 8 + s.col] = bits == 64 ? word : word & ((uint64_t{1} << bits) - 1);
    }
  }
  return out;
}

struct Expected {
  long double sum, magnitude;  // of C + A B; of |C| + |A| |B|
};
Expected expected(const Form& f, const Problem& p, int row, int col) {
  const long double c = value(f.c, p.c[row * 8 + col]);
  Expected e{c, std::fabs(c)};
  for (int k = 0; k < f.k; ++k) {
    const long double a = value(f.a, p.a[row * f.k + k]), b = value(f.b, p.b[k * 8 + col]);
    const long double product = f.has("xor") ? a != b : a * b;
    e.sum += product;
    e.magnitude += std::fabs(product);
  }
  return e;
}

void check_close(const Form& f, const Problem& p) {
  const Codes d = run(f, p);
  for (int row = 0; row < f.m; ++row) {
    for (int col = 0; col < 8; ++col) {
      const Expected e = expected(f, p, row, col);
      const long double got = value(f.c, d[row * 8 + col]);
#if SACCADE_EMULATED  // one rounding
      const long double tolerance = f.c == Type::f64 ? 0x1p-51L * e.magnitude : 0.50001L * unit(f.c, e.sum);
#else  // cards keep 13 bits of the fraction of fp8's sums, and truncate all
      const bool f8 = bits_of(f.a) == 8;
      const long double tolerance = unit(f.c, e.magnitude) + e.magnitude * (f.c == Type::f64 ? 0x1p-50L
                                                                            : f8             ? 0x1p-10L
                                                                                             : 0x1p-20L);
#endif
      ASSERT_NEAR(got, e.sum, tolerance) << "row " << row << ", column " << col;
    }
  }
}

class Mma : public testing::TestWithParam<Form> {};
class MmaOfIntegers : public Mma {};
class MmaOfReals : public Mma {};

TEST_P(Mma, PutsElementsWhereTheIsaSays) {
  const Form& f = GetParam();
  std::mt19937 rng(1);
  const auto fill = [&](Type t, int n) {
    const bool is_signed = t != Type::u4 && t != Type::u8 && t != Type::b1;
    std::uniform_int_distribution<int> of(is_signed ? -4 : 0, t == Type::b1 ? 1 : 4);
    Codes codes(n);
    for (auto& code : codes) code = code_of(t, of(rng));
    return codes;
  };
  const Problem p{fill(f.a, f.m * f.k), fill(f.b, f.k * 8), fill(f.c, f.m * 8)};
  const Codes d = run(f, p);
#if SACCADE_EMULATED
  EXPECT_EQ(emu::last_counts().tensor_flops, 2u * f.m * 8 * f.k);
#endif
  for (int row = 0; row < f.m; ++row) {
    for (int col = 0; col < 8; ++col)
      ASSERT_EQ(value(f.c, d[row * 8 + col]), expected(f, p, row, col).sum) << "row " << row << ", column " << col;
  }
}

TEST_P(MmaOfIntegers, SumsExactIntegersAndWrapsOrSaturates) {
  const Form& f = GetParam();
  std::mt19937 rng(2);
  for (int round = 0; round < 4; ++round) {
    const auto fill = [&](Type t, int n) {
      Codes codes(n);
      for (auto& code : codes) {
        code = rng() & ((uint64_t{1} << bits_of(t)) - 1);
        if (round == 1 && t != Type::s32) code = (uint64_t{1} << bits_of(t)) - 1;  // the largest sums of unsigned
        if (round == 2 && t != Type::s32) code = uint64_t{1} << (bits_of(t) - 1);  // and of signed
        if (t == Type::s32) code = round == 0 ? rng() : (rng() & 1 ? 0x7fffffffu : 0x80000000u) ^ (rng() & 0xff);
      }
      return codes;
    };
    const Problem p{fill(f.a, f.m * f.k), fill(f.b, f.k * 8), fill(f.c, f.m * 8)};
    const Codes d = run(f, p);
    for (int row = 0; row < f.m; ++row) {
      for (int col = 0; col < 8; ++col) {
        auto sum = static_cast<int64_t>(expected(f, p, row, col).sum);
        if (f.has("satfinite")) sum = std::min<int64_t>(std::max<int64_t>(sum, INT32_MIN), INT32_MAX);
        ASSERT_EQ(static_cast<int32_t>(d[row * 8 + col]), static_cast<int32_t>(static_cast<uint32_t>(sum)))
            << "round " << round << ", row " << row << ", column " << col;
      }
    }
  }
}

TEST_P(MmaOfReals, RoundsRealSumsOnce) {
  const Form& f = GetParam();
  std::mt19937 rng(3);
  for (const bool subnormal : {false, true}) {
    if (subnormal && bits_of(f.a) > 16) continue;
    const auto fill = [&](Type t, int n, bool small) {
      Codes codes(n);
      for (auto& code : codes) code = random_code(t, rng, small);
      return codes;
    };
    Problem p{fill(f.a, f.m * f.k, subnormal), fill(f.b, f.k * 8, false), fill(f.c, f.m * 8, false)};
    if (subnormal) p.c.assign(p.c.size(), 0);
    check_close(f, p);
  }
}

TEST_P(MmaOfReals, CarriesInfinitiesAndNaNs) {
  const Form& f = GetParam();
  std::mt19937 rng(4);
  int nans = 0, infinities = 0;
  for (int round = 0; round < 8; ++round) {
    const auto fill = [&](Type t, int n) {
      Codes codes(n);
      for (auto& code : codes) {
        code = random_code(t, rng);
        if (rng() % 64 != 0) continue;
        const int kind = static_cast<int>(rng() % 4);
        const uint64_t sign = kind & 1, special = kind & 2;  // zero, −zero, infinity, −infinity; e4m3: NaN
        switch (t) {
          case Type::e4m3:
            code = sign << 7 | (special ? 0x7f : 0);
            break;
          case Type::e5m2:
            code = sign << 7 | (special ? 0x7c : 0);
            break;
          case Type::f16:
            code = sign << 15 | (special ? 0x7c00 : 0);
            break;
          case Type::bf16:
            code = sign << 15 | (special ? 0x7f80 : 0);
            break;
          case Type::f64:
            code = sign << 63 | (special ? uint64_t{0x7ff} << 52 : 0);
            break;
          default:
            code = sign << 31 | (special ? 0x7f800000 : 0);
        }
        if (special && rng() % 4 == 0 && t != Type::e4m3)
          code |= t == Type::f64    ? uint64_t{1} << 51
                  : t == Type::e5m2 ? 2
                  : t == Type::f16  ? 0x200
                  : t == Type::bf16 ? 0x40
                                    : 0x400000;
      }
      return codes;
    };
    const Problem p{fill(f.a, f.m * f.k), fill(f.b, f.k * 8), fill(f.c, f.m * 8)};
    const Codes d = run(f, p);
    for (int row = 0; row < f.m; ++row) {
      for (int col = 0; col < 8; ++col) {
        const long double want = expected(f, p, row, col).sum, got = value(f.c, d[row * 8 + col]);
        nans += std::isnan(want);
        infinities += std::isinf(want);
        ASSERT_EQ(std::isnan(got), std::isnan(want)) << "row " << row << ", column " << col;
        if (std::isnan(want) && f.c == Type::f32) ASSERT_EQ(d[row * 8 + col], 0x7fffffffu);
        if (std::isnan(want) && f.c == Type::f16) ASSERT_EQ(d[row * 8 + col], 0x7fffu);
        if (std::isinf(want)) ASSERT_EQ(got, want) << "row " << row << ", column " << col;
        if (std::isfinite(want)) ASSERT_TRUE(std::isfinite(got)) << "row " << row << ", column " << col;
      }
    }
  }
  EXPECT_GT(nans, 0);
  if (f.a != Type::e4m3 || f.b != Type::e4m3) EXPECT_GT(infinities, 0);
}

std::vector<Form> forms(bool real) {
  std::vector<Form> chosen;
  for (const Form& f : kForms) {
    if (f.real() == real) chosen.push_back(f);
  }
  return chosen;
}
std::string name_of(const testing::TestParamInfo<Form>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Forms, Mma, testing::ValuesIn(kForms), name_of);
INSTANTIATE_TEST_SUITE_P(Forms, MmaOfIntegers, testing::ValuesIn(forms(false)), name_of);
INSTANTIATE_TEST_SUITE_P(Forms, MmaOfReals, testing::ValuesIn(forms(true)), name_of);

// D's registers may be A's, B's or C's, in another order too.
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#define REGISTERS(r) "+r"(r[0]), "+r"(r[1]), "+r"(r[2]), "+r"(r[3])
#define VALUES(r) "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
__global__ void aliased(uint32_t (*out)[4], uint32_t seed) {
  const uint32_t one = 0x3f803f80 + threadIdx.x * seed;  // bf16 from 1
  uint32_t r[4] = {one, one + 1, one + 2, one + 3}, s[4] = {one + 4, one + 5, one + 6, one + 7};
  asm volatile(MMA "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%4,%5}, {%3,%2,%1,%0};" : REGISTERS(r) : VALUES(s));
  asm volatile(MMA "{%0,%1,%2,%3}, {%0,%1,%2,%3}, {%2,%3}, {%4,%5,%6,%7};" : REGISTERS(s) : VALUES(r));
  for (int i = 0; i < 4; ++i) out[threadIdx.x][i] = r[i], out[threadIdx.x + 32][i] = s[i];
}
__global__ void distinct(uint32_t (*out)[4], uint32_t seed) {
  const uint32_t one = 0x3f803f80 + threadIdx.x * seed;
  uint32_t r[4] = {one + 3, one + 2, one + 1, one}, s[4] = {one + 4, one + 5, one + 6, one + 7}, d[4] = {}, e[4] = {};
#define SEPARATE(d, a, b0, b1, c)                                                   \
  asm volatile("{ .reg .b32 t<4>; " MMA                                             \
               "{t0,t1,t2,t3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"          \
               " mov.b32 %0, t0; mov.b32 %1, t1; mov.b32 %2, t2; mov.b32 %3, t3; }" \
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])                     \
               : VALUES(a), "r"(b0), "r"(b1), VALUES(c))
  SEPARATE(d, s, s[0], s[1], r);
  SEPARATE(e, s, s[2], s[3], d);
  for (int i = 0; i < 4; ++i) out[threadIdx.x][i] = d[i], out[threadIdx.x + 32][i] = e[i];
}

TEST(MmaRegisters, MayBeReadAndWrittenByOneInstruction) {
  const test::Buffer<uint32_t> a(256), b(256);
  aliased<<<1, 32>>>(reinterpret_cast<uint32_t(*)[4]>(a.data()), 0x00050003);
  ASSERT_TRUE(test::ok());
  distinct<<<1, 32>>>(reinterpret_cast<uint32_t(*)[4]>(b.data()), 0x00050003);
  ASSERT_TRUE(test::ok());
  ASSERT_EQ(a.read(), b.read());
}

#if SACCADE_EMULATED
__global__ void some_lanes(uint32_t* out, int lanes) {
  if (threadIdx.x >= lanes) return;
  uint32_t d[4] = {};
  asm volatile(MMA "{%0,%1,%2,%3}, {%0,%1,%2,%3}, {%2,%3}, {%0,%1,%2,%3};" : REGISTERS(d));
  out[threadIdx.x] = d[0];
}
TEST(MmaLanes, AllMustBeThere) {
  const test::Buffer<uint32_t> out(32);
  some_lanes<<<1, 32>>>(out, 31);
  ASSERT_TRUE(test::found("mma.sync needs all 32 lanes"));
  some_lanes<<<1, 32>>>(out, 32);
  ASSERT_TRUE(test::ok());
}

__global__ void sparse(uint32_t* out) {
  uint32_t d[4] = {};
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%0,%1}, {%2,%3}, "
      "{%0,%1,%2,%3}, %0, 0x0;"
      : REGISTERS(d));
  out[threadIdx.x] = d[0];
}
TEST(MmaForms, WhatIsNotSupportedIsAnError) {
  const test::Buffer<uint32_t> out(32);
  sparse<<<1, 32>>>(out);
  EXPECT_NE(cudaGetLastError(), cudaSuccess);
  const auto findings = emu::take_findings();
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_NE(findings[0].find("sparse mma is not supported"), std::string::npos) << findings[0];
  EXPECT_NE(findings[0].find("line "), std::string::npos) << findings[0];
}
#endif

}  // namespace
