# The CPU loops are compiled once per instruction set, in a namespace named after it (-DSACCADE_ISA), from the same sources.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(known_isas base avx2 avx512)
  set(isa_flags_avx2 -march=x86-64-v3)
  set(isa_flags_avx512 -march=x86-64-v4)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(known_isas base neon)
  set(isa_flags_neon -march=armv8.2-a+fp16)
else()
  set(known_isas base)
endif()

set(SACCADE_BUILT_ISAS ${SACCADE_CPU_ISAS})
if(NOT SACCADE_BUILT_ISAS)
  set(SACCADE_BUILT_ISAS ${known_isas})
elseif(NOT "base" IN_LIST SACCADE_BUILT_ISAS)
  list(PREPEND SACCADE_BUILT_ISAS base)  # what every machine can run
endif()
foreach(isa ${SACCADE_BUILT_ISAS})
  if(NOT isa IN_LIST known_isas)
    message(FATAL_ERROR "SACCADE_CPU_ISAS: got '${isa}', wanted some of '${known_isas}' (${CMAKE_SYSTEM_PROCESSOR})")
  endif()
endforeach()

# Not -ffast-math: NaN and infinity carry meaning here, and sums keep their order so that results are reproducible.
# -Wno-psabi: vectors wider than the ISA's registers are passed inside one translation unit only.
set(isa_flags -fno-math-errno -fno-trapping-math -ffp-contract=fast -Wno-psabi)
if(SACCADE_SANITIZE)
  list(APPEND isa_flags -O1)
elseif(CMAKE_BUILD_TYPE STREQUAL "Release")
  list(APPEND isa_flags -O3)
endif()

# Compiles `sources` for every instruction set. `core` (which holds the dispatch table) gets SACCADE_HAVE_ISA_<isa>=1 for each;
# SACCADE_ISA_TARGETS lists the object libraries to link.
function(saccade_cpu_isa_objects core)
  set(targets)
  foreach(isa ${SACCADE_BUILT_ISAS})
    set(target saccade_cpu_${isa})
    add_library(${target} OBJECT ${ARGN})
    set_target_properties(${target} PROPERTIES LINKER_LANGUAGE CXX)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/include ${CMAKE_CURRENT_SOURCE_DIR})
    target_compile_definitions(${target} PRIVATE SACCADE_ISA=${isa} SACCADE_ISA_NAME="${isa}")
    target_compile_options(${target} PRIVATE ${isa_flags} ${isa_flags_${isa}})
    target_compile_definitions(${core} PRIVATE SACCADE_HAVE_ISA_${isa}=1)
    list(APPEND targets ${target})
  endforeach()
  set(SACCADE_ISA_TARGETS ${targets} PARENT_SCOPE)
endfunction()
