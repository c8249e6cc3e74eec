#include "machine.h"

namespace emu {
// Until convert.cpp and wgmma.cpp are there.
extern const Family kConvert[] __attribute__((weak));
extern const Family kWgmma[] __attribute__((weak));
const Family kConvert[] = {{nullptr, nullptr}};
const Family kWgmma[] = {{nullptr, nullptr}};
}  // namespace emu
