// 16-bit floats: IEEE binary16 and bfloat16. Conversions to 16 bit round to nearest even; NaN stays
// NaN (quiet), infinities stay, overflow becomes infinity, f16 subnormals are exact.

#ifndef FATHOM_SRC_BASE_HALF_H
#define FATHOM_SRC_BASE_HALF_H

#include "fathom/types.h"

float half_to_float(uint16_t half);
uint16_t half_from_float(float value);
float bf16_to_float(uint16_t bf16);
uint16_t bf16_from_float(float value);

#endif
