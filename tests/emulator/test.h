#pragma once
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#if SACCADE_EMULATED
#include "runtime.h"
#endif

// For conformance tests: the same source runs on a card and emulated. A test's kernel is launched, then `ok()` is
// asked.
namespace test {

#define ASSERT_CUDA(call) ASSERT_EQ(cudaSuccess, call) << cudaGetErrorString(cudaGetLastError())

/// Device memory of n values.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t n) : n_(n) { cudaMalloc(&data_, n * sizeof(T)); }
  explicit Buffer(const std::vector<T>& host) : Buffer(host.size()) { write(host); }
  Buffer(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }
  T* data() const { return data_; }
  operator T*() const { return data_; }
  size_t size() const { return n_; }
  void write(const std::vector<T>& host) { cudaMemcpy(data_, host.data(), n_ * sizeof(T), cudaMemcpyHostToDevice); }
  std::vector<T> read() const {
    std::vector<T> host(n_);
    cudaMemcpy(host.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost);
    return host;
  }

 private:
  T* data_ = nullptr;
  size_t n_;
};

/// The launch before this worked: ASSERT_TRUE(test::ok()).
inline testing::AssertionResult ok() {
  cudaError_t error = cudaDeviceSynchronize();
  const cudaError_t last = cudaGetLastError();
  if (error == cudaSuccess) error = last;
  if (error == cudaSuccess) return testing::AssertionSuccess();
  auto result = testing::AssertionFailure() << cudaGetErrorName(error) << ": " << cudaGetErrorString(error);
#if SACCADE_EMULATED
  for (const std::string& f : emu::take_findings()) result << "\n" << f;
#endif
  return result;
}

/// out[i] for i in lanes: the kernel writes one value a lane. Runs one warp.
template <class T, class Kernel, class... Args>
std::vector<T> warp(Kernel kernel, Args... args) {
  Buffer<T> out(std::vector<T>(32));
  kernel<<<1, 32>>>(out.data(), args...);
  EXPECT_TRUE(ok());
  return out.read();
}

#if SACCADE_EMULATED
/// The launch before this was refused with a report that holds every one of the texts.
inline testing::AssertionResult found(std::initializer_list<const char*> texts) {
  const cudaError_t error = cudaDeviceSynchronize();
  cudaGetLastError();
  const auto findings = emu::take_findings();
  if (findings.empty()) return testing::AssertionFailure() << "no finding";
  if (error != cudaErrorLaunchFailure)
    return testing::AssertionFailure() << "a finding, but " << cudaGetErrorName(error);
  for (const char* text : texts) {
    if (findings.front().find(text) == std::string::npos) {
      return testing::AssertionFailure() << "no '" << text << "' in: " << findings.front();
    }
  }
  return testing::AssertionSuccess();
}
inline testing::AssertionResult found(const char* text) { return found({text}); }

/// Options for the rest of a scope.
class Options {
 public:
  explicit Options(const char* options) : strict_(emu::strict()), device_(emu::device()) { emu::set_options(options); }
  ~Options() { emu::strict() = strict_, emu::device() = device_; }

 private:
  emu::Strict strict_;
  emu::Device device_;
};
#endif

}  // namespace test
