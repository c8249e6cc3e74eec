#pragma once
#include <stdexcept>
#include <string>

namespace saccade {

/// The one exception of the library. `what()` reads "op: argument: got …, wanted …; what to do".
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& text) : std::runtime_error(text) {}
};

}  // namespace saccade
