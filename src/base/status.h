// Errors: a code, and a text for the thread that met it. See include/fathom/types.h.

#ifndef FATHOM_SRC_BASE_STATUS_H
#define FATHOM_SRC_BASE_STATUS_H

#include "fathom/types.h"

// Stores the text for fathom_last_error() and returns the status, so that
//     return status_set(FATHOM_EINVAL, "n_heads=%u: must be above 0", n);
// is one line. The text names the thing and the remedy, without a full stop at its end. A macro, so
// that compilers and analysers see which status comes back and do not follow impossible paths.
#define status_set(status, ...) status_pass((status_note(__VA_ARGS__), (status)))

void status_note(const char *format, ...) FATHOM_PRINTF(1);

static inline fathom_status status_pass(fathom_status status)
{
    return status;
}

// Puts "prefix: " before the calling thread's text, to name the file or object; returns status.
fathom_status status_prefix(fathom_status status, const char *format, ...) FATHOM_PRINTF(2);

// Returns on error (below zero) with the expression's status.
#define FATHOM_TRY(expr)                                                                           \
    do {                                                                                           \
        fathom_status status_of_try = (expr);                                                      \
        if (status_of_try < 0) return status_of_try;                                               \
    } while (0)

// Stores the expression's status in the local `status` and jumps to `label` on error.
#define FATHOM_CHECK(expr, label)                                                                  \
    do {                                                                                           \
        status = (expr);                                                                           \
        if (status < 0) goto label;                                                                \
    } while (0)

#endif
