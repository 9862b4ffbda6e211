// Monotonic time.

#ifndef FATHOM_SRC_BASE_CLOCK_H
#define FATHOM_SRC_BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);

#endif
