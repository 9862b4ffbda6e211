// Progress and remaining time of long work, on standard error. Silent for work that takes less than
// about a second; on a terminal one line that is rewritten, elsewhere a line now and then.

#ifndef FATHOM_TOOLS_PROGRESS_H
#define FATHOM_TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label; // "prefill"
    const char *unit;  // "tokens"
    uint64_t done;
    uint64_t total;
    double start_ms;
    uint64_t mark;  // units that were done at some time between a quarter and all of now
    double mark_ms; // how long they took
    uint64_t next_mark;
    double next_mark_ms;
    double shown_ms; // when it was last shown; 0: never
    bool terminal;
};

void progress_begin(struct progress *progress, const char *label, const char *unit, uint64_t total);

// n more units are done. progress may be NULL: nobody wants to see it.
void progress_add(struct progress *progress, uint64_t n);

// Takes the line off the terminal. Elsewhere, says how it ended if anything was said before.
void progress_end(struct progress *progress);

#endif
