// Summaries of measured values.

#ifndef FATHOM_TOOLS_STATS_H
#define FATHOM_TOOLS_STATS_H

#include <stddef.h>

struct stats {
    double mean;
    double sd; // of the sample (n - 1); 0 for fewer than two values
    double median;
};

// Sorts values. All zero for n 0.
struct stats stats_of(double *values, size_t n);

// The value below which a fraction of the sorted values lies, interpolated; n >= 1.
double stats_quantile(const double *sorted, size_t n, double fraction);

// Sorts ascending.
void stats_sort(double *values, size_t n);

#endif
