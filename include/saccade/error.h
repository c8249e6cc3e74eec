#pragma once
#include <stdexcept>
#include <string>

#include "saccade/export.h"

namespace saccade {

/// The one exception of the library. `what()` reads "op: argument: got …, wanted …; what to do".
class SACCADE_API Error : public std::runtime_error {
 public:
  explicit Error(const std::string& text) : std::runtime_error(text) {}
};

}  // namespace saccade
