#pragma once
#include <torch/csrc/stable/library.h>

// Boxed kernels: the schemas beside which they stand are in library.cpp.
namespace saccade::bindings {

void linear_attention(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void linear_attention_backward(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void linear_attention_step(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void explain_linear_attention(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);
void explain_linear_attention_step(StableIValue* stack, uint64_t num_inputs, uint64_t num_outputs);

}  // namespace saccade::bindings
