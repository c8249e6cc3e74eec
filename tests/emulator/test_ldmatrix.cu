#include <numeric>
#include <random>

#include "test.h"

// ldmatrix, stmatrix, movmatrix, against element by element copies by the PTX ISA's layout: lane l holds, of each 8x8
// matrix of halfwords, row l / 4, columns 2 (l % 4) and one more.
namespace {

constexpr int kRows = 64;  // of 16 bytes; matrices take theirs from any

template <int kNumber, bool kTrans, bool kGeneric>
__device__ void load(uint32_t (&r)[4], const void* at, uint32_t address) {
#define LOAD(space, number, trans, registers, constraint, value, ...)                                     \
  asm volatile("ldmatrix.sync.aligned.m8n8." number trans space ".b16 " registers ", [%" #constraint "];" \
               : __VA_ARGS__                                                                              \
               : value                                                                                    \
               : "memory")
#define LOADS(trans)                                                                                                \
  if constexpr (kNumber == 1 && !kGeneric) LOAD(".shared", "x1", trans, "{%0}", 1, "r"(address), "=r"(r[0]));       \
  if constexpr (kNumber == 1 && kGeneric) LOAD("", "x1", trans, "{%0}", 1, "l"(at), "=r"(r[0]));                    \
  if constexpr (kNumber == 2 && !kGeneric)                                                                          \
    LOAD(".shared::cta", "x2", trans, "{%0,%1}", 2, "r"(address), "=r"(r[0]), "=r"(r[1]));                          \
  if constexpr (kNumber == 2 && kGeneric) LOAD("", "x2", trans, "{%0,%1}", 2, "l"(at), "=r"(r[0]), "=r"(r[1]));     \
  if constexpr (kNumber == 4 && !kGeneric)                                                                          \
    LOAD(".shared", "x4", trans, "{%0,%1,%2,%3}", 4, "r"(address), "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])); \
  if constexpr (kNumber == 4 && kGeneric)                                                                           \
  LOAD("", "x4", trans, "{%0,%1,%2,%3}", 4, "l"(at), "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]))
  if constexpr (kTrans) {
    LOADS(".trans");
  } else {
    LOADS("");
  }
}
template <int kNumber, bool kTrans, bool kGeneric>
__device__ void store(const uint32_t (&r)[4], void* at, uint32_t address) {
#define STORE(space, number, trans, registers, value, ...)                                                       \
  asm volatile("stmatrix.sync.aligned.m8n8." number trans space ".b16 [%0], " registers ";" ::value, __VA_ARGS__ \
               : "memory")
#define STORES(trans)                                                                                         \
  if constexpr (kNumber == 1 && !kGeneric) STORE(".shared", "x1", trans, "{%1}", "r"(address), "r"(r[0]));    \
  if constexpr (kNumber == 1 && kGeneric) STORE("", "x1", trans, "{%1}", "l"(at), "r"(r[0]));                 \
  if constexpr (kNumber == 2 && !kGeneric)                                                                    \
    STORE(".shared", "x2", trans, "{%1,%2}", "r"(address), "r"(r[0]), "r"(r[1]));                             \
  if constexpr (kNumber == 2 && kGeneric) STORE("", "x2", trans, "{%1,%2}", "l"(at), "r"(r[0]), "r"(r[1]));   \
  if constexpr (kNumber == 4 && !kGeneric)                                                                    \
    STORE(".shared", "x4", trans, "{%1,%2,%3,%4}", "r"(address), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])); \
  if constexpr (kNumber == 4 && kGeneric)                                                                     \
  STORE("", "x4", trans, "{%1,%2,%3,%4}", "l"(at), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]))
  if constexpr (kTrans) {
    STORES(".trans");
  } else {
    STORES("");
  }
}

// Lanes that give no row have an address that must not be used.
__device__ uint32_t row_address(const uint4* rows, const int* row_of, int number) {
  const uint32_t base = static_cast<uint32_t>(__cvta_generic_to_shared(rows));
  return threadIdx.x < 8 * number ? base + 16 * row_of[threadIdx.x] : 0xdeadbee7;
}

template <int kNumber, bool kTrans, bool kGeneric>
__global__ void loads(const uint4* in, const int* row_of, uint32_t* out) {
  __shared__ uint4 rows[kRows];
  const int lane = threadIdx.x;
  for (int i = lane; i < kRows; i += 32) rows[i] = in[i];
  __syncthreads();
  uint32_t r[4] = {};
  const bool gives = lane < 8 * kNumber;
  load<kNumber, kTrans, kGeneric>(r, gives ? rows + row_of[lane] : nullptr, row_address(rows, row_of, kNumber));
  for (int i = 0; i < 4; ++i) out[i * 32 + lane] = r[i];
}
template <int kNumber, bool kTrans, bool kGeneric>
__global__ void stores(uint4* out, const int* row_of, const uint32_t* in) {
  __shared__ uint4 rows[kRows];
  const int lane = threadIdx.x;
  for (int i = lane; i < kRows; i += 32) rows[i] = make_uint4(0, 0, 0, 0);
  __syncthreads();
  const uint32_t r[4] = {in[lane], in[32 + lane], in[64 + lane], in[96 + lane]};
  const bool gives = lane < 8 * kNumber;
  store<kNumber, kTrans, kGeneric>(r, gives ? rows + row_of[lane] : nullptr, row_address(rows, row_of, kNumber));
  __syncthreads();
  for (int i = lane; i < kRows; i += 32) out[i] = rows[i];
}

std::vector<int> permutation(std::mt19937& rng) {
  std::vector<int> rows(kRows);
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), rng);
  return rows;
}
uint16_t half_of(const uint4& row, int column) {
  uint16_t halves[8];
  std::memcpy(halves, &row, sizeof row);
  return halves[column];
}

template <int kNumber, bool kTrans, bool kGeneric>
void check() {
  std::mt19937 rng(kNumber);
  std::vector<uint4> content(kRows);
  for (auto& row : content) row = make_uint4(rng(), rng(), rng(), rng());
  const auto rows = permutation(rng);
  const test::Buffer<uint4> memory(content);
  const test::Buffer<int> row_of(rows);
  test::Buffer<uint32_t> registers(128);
  loads<kNumber, kTrans, kGeneric><<<1, 32>>>(memory, row_of, registers);
  ASSERT_TRUE(test::ok());
  const auto got = registers.read();
  // Element (row, column) of matrix i is in memory at row rows[8 i + row].
  for (int i = 0; i < 4; ++i) {
    for (int l = 0; l < 32; ++l) {
      uint32_t want = 0;
      for (int e = 0; e < 2 && i < kNumber; ++e) {
        const int row = l / 4, column = 2 * (l % 4) + e;
        const uint32_t half =
            kTrans ? half_of(content[rows[8 * i + column]], row) : half_of(content[rows[8 * i + row]], column);
        want |= half << 16 * e;
      }
      ASSERT_EQ(got[i * 32 + l], want) << "register " << i << ", lane " << l;
    }
  }

  std::vector<uint32_t> values(128);
  for (auto& v : values) v = rng();
  registers.write(values);
  stores<kNumber, kTrans, kGeneric><<<1, 32>>>(memory, row_of, registers);
  ASSERT_TRUE(test::ok());
  const auto stored = memory.read();
  std::vector<uint4> want(kRows, make_uint4(0, 0, 0, 0));
  for (int i = 0; i < kNumber; ++i) {
    for (int l = 0; l < 32; ++l) {
      for (int e = 0; e < 2; ++e) {
        const int row = l / 4, column = 2 * (l % 4) + e;
        const auto half = static_cast<uint16_t>(values[i * 32 + l] >> 16 * e);
        std::memcpy(reinterpret_cast<char*>(&want[rows[8 * i + (kTrans ? column : row)]]) + 2 * (kTrans ? row : column),
                    &half, 2);
      }
    }
  }
  for (int row = 0; row < kRows; ++row) ASSERT_EQ(std::memcmp(&stored[row], &want[row], 16), 0) << "row " << row;
}
TEST(Matrix, LoadsAndStoresAsTheIsaLaysOut) {
  check<1, false, false>(), check<2, false, false>(), check<4, false, false>();
  check<1, false, true>(), check<2, false, true>(), check<4, false, true>();
}
TEST(Matrix, LoadsAndStoresTransposed) {
  check<1, true, false>(), check<2, true, false>(), check<4, true, false>();
  check<1, true, true>(), check<2, true, true>(), check<4, true, true>();
}

__global__ void offsets(uint32_t* out) {
  __shared__ uint4 rows[32];
  const uint32_t lane = threadIdx.x;
  rows[lane] = make_uint4(lane * 4, lane * 4 + 1, lane * 4 + 2, lane * 4 + 3);
  __syncthreads();
  uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(rows)) + 16 * (lane % 8), r, s;
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%0+256];" : "+r"(at), "=r"(r)::"memory");
  const void* generic = rows + 16 + lane % 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.b16 {%0}, [%1+-128];" : "=r"(s) : "l"(generic) : "memory");
  out[lane] = at + 1000 * r + 1000000 * s;
}
TEST(Matrix, OffsetsAndTheAddressItselfAsDestination) {
  const auto got =
      test::warp<uint32_t>(offsets);  // word l of the 32 from row 16, the same (8 lanes, twice), from row 8
  for (uint32_t l = 0; l < 32; ++l) ASSERT_EQ(got[l], (64 + l) + 1000 * (64 + l) + 1000000 * (32 + l)) << l;
}

__global__ void transposed(uint32_t* out, const uint32_t* in) {
  uint32_t v = in[threadIdx.x];
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(v));
  out[threadIdx.x] = v;
}
TEST(Matrix, MovmatrixTransposes) {
  std::mt19937 rng(9);
  std::vector<uint32_t> values(32);
  for (auto& v : values) v = rng();
  const test::Buffer<uint32_t> in(values);
  const auto got = test::warp<uint32_t>(transposed, static_cast<const uint32_t*>(in.data()));
  const auto element = [](const std::vector<uint32_t>& of, int row, int column) {
    return of[row * 4 + column / 2] >> 16 * (column % 2) & 0xffff;
  };
  for (int row = 0; row < 8; ++row) {
    for (int column = 0; column < 8; ++column) ASSERT_EQ(element(got, row, column), element(values, column, row));
  }
}

#if SACCADE_EMULATED
// Rows 16 bytes apart are one wavefront a matrix; rows 128 bytes apart, all at the same banks, are 8.
__global__ void strided(uint32_t* out, int stride, int bad_lane, int shift, int initialised) {
  __shared__ uint4 rows[288];
  const int lane = threadIdx.x;
  for (int i = lane; i < initialised; i += 32) rows[i] = make_uint4(i, i, i, i);
  __syncthreads();
  uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(rows)) + stride * lane, r[4];
  if (lane == bad_lane) at += shift;
  load<4, false, false>(r, nullptr, at);
  out[lane] = r[0] + r[1] + r[2] + r[3];
}
TEST(Matrix, CountsBankConflicts) {
  const test::Buffer<uint32_t> out(32);
  const auto conflicts = [&](int stride) {
    strided<<<1, 32>>>(out, stride, -1, 0, 288);
    EXPECT_TRUE(test::ok());
    const emu::Counts& c = emu::last_counts();
    EXPECT_EQ(c.warp_instructions[static_cast<int>(emu::Class::ldmatrix)], 1u);
    return c.shared_wavefronts - c.shared_ideal;
  };
  ASSERT_EQ(conflicts(16), 0u);
  ASSERT_EQ(conflicts(144), 0u);
  ASSERT_EQ(conflicts(32), 4u * 1);
  ASSERT_EQ(conflicts(128), 4u * 7);
}
TEST(Matrix, ChecksEveryRow) {
  const test::Buffer<uint32_t> out(32);
  strided<<<1, 32>>>(out, 16, 13, 8, 288);
  ASSERT_TRUE(test::found({"misaligned", "lane 13", "ldmatrix"}));
  strided<<<1, 32>>>(out, 16, 31, 8192, 288);
  ASSERT_TRUE(test::found({"out of bounds", "lane 31", "ldmatrix"}));
  strided<<<1, 32>>>(out, 16, 20, 1024, 64);
  ASSERT_TRUE(test::found({"uninitialised", "ldmatrix"}));
  strided<<<1, 32>>>(out, 16, 20, 1024, 288);
  ASSERT_TRUE(test::ok());
}
__global__ void of_global(const uint32_t* in, uint32_t* out) {
  uint32_t r;
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.b16 {%0}, [%1];" : "=r"(r) : "l"(in + 4 * (threadIdx.x % 8)) : "memory");
  out[threadIdx.x] = r;
}
TEST(Matrix, OnlyOfSharedMemory) {
  const test::Buffer<uint32_t> in(std::vector<uint32_t>(32)), out(32);
  of_global<<<1, 32>>>(in, out);
  ASSERT_TRUE(test::found("not of shared memory"));
}
#endif

}  // namespace
