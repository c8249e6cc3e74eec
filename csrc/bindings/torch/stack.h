#pragma once
#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#include "saccade/kernels.h"

namespace saccade::bindings {

using torch::stable::detail::from;
using torch::stable::detail::to;

/// Takes a boxed call's arguments off its stack in schema order. All are taken before any is looked at: each owns
/// memory.
class Stack {
 public:
  explicit Stack(StableIValue* next) : next_(next) {}
  template <class T>
  T take() {
    return to<T>(*next_++);
  }

 private:
  StableIValue* next_;
};

// torch 2.10 … 2.13: to<std::string> leaks the copy it makes on every call.
template <>
inline std::string Stack::take<std::string>() {
  const auto handle = to<StringHandle>(*next_++);
  const char* data;
  size_t length;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  std::string text(data, length);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  return text;
}

/// Candidates as Python reads them.
inline std::string lines(const std::vector<Candidate>& candidates) {
  std::string text;
  for (const Candidate& c : candidates) text += c.name + '\t' + c.reason + '\t' + (c.chosen ? "1" : "0") + '\n';
  return text;
}

}  // namespace saccade::bindings
