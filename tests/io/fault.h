// Calls that fail when it is their turn. The linker wraps the functions of fault.c and
// fault_uring.c, which ask here; what they call of each other is not counted.

#ifndef FATHOM_TESTS_IO_FAULT_H
#define FATHOM_TESTS_IO_FAULT_H

#include <stdbool.h>
#include <stddef.h>

// From now on n_good calls succeed and the next one fails, with `error` as its errno.
void fault_begin(size_t n_good, int error);
bool fault_met(void); // whether that call came
void fault_end(void); // none fails any more

// Counts the call; true when it is the one that fails, with fault_error() as its errno. Any thread.
bool fault_due(void);
int fault_error(void);

#endif
