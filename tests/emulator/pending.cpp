#include "machine.h"

namespace emu {
// Until convert.cpp and wgmma.cpp are there.
extern const Family kConvert[];
extern const Family kWgmma[];
[[gnu::weak]] const Family kConvert[] = {{nullptr, nullptr}};
[[gnu::weak]] const Family kWgmma[] = {{nullptr, nullptr}};
}  // namespace emu
