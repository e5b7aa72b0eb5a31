// Arrays of 16-bit floating-point numbers to float and back, several numbers an instruction.
#pragma once

#include "core/half.h"

namespace camo {

void convert_array(const Half* from, float* to, int64_t count);
void convert_array(const float* from, Half* to, int64_t count);
void convert_array(const BFloat16* from, float* to, int64_t count);
void convert_array(const float* from, BFloat16* to, int64_t count);

}  // namespace camo
