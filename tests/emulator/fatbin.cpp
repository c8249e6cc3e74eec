#include <cstdlib>
#include <cstring>
#include <map>
#include <unordered_map>

#include "cudart.h"

// Fat binaries: what nvcc put into an object, and the modules loaded from them. Layout found by looking at nvcc 13.0's
// output; the wrapper is described in fatbinary_section.h.
namespace emu {
namespace {

struct Wrapper {
  int magic, version;
  const std::byte* data;
  void* prelinked;
};
struct Header {
  uint32_t magic;
  uint16_t version, header_bytes;
  uint64_t bytes;  // of all entries
};
struct EntryHeader {
  uint16_t kind, version;
  uint32_t header_bytes;
  uint64_t bytes;
  uint32_t compressed_bytes, options, isa, arch, name, name_bytes;
  uint64_t flags;
};
constexpr int kWrapperMagic = 0x466243B1;
constexpr uint32_t kMagic = 0xBA55ED50;
constexpr uint16_t kPtx = 1, kElf = 2;
constexpr uint64_t kCompressed = 0xA000, kSpecific = 0x100000;  // LZ4 or Zstandard; sm_90a and the like

struct Code {  // machine code
  uint32_t arch;
  bool specific;
  const std::byte* elf;
};

struct Entry {
  uint32_t arch;
  bool specific, compressed;
  std::string_view text;
};

struct Variable {
  const void* host;
  std::string name;
  size_t bytes;
  void** managed;  // where the host's pointer to it lies
};

struct Loaded {
  std::unique_ptr<ptx::Module> module;
  Symbols symbols;
  std::map<std::string, size_t> sizes;
  std::vector<std::byte*> storage;  // 128-byte aligned blocks with a red zone on both sides
  std::map<std::string, std::unique_ptr<Program>> programs;

  ~Loaded() {
    for (auto& [name, address] : symbols) untrack(address);
    for (std::byte* block : storage) std::free(block);
  }
};

}  // namespace

struct Image {
  const std::byte* data = nullptr;
  std::vector<Entry> entries;
  std::vector<Code> code;
  std::vector<Variable> variables;
  std::map<const Entry*, Loaded> loaded;
  std::map<const std::byte*, std::map<std::string, int>> registers;
};

namespace {

struct Registry {
  std::vector<std::unique_ptr<Image>> images;
  std::unordered_map<const void*, std::unique_ptr<Kernel>> kernels;  // by the host function
};
Registry& registry() {
  static Registry& all = *new Registry;  // objects register before, and unregister after, everything else
  return all;
}

void read_entries(Image& image) {
  if (!image.entries.empty()) return;
  Header header;
  std::memcpy(&header, image.data, sizeof header);
  if (header.magic != kMagic || header.version != 1) throw Fault("fat binary: unknown container");
  const std::byte* at = image.data + header.header_bytes;
  for (const std::byte* end = at + header.bytes; at < end;) {
    EntryHeader e;
    std::memcpy(&e, at, sizeof e);
    const auto* text = reinterpret_cast<const char*>(at + e.header_bytes);
    if (e.kind == kPtx) {
      const bool compressed = e.flags & kCompressed;
      image.entries.push_back({e.arch, (e.flags & kSpecific) != 0, compressed,
                               compressed ? std::string_view{} : std::string_view{text, strnlen(text, e.bytes)}});
    }
    if (e.kind == kElf && !(e.flags & kCompressed)) {
      image.code.push_back({e.arch, (e.flags & kSpecific) != 0, at + e.header_bytes});
    }
    at += e.header_bytes + e.bytes;
  }
}

const Entry& choose(Image& image) {
  read_entries(image);
  const Entry* best = nullptr;
  const uint32_t arch = device().major * 10 + device().minor;
  for (const Entry& e : image.entries) {
    const bool runs = e.specific ? device().specific && e.arch == arch : e.arch <= arch;
    if (runs && (!best || e.arch > best->arch || (e.arch == best->arch && e.specific))) best = &e;
  }
  if (!best) {
    note("no PTX for sm_" + std::to_string(arch) + (device().specific ? "a" : "") +
         " in the fat binary: nvcc needs -gencode arch=compute_…,code=[…,compute_…]");
    throw cudaErrorNoKernelImageForDevice;
  }
  if (best->compressed) {
    note("the fat binary's PTX is compressed: compile with nvcc --compress-mode=none");
    throw cudaErrorInvalidPtx;
  }
  return *best;
}

void place_variables(Loaded& loaded) {
  constexpr size_t red_zone = 256;
  for (const ptx::Variable& v : loaded.module->variables) {
    if (v.space != "global" && v.space != "const") continue;
    if (v.external) throw Fault("variable " + v.name + " is extern: relocatable device code is not supported");
    const size_t bytes = static_cast<size_t>(v.bytes), room = (bytes + 127) / 128 * 128 + 2 * red_zone;
    auto* block = static_cast<std::byte*>(std::aligned_alloc(256, (room + 255) / 256 * 256));
    std::memset(block, 0, room);
    std::memcpy(block + red_zone, v.init.data(), std::min(v.init.size(), bytes));
    loaded.storage.push_back(block);
    loaded.symbols[v.name] = block + red_zone;
    loaded.sizes[v.name] = bytes;
    track(block + red_zone, bytes, v.space == "global", true, "module variable");
  }
  for (const ptx::Variable& v : loaded.module->variables) {
    for (const auto& r : v.relocations) {
      const auto target = loaded.symbols.find(r.name);
      if (target == loaded.symbols.end()) throw Fault("variable " + v.name + " holds the address of " + r.name);
      const uint64_t address = reinterpret_cast<uint64_t>(target->second) + r.addend;
      std::memcpy(loaded.symbols[v.name] + r.at, &address, sizeof address);
    }
  }
}

Loaded& load(Image& image) {
  const Entry& entry = choose(image);
  if (auto found = image.loaded.find(&entry); found != image.loaded.end()) return found->second;
  auto module = ptx::parse(entry.text);
  Loaded& loaded = image.loaded[&entry];
  loaded.module = std::move(module);
  place_variables(loaded);
  for (const Variable& v : image.variables) {
    if (v.managed) *v.managed = loaded.symbols.at(v.name);
  }
  return loaded;
}

}  // namespace

Program& program(Kernel& kernel) {
  Loaded& loaded = load(*kernel.image);
  auto& program = loaded.programs[kernel.name];
  if (!program) {
    for (const ptx::Function& f : loaded.module->functions) {
      if (f.entry && f.name == kernel.name) program = decode(*loaded.module, f, loaded.symbols);
    }
    if (!program) {
      note("kernel " + kernel.name + " is not in the PTX for this device");
      throw cudaErrorInvalidDeviceFunction;
    }
  }
  return *program;
}

int registers(const Kernel& kernel) {
  const uint32_t arch = device().major * 10 + device().minor;
  const Code* best = nullptr;
  for (const Code& c : kernel.image->code) {
    const bool runs = c.specific ? device().specific && c.arch == arch : c.arch / 10 == arch / 10 && c.arch <= arch;
    if (runs && (!best || c.arch > best->arch || (c.arch == best->arch && c.specific))) best = &c;
  }
  if (!best) return 0;
  auto& known = kernel.image->registers[best->elf];
  if (known.empty()) known = cubin_registers(best->elf);
  const auto found = known.find(kernel.name);
  return found == known.end() ? 0 : found->second;
}

Kernel* find_kernel(const void* handle) {
  auto& kernels = registry().kernels;
  if (auto found = kernels.find(handle); found != kernels.end()) return found->second.get();
  for (auto& [host, kernel] : kernels) {
    if (kernel.get() == handle) return kernel.get();
  }
  return nullptr;
}

Symbol find_symbol(const void* host) {
  for (auto& image : registry().images) {
    for (const Variable& v : image->variables) {
      if (v.host != host) continue;
      Loaded& loaded = load(*image);
      if (auto found = loaded.symbols.find(v.name); found != loaded.symbols.end()) return {found->second, v.bytes};
    }
  }
  return {};
}

void load_managed(Image& image) { load(image); }

std::vector<size_t> parameter_offsets(const ptx::Function& f) {
  std::vector<size_t> offsets;
  size_t end = 0;
  for (const ptx::Variable& p : f.params) {
    const size_t scalar = p.type.size() > 1 ? std::strtoul(p.type.c_str() + 1, nullptr, 10) / 8 : 1;
    const size_t align = std::max<size_t>(p.align, std::max<size_t>(scalar, 1));
    offsets.push_back(end = (end + align - 1) / align * align);
    end += static_cast<size_t>(p.bytes);
  }
  offsets.push_back(end);
  return offsets;
}

}  // namespace emu

using emu::Call;

void** __cudaRegisterFatBinary(void* pointer) {
  const Call entered;
  const auto& wrapper = *static_cast<const emu::Wrapper*>(pointer);
  auto image = std::make_unique<emu::Image>();
  if (wrapper.magic != emu::kWrapperMagic || wrapper.version != 1) {
    emu::note("fat binary: unknown wrapper (relocatable device code is not supported)");
    std::abort();
  }
  image->data = wrapper.data;
  emu::registry().images.push_back(std::move(image));
  return reinterpret_cast<void**>(emu::registry().images.back().get());
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) {
  const Call entered;
  auto* image = reinterpret_cast<emu::Image*>(handle);
  std::erase_if(emu::registry().kernels, [&](auto& entry) { return entry.second->image == image; });
  std::erase_if(emu::registry().images, [&](auto& one) { return one.get() == image; });
}

void __cudaRegisterFunction(void** image, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  const Call entered;
  auto& kernel = emu::registry().kernels[host] = std::make_unique<emu::Kernel>();
  kernel->image = reinterpret_cast<emu::Image*>(image);
  kernel->host = host;
  kernel->name = name;
}

void __cudaRegisterVar(void** image, char* host, char*, const char* name, int, size_t size, int, int) {
  const Call entered;
  reinterpret_cast<emu::Image*>(image)->variables.push_back({host, name, size, nullptr});
}

void __cudaRegisterManagedVar(void** image, void** host, char*, const char* name, int, size_t size, int, int) {
  const Call entered;
  reinterpret_cast<emu::Image*>(image)->variables.push_back({host, name, size, host});
}

char __cudaInitModule(void** image) {
  const Call entered;
  try {
    emu::load_managed(*reinterpret_cast<emu::Image*>(image));
    return 1;
  } catch (const std::exception& error) {
    emu::note(error.what());
  } catch (cudaError_t) {
  }
  return 0;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  const Call entered;
  *kernel = reinterpret_cast<cudaKernel_t>(emu::find_kernel(host));
  return *kernel ? cudaSuccess : emu::fail(cudaErrorInvalidDeviceFunction);
}
