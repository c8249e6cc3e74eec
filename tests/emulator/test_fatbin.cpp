#include <gtest/gtest.h>

#include <cstring>

#include "cudart.h"

// Fat binaries put together by hand: which entry is chosen, and what cannot be read.
namespace {

struct Entry {
  uint16_t kind;
  uint32_t arch;
  uint64_t flags;
  std::string text;
};

std::string kernel(const char* target, int value) {
  return std::string(".version 9.0\n.target ") + target +
         "\n.address_size 64\n.visible .entry k(.param .u64 p)\n{\n.reg .b64 %rd<2>;\nld.param.u64 %rd1, [p];\n"
         "st.global.u32 [%rd1], " +
         std::to_string(value) + ";\nret;\n}\n";
}

class Registered {
 public:
  explicit Registered(const std::vector<Entry>& entries, int version = 1) {
    std::string body;
    for (const Entry& e : entries) {
      std::string text = e.text + std::string(8 - e.text.size() % 8, '\0');
      uint32_t header[16] = {e.kind | 0x1010000u, 64, static_cast<uint32_t>(text.size()), 0, 0, 0, 0x90000, e.arch};
      std::memcpy(header + 10, &e.flags, 8);
      body.append(reinterpret_cast<char*>(header), 64).append(text);
    }
    const uint32_t head[4] = {0xBA55ED50, static_cast<uint32_t>(16 << 16 | version), static_cast<uint32_t>(body.size()),
                              0};
    data_ = std::string(reinterpret_cast<const char*>(head), 16) + body;
    wrapper_.data = data_.data();
    image_ = __cudaRegisterFatBinary(&wrapper_);
    __cudaRegisterFunction(image_, &host_, nullptr, "k", -1, nullptr, nullptr, nullptr, nullptr, nullptr);
    __cudaRegisterFatBinaryEnd(image_);
  }
  ~Registered() { __cudaUnregisterFatBinary(image_); }

  cudaError_t launch(int& value) {
    int* out = nullptr;
    cudaMalloc(reinterpret_cast<void**>(&out), 4);
    cudaMemset(out, 0, 4);
    void* args[] = {&out};
    const cudaError_t error = cudaLaunchKernel(&host_, 1, 1, args, 0, nullptr);
    cudaMemcpy(&value, out, 4, cudaMemcpyDeviceToHost);
    cudaFree(out);
    cudaGetLastError();
    emu::take_findings();
    return error;
  }

 private:
  struct {
    int magic = 0x466243B1, version = 1;
    const void* data = nullptr;
    void* prelinked = nullptr;
  } wrapper_;
  std::string data_;
  void** image_;
  char host_ = 0;
};

class FatBinary : public testing::Test {
 protected:
  void SetUp() override { emu::set_options("print=off"); }
  void TearDown() override { emu::set_options("arch=sm_90a,print=on"); }
  const Entry elf{2, 90, 0x11,
                  "\x7f"
                  "ELF"},
      sm80{1, 80, 0x11, kernel("sm_80", 80)}, sm90{1, 90, 0x11, kernel("sm_90", 90)},
      sm90a{1, 90, 0x100011, kernel("sm_90a", 901)}, sm100{1, 100, 0x11, kernel("sm_100", 100)};
  int value = 0;
};

TEST_F(FatBinary, ChoosesTheHighestThatRuns) {
  Registered all({elf, sm80, sm100, sm90a, sm90});
  for (const auto& [arch, wanted] : {std::pair{"sm_80", 80}, {"sm_89", 80}, {"sm_90", 90}, {"sm_90a", 901}}) {
    emu::set_options(std::string("arch=") + arch);
    ASSERT_EQ(all.launch(value), cudaSuccess) << arch;
    EXPECT_EQ(value, wanted) << arch;
  }
}

TEST_F(FatBinary, NothingThatRuns) {
  EXPECT_EQ(Registered({elf, sm100}).launch(value), cudaErrorNoKernelImageForDevice);
  EXPECT_EQ(Registered({}).launch(value), cudaErrorNoKernelImageForDevice);
}

TEST_F(FatBinary, CompressedPtxNamesTheFlag) {
  emu::set_options("print=on");
  testing::internal::CaptureStderr();
  EXPECT_EQ(Registered({{1, 80, 0x8011, "(\xb5/\xfd"}}).launch(value), cudaErrorInvalidPtx);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("--compress-mode=none"), std::string::npos);
}

TEST_F(FatBinary, UnknownContainer) { EXPECT_EQ(Registered({sm80}, 7).launch(value), cudaErrorInvalidPtx); }

TEST_F(FatBinary, BrokenPtxIsAFinding) {
  for (const char* broken :
       {".version 9.0\n.target sm_80\n.visible .entry k(.param .u64 p)\n{\nfrobnicate.u32 %r1;\nret;\n}\n",
        ".version 9.0\n.target sm_80\n.visible .entry k(.param .u64 p)\n{\nret;\n"}) {
    EXPECT_EQ(Registered({{1, 80, 0x11, broken}}).launch(value), cudaErrorInvalidPtx) << broken;
  }
}

TEST_F(FatBinary, KernelThatIsNotThere) {
  std::string other = sm80.text;
  other.replace(other.find(" k("), 3, " z(");
  EXPECT_EQ(Registered({{1, 80, 0x11, other}}).launch(value), cudaErrorInvalidDeviceFunction);
}

}  // namespace
