// The instruction sets this library was compiled for, and which one is in use.
#pragma once

#include "kernels/block.h"

namespace batchnorm {

const Level& level_in_use();
// Null: the best again. False where there is no such level, or the processor lacks the instructions.
bool select_level(const char* name);
bool has_level(const char* name);

}  // namespace batchnorm
