#pragma once
#include "cuda/attention/repack.h"
#include "saccade/linear.h"

// One scan of every head,  S_t = decay_t ∘ S_{t−1} + k_tᵀ v_t,  out_t = q_t S_t, of which the forward is one and the
// backward three (backward.cpp). Decay is per token, or per channel of the key (rows of S) or of the value (columns).
//
// Tokens are cut into segments of kSegment. A segment's own state P starts from zero and the state before it, S, is
// folded in at its end: S ← λ ∘ S + P with λ the segment's decay. That makes no difference to the results between
//   one launch: a block of a head's slice walks all segments, S and P in registers, and
//   three: `scan` leaves every segment's P and λ, `link` turns them into the states before each, `scan` has the
//   outputs;
// so the choice may depend on the batch, and a sequence's bits do not.
namespace saccade::cuda {

constexpr int kSegment = 256, kSlice = 64;  // tokens; columns of the state that a block holds

/// Rows of an operand; head h reads head h / group.
struct Operand {
  View rows;
  int32_t group;
};

/// States of (batch, head, row, column), or of the places of segments; a null one is zero.
struct States {
  View at;
  int64_t place;

  SACCADE_FN int64_t offset(int32_t b, int64_t p, int32_t h) const { return b * at.batch + p * place + h * at.head; }
};

enum class DecayOf : int32_t { token, key, value };

/// Which computed operands of 16-bit products are sums of several numbers, so that only fp32 sums round: none; those of
/// the state, when it is a result; all, when differences of results are wanted. Not with decay per channel.
enum class Rounding : int32_t { operands, not_state, none };

struct ScanParams {
  // Without a value every token's is (1, 0 …). Queries and keys may have one more channel, `extra`: numbers of the
  // tokens, 1 where they are null.
  Operand query, key, value;
  View decay;
  const float *query_factor, *key_factor, *query_extra, *key_extra;  // [H][rows]; null: 1
  const float* denominator;                                          // [H][rows]: what, plus epsilon, divides out
  float query_scale, key_scale, epsilon;
  View out;
  States initial, final;  // of what a block walks
  float* lambda;          // [place][H][lambdas]: decay of each segment; null: not wanted

  const int32_t* cu_seqlens;
  int64_t cu_stride, batch, tokens, rows;  // tokens of a sequence, packed: of all; rows: of a head
  int32_t heads, dim, columns;             // channels of the key, of the value
  int32_t limit;                           // tokens handled at once
  bool packed, flip;                       // flip: the last token is the first step
  DecayOf decay_of;
  bool extra, shifted;               // shifted: a step decays by the entry of the one before, the first not at all
  bool global;                       // every query sees the final state
  bool outputs, segments, wide_out;  // segments: a block walks one, else all
  DType out_type;
  Rounding rounding;

  SACCADE_FN int32_t state_rows() const { return dim + extra; }
  SACCADE_FN int32_t lambdas() const {
    return decay_of == DecayOf::token ? 1 : decay_of == DecayOf::key ? dim : columns;
  }
};

/// Segments' own states become the states before them; also the final one, if wanted. `scan.initial`, `scan.final` are
/// the problem's, `states` the segments'.
struct LinkParams {
  ScanParams scan;
  States states;
};

/// Kernels of one operand type, in one translation unit each (linear_bf16.cu, …).
template <class T>
struct Scan {
  static int shared_bytes(int dim, bool channels);
  static void launch(Queue&, const ScanParams&);
};
void launch_link(Queue&, const LinkParams&);

/// Runs a scan in the form that fills the device, over memory of the arena that is free again afterwards. Without a
/// queue only the workspace is measured.
class Scans {
 public:
  Scans(const Device& device, Arena& arena, DType type, Queue* queue);
  void run(ScanParams scan);
  int64_t bytes() const { return most_; }  // of the arena, at most

 private:
  const Device& device_;
  Arena& arena_;
  DType type_;
  Queue* queue_;
  int64_t most_;
};

}  // namespace saccade::cuda
