// How the command speaks: one line on standard error for each remark, and exit codes that carry
// failure upwards.
//
// Every function of tools/ that can fail returns an exit code: EXIT_GOOD, or another after the
// reason has been said. SAY_TRY and SAY_CHECK pass it on.

#ifndef FATHOM_TOOLS_SAY_H
#define FATHOM_TOOLS_SAY_H

#include "fathom/types.h"

enum exit_code {
    EXIT_GOOD = 0,
    EXIT_BAD = 1,
    EXIT_HELPED = 2,      // --help was answered; main turns it into 0
    EXIT_INTERRUPTED = 3, // main turns it into interrupt_code
};

#define SAY_TRY(expr)                                                                              \
    do {                                                                                           \
        int code_of_try = (expr);                                                                  \
        if (code_of_try != EXIT_GOOD) return code_of_try;                                          \
    } while (0)

#define SAY_CHECK(expr, label)                                                                     \
    do {                                                                                           \
        code = (expr);                                                                             \
        if (code != EXIT_GOOD) goto label;                                                         \
    } while (0)

// Says "fathom: ..." and returns EXIT_BAD.
int say_error(const char *format, ...) FATHOM_PRINTF(1);

// Says "fathom: ...".
void say_note(const char *format, ...) FATHOM_PRINTF(1);

// EXIT_GOOD for FATHOM_OK, EXIT_INTERRUPTED for FATHOM_ECANCELLED; else says the library's text,
// with flags in place of the fields of parameters.
FATHOM_MUST_USE int say_status(fathom_status status);

// Control characters become '?': text from a file must not steer a terminal.
void say_printable(char *text);

// A fathom_log_fn; user points to an int64_t, the highest level that is said.
void say_log(int level, const char *text, void *user);

#endif
