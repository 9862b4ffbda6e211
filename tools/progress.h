// Progress and remaining time of long work, on standard error. Silent for work that takes less than
// about a second; on a terminal one line that is rewritten, elsewhere a line now and then.

#ifndef FATHOM_TOOLS_PROGRESS_H
#define FATHOM_TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

// How much was done when.
struct progress_mark {
    uint64_t done;
    double ms; // since the beginning
};

enum { PROGRESS_MARKS = 4 };

struct progress {
    const char *label; // "prefill"
    const char *unit;  // "tokens"
    uint64_t done;
    uint64_t total;
    uint64_t lap; // units after which the work begins anew, and costs the same again; 0: none
    double start_ms;
    struct progress_mark marks[PROGRESS_MARKS]; // each at twice what was done at the one before
    struct progress_mark lap_begin;             // of the lap under way
    double lap_ms;                              // what the last lap took; 0: none has ended
    double shown_ms;                            // when it was last shown; 0: never
    bool terminal;
};

void progress_begin(struct progress *progress, const char *label, const char *unit, uint64_t total);
// The same work is done several times over, `lap` units each (above 0). Before the first unit.
void progress_laps(struct progress *progress, uint64_t lap);

// n more units are done. progress may be NULL: nobody wants to see it.
void progress_add(struct progress *progress, uint64_t n);

// Takes the line off the terminal until there is more to say: for who prints something else.
void progress_hide(const struct progress *progress);

// Takes the line off the terminal. Elsewhere, says how it ended if anything was said before.
void progress_end(struct progress *progress);

#endif
