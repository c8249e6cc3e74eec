#pragma once
#include <pybind11/pybind11.h>

namespace saccade::bindings {

void define_linear(pybind11::module_& m);

}  // namespace saccade::bindings
