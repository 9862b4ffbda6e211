// Mean, spread, quantiles.

#include "tools/stats.h"

#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

void stats_sort(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
}

double stats_quantile(const double *sorted, size_t n, double fraction)
{
    double place = fraction * (double)(n - 1);
    size_t i = (size_t)place;
    if (i + 1 >= n) return sorted[n - 1];
    double share = place - (double)i;
    return (1 - share) * sorted[i] + share * sorted[i + 1];
}

struct stats stats_of(double *values, size_t n)
{
    struct stats stats = {0};
    if (n == 0) return stats;
    for (size_t i = 0; i < n; i++)
        stats.mean += values[i] / (double)n;
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - stats.mean) * (values[i] - stats.mean);
    if (n > 1) stats.sd = sqrt(squares / (double)(n - 1));
    stats_sort(values, n);
    stats.median = stats_quantile(values, n, 0.5);
    return stats;
}
