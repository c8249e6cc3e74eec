#pragma once
#include <algorithm>
#include <memory>
#include <span>
#include <string_view>

#include "async.h"

// What wgmma.cpp (instructions and their queue) and wgmma_multiply.cpp (their arithmetic) share.
namespace emu::wgmma {

constexpr int kWords = 8, kRows = 16, kMaxColumns = 256;  // every K is 32 bytes: 8 words
constexpr uint32_t kInFlight = 0xFFFF'FFFF;

constexpr int kWarps = 4;
constexpr unsigned kEveryWarp = 15;

/// A matrix in shared memory, as a descriptor has it: 16-byte chunks in one of the ISA's canonical layouts.
struct Matrix {
  uint32_t start, lead, stride, base, bits, span;  // span: chunks of a swizzled row

  explicit Matrix(uint64_t d)
      : start(static_cast<uint32_t>(d & 0x3FFF) << 4),
        lead(static_cast<uint32_t>(d >> 16 & 0x3FFF) << 4),
        stride(static_cast<uint32_t>(d >> 32 & 0x3FFF) << 4),
        base(static_cast<uint32_t>(d >> 49 & 7)) {
    constexpr uint32_t spans[] = {1, 8, 4, 2};
    span = spans[d >> 62];
    bits = span - 1;
  }
  /// Chunk c of 2 of a row, K-major.
  uint32_t along_k(uint32_t row, uint32_t c) const {
    return place(start + (row & 7) * 16 * span + (row >> 3) * stride + c * (span == 1 ? lead : 16));
  }
  /// Chunk m (8 rows of 16 bits) at k, MN-major.
  uint32_t along_mn(uint32_t m, uint32_t k) const {
    if (span == 1) return start + m * stride + (k & 7) * 16 + (k >> 3) * lead;
    return place(start + (m & bits) * 16 + m / span * lead + (k & 7) * 16 * span + (k >> 3) * stride);
  }

 private:
  // rows of the pattern are 128 bytes; `base` is the one that a pattern off its natural alignment starts at
  uint32_t place(uint32_t a) const { return a ^ ((((a >> 7) - base) & bits) << 4); }
};

struct Plan;

/// The accumulators of one register list while instructions on it are under way: values[column][row].
struct Accumulators {
  const Plan* plan = nullptr;
  int under_way = 0;
  union {
    alignas(64) float real[kMaxColumns][kRows];
    int32_t whole[kMaxColumns][kRows];
  };
};

/// One wgmma.mma_async of a warpgroup.
struct Multiply {
  struct Part {                          // a warp's
    std::shared_ptr<Transfer> transfer;  // shared by neighbours that were issued alike
    Accumulators* to = nullptr;
    uint32_t group = 0;
    uint32_t fragment[4][kLanes];  // A in registers, as it was at issue
  };
  Part part[kWarps];
  const Plan* plan = nullptr;
  const Inst* inst = nullptr;
  uint64_t a = 0, b = 0;
  bool add = true;  // scale-d
  bool done = false;
  uint64_t number = 0;                 // in the warpgroup's order
  unsigned issued = 0, collected = 0;  // by which warps
};

using MultiplyFunction = void (*)(Multiply&);

struct Plan {
  Place a[4], b, add;
  bool add_negated = false, from_registers = false, a_by_m = false, b_by_n = false, negative = false, f16_sums = false;
  int columns = 0, count = 0;  // of D; registers of D
  uint64_t flops = 0;
  const Place* d = nullptr;
  MultiplyFunction multiply = nullptr;
};

struct Form {
  std::string_view a, b, d;
  int k;
  MultiplyFunction multiply, saturated = nullptr;
};
std::span<const Form> forms();  // every pair of types

}  // namespace emu::wgmma
