# How the emulator itself is compiled: its inner loops run over 32 lanes, so wide vectors are what makes it fast.
# -ffp-contract=off: a multiplication and an addition of PTX round twice.
set(emulator_flags -ffp-contract=off -fno-math-errno -fno-trapping-math)
if(CMAKE_BUILD_TYPE STREQUAL "Release" AND NOT SACCADE_SANITIZE)
  list(APPEND emulator_flags -O3)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT CMAKE_CROSSCOMPILING)
  include(CheckCXXSourceRuns)
  check_cxx_source_runs("int main() { return !(__builtin_cpu_supports(\"avx2\") && __builtin_cpu_supports(\"fma\") && __builtin_cpu_supports(\"bmi2\")); }" SACCADE_HOST_V3)
  if(SACCADE_HOST_V3)
    list(APPEND emulator_flags -march=x86-64-v3)
  endif()
endif()
