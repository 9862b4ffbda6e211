// How many bytes were written in the last 24 hours.

#ifndef FATHOM_IO_STORE_DAY_H
#define FATHOM_IO_STORE_DAY_H

#include <stdint.h>

// Ten minutes each; a day, and the one that is under way. So a byte counts for 24 hours at least
// and ten minutes more at most.
enum { STORE_DAY_SLOTS = 24 * 6 + 1 };

struct store_day {
    uint64_t bytes[STORE_DAY_SLOTS]; // slot i: of the newest time slot that is i modulo their count
    uint64_t newest;                 // time slot since the clock began
    uint64_t sum_bytes;
};

// Forgets what is older than a day before now_ns of the monotonic clock; returns what is left.
uint64_t store_day_bytes(struct store_day *day, uint64_t now_ns);
// Adds to the time slot of the last call of store_day_bytes.
void store_day_add(struct store_day *day, uint64_t bytes);

#endif
