// The log: a callback and its level, carried by whoever owns a device. A NULL callback is silent.

#ifndef FATHOM_SRC_BASE_LOG_H
#define FATHOM_SRC_BASE_LOG_H

#include "fathom/types.h"

struct log {
    fathom_log_fn fn;
    void *user;
};

// One line "area: what, key=value" with units, no newline. At most 1023 bytes; the rest is cut.
void log_write(const struct log *log, enum fathom_log_level level, const char *format, ...)
    FATHOM_PRINTF(3);

#endif
