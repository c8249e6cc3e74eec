#pragma once
#include <cstddef>
#include <cstdint>

// What the emulated cuTensorMapEncodeTiled writes into the 128 opaque bytes of a CUtensorMap and the tensor
// instructions read.
namespace emu {

struct TensorMap {
  static constexpr uint32_t kMagic = 0x5AC7AD5Eu;  // a map that nobody encoded is an error, not an access somewhere

  enum class Type : uint8_t {  // numbered as CUtensorMapDataType; packed 4- and 6-bit types are refused
    u8,
    u16,
    u32,
    s32,
    u64,
    s64,
    f16,
    f32,
    f64,
    bf16,
    f32_ftz,
    tf32,
    tf32_ftz,
  };
  enum class Interleave : uint8_t { none, b16, b32 };
  enum class Swizzle : uint8_t { none, b32, b64, b128 };  // 16-byte chunks within a span of that many bytes

  uint32_t magic;
  Type type;
  uint8_t rank;  // 1–5; dimension 0 is the innermost
  Interleave interleave;
  Swizzle swizzle;
  uint64_t base;
  uint32_t size[5];  // elements − 1: a size may be 2^32; unused dimensions 0
  uint8_t box[5];    // elements − 1, up to 255
  uint8_t step[5];   // traversal stride, 1–8: ceil(box / step) elements are copied
  uint8_t nan_fill;  // out of bounds reads as NaN instead of zero
  uint8_t l2_promotion;
  uint64_t stride[4];  // bytes, of dimensions 1–4; a multiple of 16
  uint64_t reserved[6];

  uint64_t extent(int d) const { return uint64_t{size[d]} + 1; }
  uint32_t box_extent(int d) const { return uint32_t{box[d]} + 1; }
  int element_bytes() const {
    constexpr uint8_t bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
    return bytes[static_cast<int>(type)];
  }
  bool floating() const { return type >= Type::f16; }
};
static_assert(sizeof(TensorMap) == 128);

}  // namespace emu
