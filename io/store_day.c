// A day's writes, in a ring of time slots. For the cap that spares a disk its wear.

#include "io/store_day.h"

static const uint64_t slot_ns = (uint64_t)10 * 60 * 1000000000;

uint64_t store_day_bytes(struct store_day *day, uint64_t now_ns)
{
    uint64_t now = now_ns / slot_ns;
    // Farther ahead than the ring is long, each slot is passed once and all are empty.
    if (now > day->newest + STORE_DAY_SLOTS) day->newest = now - STORE_DAY_SLOTS;
    while (day->newest < now) {
        uint64_t *slot = &day->bytes[++day->newest % STORE_DAY_SLOTS];
        day->sum_bytes -= *slot;
        *slot = 0;
    }
    return day->sum_bytes;
}

void store_day_add(struct store_day *day, uint64_t bytes)
{
    day->bytes[day->newest % STORE_DAY_SLOTS] += bytes;
    day->sum_bytes += bytes;
}
