#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bindings/dlpack/capsule.h"
#include "bindings/problem.h"

// What every call on arrays brings along.
namespace saccade::bindings {

inline Context named_context(const std::string& kernel) {
  Context context = pool_context();
  context.kernel = kernel;
  return context;
}

class Workspace {
 public:
  explicit Workspace(int64_t bytes) : memory_(new char[bytes + kWorkspaceAlignment]) {}
  void* data() const { return align(memory_.get()); }

 private:
  std::unique_ptr<char[]> memory_;  // new char[]: left unwritten
};

inline py::list rows(const std::vector<Candidate>& candidates) {
  py::list rows;
  for (const Candidate& c : candidates) rows.append(py::make_tuple(c.name, c.reason, c.chosen));
  return rows;
}

}  // namespace saccade::bindings
