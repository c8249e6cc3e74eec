#include "async.h"

namespace emu {

void decode_bulk(Decoder& d, Inst&) { d.unknown(); }
void finish_bulk(Cta&) {}

}  // namespace emu
