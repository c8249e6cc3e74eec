#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "machine.h"
#include "memory.h"

// The stand-in for the CUDA runtime, as tests see it. The CUDA API itself is that of cuda_runtime_api.h.
#define EMU_API __attribute__((visibility("default")))

namespace emu {

/// "arch=sm_90a,sm=4,seed=1,threads=0,races=on,uninit=on,bounds=on,untracked=on,async=late|eager,order=random|fixed,
/// collectives=on,print=on"; what is left out keeps its value. Throws std::invalid_argument naming a wrong key or
/// value.
EMU_API void set_options(std::string_view);
/// The report of every launch that failed since the last call.
EMU_API std::vector<std::string> take_findings();
/// Why a call of the API was refused, where its error code says little; printed to stderr (unless print=off).
void note(const std::string&);
EMU_API uint64_t launches();

void* driver_entry(const std::string& symbol);  // tensor_map.cpp; null: not known

}  // namespace emu

/// Above 0 while a thread works for the emulator: preload.cpp leaves its allocations alone.
extern "C" EMU_API __thread int saccade_emulator_quiet __attribute__((tls_model("initial-exec")));

extern "C" {                                            // the same for Python's ctypes
EMU_API int saccade_emulator_set(const char* options);  // 0, or 1 with the reason on stderr
/// Findings, one a paragraph; returns the bytes needed, writes at most `size` with a final 0.
EMU_API size_t saccade_emulator_findings(char* buffer, size_t size);
/// One line of JSON a kernel, summed over its launches since the last clear.
EMU_API size_t saccade_emulator_counts(char* buffer, size_t size);
EMU_API uint64_t saccade_emulator_launches(void);
EMU_API void saccade_emulator_track(void*, size_t bytes, int initialised,
                                    const char* what);  // host memory, for preload.cpp
EMU_API void saccade_emulator_untrack(void*);
EMU_API void saccade_emulator_clear(void);  // findings, counts, launches and errors
}
