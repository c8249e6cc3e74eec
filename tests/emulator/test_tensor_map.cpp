#include <cuda.h>
#include <gtest/gtest.h>

#include <cstring>

#include "cudart.h"
#include "tensor_map.h"

// cuTensorMapEncodeTiled: what is written, and what the driver's documentation says is refused.
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

struct Arguments {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  uint32_t rank = 3;
  uint64_t base = 0x1000;
  cuuint64_t size[5] = {128, 77, 5, 1, 1}, stride[4] = {256, 256 * 77, 1 << 20, 1 << 20};
  cuuint32_t box[5] = {64, 32, 1, 1, 1}, step[5] = {1, 1, 2, 1, 1};
  CUtensorMapInterleave interleave = CU_TENSOR_MAP_INTERLEAVE_NONE;
  CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B;
  CUtensorMapL2promotion promotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
  CUtensorMapFloatOOBfill fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
  CUtensorMap map;

  CUresult encode() {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    EXPECT_EQ(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found),
              cudaSuccess);
    EXPECT_EQ(found, cudaDriverEntryPointSuccess);
    return reinterpret_cast<Encode>(entry)(&map, type, rank, reinterpret_cast<void*>(base), size, stride, box, step,
                                           interleave, swizzle, promotion, fill);
  }
};

TEST(TensorMap, Encodes) {
  Arguments a;
  ASSERT_EQ(a.encode(), CUDA_SUCCESS);
  emu::TensorMap m;
  std::memcpy(&m, &a.map, sizeof m);
  EXPECT_EQ(m.magic, emu::TensorMap::kMagic);
  EXPECT_EQ(m.type, emu::TensorMap::Type::bf16);
  EXPECT_EQ(m.element_bytes(), 2);
  EXPECT_EQ(m.rank, 3);
  EXPECT_EQ(m.base, 0x1000);
  EXPECT_EQ(m.extent(0), 128);
  EXPECT_EQ(m.extent(1), 77);
  EXPECT_EQ(m.extent(3), 1);
  EXPECT_EQ(m.stride[0], 256);
  EXPECT_EQ(m.stride[1], 256 * 77);
  EXPECT_EQ(m.box_extent(1), 32);
  EXPECT_EQ(m.step[2], 2);
  EXPECT_EQ(m.swizzle, emu::TensorMap::Swizzle::b128);
  EXPECT_FALSE(m.nan_fill);
}

TEST(TensorMap, AcceptsTheLimits) {
  Arguments a;
  a.size[0] = uint64_t{1} << 32;
  a.box[0] = 16;
  a.box[1] = 256;
  a.swizzle = CU_TENSOR_MAP_SWIZZLE_32B;
  a.step[1] = 8;
  a.stride[1] = (uint64_t{1} << 40) - 16;
  a.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA;
  EXPECT_EQ(a.encode(), CUDA_SUCCESS);
  emu::TensorMap m;
  std::memcpy(&m, &a.map, sizeof m);
  EXPECT_EQ(m.extent(0), uint64_t{1} << 32);
  EXPECT_EQ(m.box_extent(1), 256);
  EXPECT_TRUE(m.nan_fill);
}

TEST(TensorMap, Refuses) {
  const std::pair<const char*, void (*)(Arguments&)> wrong[] = {
      {"rank 0", [](Arguments& a) { a.rank = 0; }},
      {"rank 6", [](Arguments& a) { a.rank = 6; }},
      {"address", [](Arguments& a) { a.base += 8; }},
      {"null address", [](Arguments& a) { a.base = 0; }},
      {"size 0", [](Arguments& a) { a.size[1] = 0; }},
      {"size", [](Arguments& a) { a.size[1] = (uint64_t{1} << 32) + 1; }},
      {"stride", [](Arguments& a) { a.stride[0] = 264; }},
      {"large stride", [](Arguments& a) { a.stride[1] = uint64_t{1} << 40; }},
      {"box 0", [](Arguments& a) { a.box[2] = 0; }},
      {"box 257", [](Arguments& a) { a.box[1] = 257; }},
      {"inner box of 14 bytes", [](Arguments& a) { a.box[0] = 7; }},
      {"inner box wider than 128", [](Arguments& a) { a.box[0] = 72; }},
      {"inner box wider than 64", [](Arguments& a) { a.swizzle = CU_TENSOR_MAP_SWIZZLE_64B; }},
      {"step 0", [](Arguments& a) { a.step[1] = 0; }},
      {"step 9", [](Arguments& a) { a.step[1] = 9; }},
      {"NaN of integers",
       [](Arguments& a) {
         a.type = CU_TENSOR_MAP_DATA_TYPE_UINT16;
         a.fill = CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA;
       }},
      {"32-byte interleave without its swizzle", [](Arguments& a) { a.interleave = CU_TENSOR_MAP_INTERLEAVE_32B; }},
      {"interleaved matrix",
       [](Arguments& a) {
         a.rank = 2;
         a.interleave = CU_TENSOR_MAP_INTERLEAVE_16B;
       }},
      {"type", [](Arguments& a) { a.type = static_cast<CUtensorMapDataType>(13); }},
      {"swizzle of sm_100", [](Arguments& a) { a.swizzle = CU_TENSOR_MAP_SWIZZLE_128B_ATOM_32B; }},
  };
  emu::set_options("print=off");
  for (const auto& [name, change] : wrong) {
    Arguments a;
    change(a);
    EXPECT_EQ(a.encode(), CUDA_ERROR_INVALID_VALUE) << name;
  }
  emu::set_options("print=on");
}

TEST(TensorMap, OtherEntryPointsAreNotThere) {
  void* entry = &entry;
  cudaDriverEntryPointQueryResult found;
  emu::set_options("print=off");
  EXPECT_EQ(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeIm2col", &entry, 12000, cudaEnableDefault, &found),
            cudaSuccess);
  emu::set_options("print=on");
  EXPECT_EQ(found, cudaDriverEntryPointSymbolNotFound);
  EXPECT_EQ(entry, nullptr);
}

}  // namespace
