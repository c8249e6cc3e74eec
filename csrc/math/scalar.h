#pragma once
#include <math.h>

#include "math/fn.h"

// The scalar value types' share of the operations that a V offers.
namespace saccade::math {

SACCADE_FN double exp2(double x) { return ::exp2(x); }
SACCADE_FN double exp2_bounded(double x) { return ::exp2(x); }
SACCADE_FN double tanh(double x) { return ::tanh(x); }
SACCADE_FN double abs(double x) { return ::fabs(x); }
SACCADE_FN double max(double a, double b) { return a > b ? a : b; }
SACCADE_FN double fma(double a, double b, double c) { return a * b + c; }
SACCADE_FN float exp2(float x) { return ::exp2f(x); }
SACCADE_FN float exp2_bounded(float x) { return ::exp2f(x); }
SACCADE_FN float tanh(float x) { return ::tanhf(x); }
SACCADE_FN float abs(float x) { return ::fabsf(x); }
SACCADE_FN float max(float a, float b) { return a > b ? a : b; }
SACCADE_FN float fma(float a, float b, float c) { return ::fmaf(a, b, c); }

}  // namespace saccade::math
