// The coverage of each attended step and layer, for medians: an engine's statistics hold means.

#ifndef FATHOM_TOOLS_ATTEND_COVERAGE_H
#define FATHOM_TOOLS_ATTEND_COVERAGE_H

#include <stddef.h>

#include "fathom/fathom.h"

// Steps that picked and were verified (--kv-verify).
struct attend_coverage {
    struct fathom_kv_stats before;
    size_t n;
    size_t n_above;                              // whose bound is above what was covered: a fault
    double *verified, *bound, *estimate, *error; // [n_max]; error: |estimate - verified|
};

// Medians.
struct attend_coverage_summary {
    size_t n; // 0: the rest is void
    size_t n_above;
    double verified, bound, estimate, error;
};

// *coverage need not be initialised and may be closed after a failure.
int attend_coverage_open(struct attend_coverage *coverage, size_t n_max);
void attend_coverage_close(struct attend_coverage *coverage);

// To be called after each fathom_attend: what the statistics gained is that step's.
int attend_coverage_note(struct attend_coverage *coverage, const fathom_engine *engine);
// Sorts what was noted.
struct attend_coverage_summary attend_coverage_sum_up(struct attend_coverage *coverage);

#endif
