#pragma once
#include <cstdint>
#include <type_traits>

#include "saccade/context.h"

namespace saccade {

/// f(i) once for every i in [0, n), on the context's threads. `static`: the trampoline must not be a weak symbol, which
/// the linker would take from whichever instruction set's object comes first.
template <class F>
static void parallel_for(const Context& context, int64_t n, F&& f) {
  using Body = std::remove_reference_t<F>;
  if (!context.parallel_for || context.threads <= 1 || n <= 1) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
  context.parallel_for(
      context.parallel_self, n, [](void* body, int64_t i) { (*static_cast<Body*>(body))(i); },
      const_cast<std::remove_const_t<Body>*>(&f));
}

}  // namespace saccade
