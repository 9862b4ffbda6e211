// How fast this machine reads its memory: what attention is measured against.

#ifndef FATHOM_TOOLS_MEMORY_SPEED_H
#define FATHOM_TOOLS_MEMORY_SPEED_H

#include "tools/team.h"

enum { MEMORY_PIECE_BYTES = 4096 };

struct memory_speed {
    double read_gbs;   // 10^9 bytes/s, one after the other, all threads
    double gather_gbs; // likewise, pieces of MEMORY_PIECE_BYTES in an order of chance
};

// Raises *speed, zeroed at first, to the best of what it had and what is measured now. Takes 512
// MiB meanwhile: far more than caches hold.
int memory_speed_measure(struct team *team, struct memory_speed *speed);

#endif
