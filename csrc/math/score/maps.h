#pragma once
#include "math/score/identity.h"
#include "math/score/relu.h"
#include "math/score/relu2.h"
#include "math/score/sigmoid.h"
#include "math/score/softmax.h"

namespace saccade::math {

/// f(map) with the type that `name` (saccade::ScoreMap, which this folder does not know) stands for.
template <class Name, class F>
inline auto with_score(Name name, const F& f) {
  switch (name) {
    case Name::sigmoid:
      return f(Sigmoid{});
    case Name::relu:
      return f(Relu{});
    case Name::relu2:
      return f(Relu2{});
    case Name::identity:
      return f(Identity{});
    default:
      return f(Softmax{});
  }
}

}  // namespace saccade::math
