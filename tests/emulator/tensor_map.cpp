#include "tensor_map.h"

#include <cuda.h>

#include <cstring>

#include "runtime.h"

namespace emu {
namespace {

/// What the driver's documentation demands; empty if it would accept.
const char* refusal(CUtensorMapDataType type, uint32_t rank, const void* base, const cuuint64_t* size,
                    const cuuint64_t* stride, const cuuint32_t* box, const cuuint32_t* step,
                    CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                    CUtensorMapFloatOOBfill fill) {
  if (type < CU_TENSOR_MAP_DATA_TYPE_UINT8 || type > CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ) {
    return "data type (packed 4- and 6-bit types need sm_100)";
  }
  TensorMap map{.type = static_cast<TensorMap::Type>(type)};
  const uint64_t bytes = map.element_bytes();
  if (rank < 1 || rank > 5) return "rank: wanted 1 to 5";
  if (!size || !box || !step || (rank > 1 && !stride)) return "a null array";
  if (interleave < CU_TENSOR_MAP_INTERLEAVE_NONE || interleave > CU_TENSOR_MAP_INTERLEAVE_32B) return "interleave";
  if (interleave != CU_TENSOR_MAP_INTERLEAVE_NONE && rank < 3) return "rank: interleaved layouts want 3 or more";
  const uint64_t align = interleave == CU_TENSOR_MAP_INTERLEAVE_32B ? 32 : 16;
  if (reinterpret_cast<uintptr_t>(base) % align || !base) return "address: wanted 16-byte alignment (32 interleaved)";
  for (uint32_t d = 0; d < rank; ++d) {
    if (size[d] == 0 || size[d] > uint64_t{1} << 32) return "size of a dimension: wanted 1 to 2^32";
    if (box[d] == 0 || box[d] > 256) return "box: wanted 1 to 256 elements a dimension";
    if (step[d] == 0 || step[d] > 8) return "element stride: wanted 1 to 8";
    if (d + 1 < rank && (stride[d] % align || stride[d] >= uint64_t{1} << 40)) {
      return "stride: wanted a multiple of 16 bytes (32 interleaved), under 2^40";
    }
  }
  const uint64_t inner = box[0] * bytes;
  if (interleave == CU_TENSOR_MAP_INTERLEAVE_NONE) {
    if (inner % 16) return "box: the inner dimension is no multiple of 16 bytes";
    const uint64_t span = swizzle == CU_TENSOR_MAP_SWIZZLE_32B    ? 32
                          : swizzle == CU_TENSOR_MAP_SWIZZLE_64B  ? 64
                          : swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 128
                                                                  : inner;
    if (inner > span) return "box: the inner dimension is wider than the swizzle's span";
  } else if (interleave == CU_TENSOR_MAP_INTERLEAVE_32B && swizzle != CU_TENSOR_MAP_SWIZZLE_32B) {
    return "swizzle: 32-byte interleave wants the 32-byte swizzle";
  }
  if (swizzle < CU_TENSOR_MAP_SWIZZLE_NONE || swizzle > CU_TENSOR_MAP_SWIZZLE_128B) {
    return "swizzle (atoms wider than 16 bytes need sm_100)";
  }
  if (promotion < CU_TENSOR_MAP_L2_PROMOTION_NONE || promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B)
    return "L2 promotion";
  if (fill < CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || fill > CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA)
    return "fill";
  if (fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA && !map.floating())
    return "fill: NaN wants a float type";
  return nullptr;
}

CUresult encode_tiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* base, const cuuint64_t* size,
                      const cuuint64_t* stride, const cuuint32_t* box, const cuuint32_t* step,
                      CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                      CUtensorMapFloatOOBfill fill) {
  if (!out || reinterpret_cast<uintptr_t>(out) % 64) {
    note("cuTensorMapEncodeTiled: the map is not aligned to 64 bytes");
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (const char* why = refusal(type, rank, base, size, stride, box, step, interleave, swizzle, promotion, fill)) {
    note(std::string("cuTensorMapEncodeTiled: ") + why);
    return CUDA_ERROR_INVALID_VALUE;
  }
  TensorMap map{};
  map.magic = TensorMap::kMagic;
  map.type = static_cast<TensorMap::Type>(type);
  map.rank = static_cast<uint8_t>(rank);
  map.interleave = static_cast<TensorMap::Interleave>(interleave);
  map.swizzle = static_cast<TensorMap::Swizzle>(swizzle);
  map.base = reinterpret_cast<uint64_t>(base);
  map.nan_fill = fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA;
  map.l2_promotion = static_cast<uint8_t>(promotion);
  for (uint32_t d = 0; d < 5; ++d) {
    map.size[d] = d < rank ? static_cast<uint32_t>(size[d] - 1) : 0;
    map.box[d] = d < rank ? static_cast<uint8_t>(box[d] - 1) : 0;
    map.step[d] = d < rank ? static_cast<uint8_t>(step[d]) : 1;
    if (d + 1 < rank) map.stride[d] = stride[d];
  }
  if (interleave == CU_TENSOR_MAP_INTERLEAVE_NONE) map.step[0] = 1;  // ignored there
  std::memcpy(out, &map, sizeof map);
  return CUDA_SUCCESS;
}

CUresult replace_address(CUtensorMap* out, void* base) {
  TensorMap map;
  std::memcpy(&map, out, sizeof map);
  const uint64_t align = map.interleave == TensorMap::Interleave::b32 ? 32 : 16;
  if (map.magic != TensorMap::kMagic || !base || reinterpret_cast<uintptr_t>(base) % align)
    return CUDA_ERROR_INVALID_VALUE;
  map.base = reinterpret_cast<uint64_t>(base);
  std::memcpy(out, &map, sizeof map);
  return CUDA_SUCCESS;
}

}  // namespace

void* driver_entry(const std::string& symbol) {
  if (device().major < 9) return nullptr;  // as a driver would have them, but no kernel could use one
  if (symbol == "cuTensorMapEncodeTiled") return reinterpret_cast<void*>(&encode_tiled);
  if (symbol == "cuTensorMapReplaceAddress") return reinterpret_cast<void*>(&replace_address);
  return nullptr;
}

}  // namespace emu
