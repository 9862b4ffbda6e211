// Calls that fail when it is their turn: the wrapped functions of t_store_faults.c and
// fault_uring.c ask here.

#ifndef FATHOM_TESTS_IO_FAULT_H
#define FATHOM_TESTS_IO_FAULT_H

#include <stdbool.h>

// Counts the call; true when it is the one that fails, with fault_error() as its errno. Any thread.
bool fault_due(void);
int fault_error(void);

#endif
