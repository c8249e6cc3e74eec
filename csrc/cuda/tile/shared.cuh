#pragma once
#include "cuda/ptx/memory.cuh"
#include "math/operand/float.h"

// Operand tiles in shared memory.
namespace saccade::cuda {

constexpr int kUnit = 16;  // bytes of a cp.async, of a row of an ldmatrix matrix

template <class T>
constexpr uint32_t kExponent = 0x7F800000;
template <>
constexpr uint32_t kExponent<math::Bf16> = 0x7F80;
template <>
constexpr uint32_t kExponent<math::F16> = 0x7C00;

/// Rows of kColumns elements of T. The 16-byte unit u of row r stands at place u ^ (r % 8), so that the eight lanes of
/// a store and the eight rows of a matrix lie in different banks.
///
/// ldmatrix.x4 reads 16 rows × 2 units (or 2×8 rows) from a corner; as rows are a power of two and 16 rows keep r % 8,
/// the block 16·i rows down and p pairs of units to the right is at (corner + i·16·kRowBytes) ^ (p·32).
template <class T, int kRows, int kColumns>
struct SharedTile {
  static constexpr int kElement = sizeof(typename T::Storage);
  static constexpr int kRowBytes = kColumns * kElement;
  static constexpr int kUnits = kRowBytes / kUnit;
  static constexpr int kUnitElements = kUnit / kElement;
  static constexpr int kBytes = kRows * kRowBytes;
  static_assert((kRowBytes & (kRowBytes - 1)) == 0 && kUnits >= 8);

  uint32_t base;  // a multiple of kRowBytes

  __device__ __forceinline__ uint32_t unit(int row, int u) const {
    return base + row * kRowBytes + ((u ^ (row & 7)) << 4);
  }
  /// Matrices: rows 0–7 and 8–15 of the left unit, then of the right one: an A operand, or B from [k][n] transposed.
  __device__ __forceinline__ uint32_t corner_down(int lane) const { return unit(lane & 15, lane >> 4); }
  /// Left and right unit of rows 0–7, then of rows 8–15: two B operands from [n][k], or A from [k][m] transposed.
  __device__ __forceinline__ uint32_t corner_across(int lane) const {
    return unit((lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
  }

  /// Starts copying rows 0 … kRows−1 of `from` (16-byte aligned rows, `stride` elements apart); rows past `rows` and
  /// columns past `columns` become zero and are not read. Every one of kThreads threads calls it.
  template <int kThreads>
  __device__ __forceinline__ void load(const char* from, int64_t stride, int rows, int columns, int thread) const {
    constexpr int kAcross = kUnits < kThreads ? kUnits : kThreads, kStep = kThreads / kAcross;
    static_assert(kThreads % kAcross == 0 && kUnits % kAcross == 0 && kRows % kStep == 0);
    const int row = thread / kAcross;
#pragma unroll
    for (int part = 0; part < kUnits; part += kAcross) {
      const int u = thread % kAcross + part, left = columns * kElement - u * kUnit;
      const int bytes = left < 0 ? 0 : left > kUnit ? kUnit : left;
      const char* source = from + (row * stride) * kElement + (bytes ? u * kUnit : 0);
#pragma unroll 4  // more would hold addresses in registers that accumulators need
      for (int r = 0; r < kRows; r += kStep) {
        const bool inside = row + r < rows;
        ptx::cp_async_16(unit(row + r, u), inside ? source : from, inside ? bytes : 0);
        source += kStep * stride * kElement;
      }
    }
  }

  /// Is row r (all of it) finite? One warp asks together.
  __device__ __forceinline__ bool finite_row(int r, int lane) const {
    bool bad = false;
    for (int u = lane; u < kUnits; u += 32) bad |= !finite(ptx::load_shared_128(unit(r, u)));
    return !__any_sync(0xFFFFFFFF, bad);
  }
  /// Does this thread's share of the tile hold Inf or NaN?
  template <int kThreads>
  __device__ __forceinline__ bool share_finite(int thread) const {
    bool ok = true;
#pragma unroll 4
    for (int i = thread; i < kRows * kUnits; i += kThreads) ok &= finite(ptx::load_shared_128(base + i * kUnit));
    return ok;
  }
  /// Inf and NaN of row r become zero.
  __device__ __forceinline__ void clear_nonfinite(int r, int lane) const {
    for (int u = lane; u < kUnits; u += 32) {
      const uint4 x = ptx::load_shared_128(unit(r, u));
      if (!finite(x))
        ptx::store_shared_128(unit(r, u), make_uint4(cleared(x.x), cleared(x.y), cleared(x.z), cleared(x.w)));
    }
  }
  /// Elements (row, column) and, where they are 16 bits wide, (row, column + 1); `column` is even there.
  __device__ __forceinline__ uint32_t word(int row, int column) const {
    return ptx::load_shared_32(unit(row, column / kUnitElements) + column % kUnitElements * kElement);
  }

  /// Exponents of all ones are Inf or NaN.
  static __device__ __forceinline__ bool finite(uint4 x) {
    return finite(x.x) & finite(x.y) & finite(x.z) & finite(x.w);
  }
  static __device__ __forceinline__ bool finite(uint32_t x) { return x == cleared(x); }
  static __device__ __forceinline__ uint32_t cleared(uint32_t x) {
    constexpr uint32_t kMask = kExponent<T>;
    if constexpr (kElement == 4) return (x & kMask) == kMask ? 0 : x;
    return ((x & kMask) == kMask ? 0 : x & 0xFFFF) | ((x >> 16 & kMask) == kMask ? 0 : x & 0xFFFF0000);
  }
};

}  // namespace saccade::cuda
