// The instruction sets this library was compiled for, and which one is in use.
#pragma once

#include "kernels/block.h"

namespace batchnorm {

const Isa& isa_in_use();
// Null: the best again. False if there is no such instruction set, or the processor lacks it.
bool select_isa(const char* name);
bool has_isa(const char* name);

}  // namespace batchnorm
