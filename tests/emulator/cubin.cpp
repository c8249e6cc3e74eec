#include <elf.h>

#include <cstring>

#include "cudart.h"

// How many registers ptxas gave each kernel: PTX does not say, the machine code beside it does (.nv.info, attribute
// 0x2F).
namespace emu {
namespace {

template <class T>
T at(const std::byte* base, uint64_t offset) {
  T value;
  std::memcpy(&value, base + offset, sizeof value);
  return value;
}

}  // namespace

std::map<std::string, int> cubin_registers(const std::byte* elf) {
  constexpr uint8_t kSized = 4, kRegisterCount = 0x2F;
  std::map<std::string, int> registers;
  const auto header = at<Elf64_Ehdr>(elf, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return registers;
  auto section = [&](uint64_t i) { return at<Elf64_Shdr>(elf, header.e_shoff + i * header.e_shentsize); };
  auto text = [&](const Elf64_Shdr& strings, uint64_t offset) {
    return reinterpret_cast<const char*>(elf + strings.sh_offset + offset);
  };
  const Elf64_Shdr names = section(header.e_shstrndx);
  for (uint64_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr info = section(i);
    if (std::strcmp(text(names, info.sh_name), ".nv.info") != 0) continue;
    const Elf64_Shdr symbols = section(info.sh_link), strings = section(symbols.sh_link);
    for (uint64_t p = info.sh_offset, end = p + info.sh_size; p + 4 <= end;) {
      const auto format = at<uint8_t>(elf, p), attribute = at<uint8_t>(elf, p + 1);
      const auto bytes = at<uint16_t>(elf, p + 2);
      if (format == kSized && attribute == kRegisterCount) {
        const auto symbol = at<Elf64_Sym>(elf, symbols.sh_offset + at<uint32_t>(elf, p + 4) * sizeof(Elf64_Sym));
        registers[text(strings, symbol.st_name)] = at<int32_t>(elf, p + 8);
      }
      p += 4 + (format == kSized ? bytes : 0);
    }
  }
  return registers;
}

}  // namespace emu
