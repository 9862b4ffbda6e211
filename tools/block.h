// Memory of the command: every allocation of tools/ goes through here, so that a failure is said in
// one place.

#ifndef FATHOM_TOOLS_BLOCK_H
#define FATHOM_TOOLS_BLOCK_H

#include <stddef.h>
#include <stdint.h>

// Zeroed memory for n items, to be freed with block_free; NULL after saying so when there is none.
void *block_new(size_t n, size_t item_bytes);

// Makes room for at least n items in a growing array: *capacity (in items) at least doubles when it
// must change. `items` points to the array's pointer, which may be NULL at first.
int block_grow(void *items, size_t *capacity, size_t n, size_t item_bytes);

void block_free(void *block);

// RAM of this machine, in bytes.
uint64_t block_machine_bytes(void);

// Of them, what is left to be taken, or all where the system does not tell.
uint64_t block_free_bytes(void);

// The most RAM that this process has had since it began, or since block_forget_peak, where the
// system can forget.
uint64_t block_peak_bytes(void);
void block_forget_peak(void);

#endif
