#pragma once
#include "cuda/launch.h"
#include "cuda/sm80/attention/decode.h"

namespace saccade::cuda {

/// The forward's kernels of one operand type (math::Bf16, …) and score map (math::Softmax, …), each in its own
/// translation unit (forward_softmax_bf16.cu, …).
template <class T, class Score>
struct Forward {
  /// Of the largest block that the problem's head dims take.
  static int shared_bytes(const Params&);
  /// `tiled`: some sequence may have more than kDecodeRows queries; `split`: some may have at most that many.
  static void launch(Queue&, const DecodeParams&, bool tiled, bool split);
};

}  // namespace saccade::cuda
