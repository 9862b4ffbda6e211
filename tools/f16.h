// Half floats of record files. The library's own conversions are not among the public headers.

#ifndef FATHOM_TOOLS_F16_H
#define FATHOM_TOOLS_F16_H

#include <stddef.h>
#include <stdint.h>

// Rounds to nearest even; what is too large becomes infinity, NaN stays NaN.
void f16_from_floats(uint16_t *out, const float *x, size_t n);
void f16_to_floats(float *out, const uint16_t *x, size_t n);

#endif
