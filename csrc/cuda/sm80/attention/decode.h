#pragma once
#include "cuda/attention/params.h"

// What host and device agree on about the split-KV form.
namespace saccade::cuda {

/// Sequences of at most this many queries take the split-KV form: decided by each on its own, so that a sequence's
/// result does not depend on the rest of the batch.
constexpr int64_t kDecodeRows = 16;
constexpr int64_t kMinChunk = 256;

/// Keys of one split. Growing with the queries, so that splits·queries ≤ keys/128 + queries: partial results are at
/// most 1/32 of a bf16 cache of as many heads.
SACCADE_FN int64_t decode_chunk(int64_t queries) { return 128 * queries < kMinChunk ? kMinChunk : 128 * queries; }

struct DecodeParams : Params {
  float* partial;       // [slot][Hq][columns], with weights against the split's maximum
  float2* state;        // [slot][Hq] maximum and sum; null without a row state
  int32_t columns;      // Dv up to a multiple of 4
  bool slots_by_query;  // packed: a sequence's slots are reserved by its queries, or kDecodeRows for each sequence

  int64_t slots() const {
    if (!packed) return batch * queries * ((keys + decode_chunk(queries) - 1) / decode_chunk(queries));
    return keys / 128 + batch + (slots_by_query ? queries : kDecodeRows * batch);
  }
};

}  // namespace saccade::cuda
