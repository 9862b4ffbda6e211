// Steps are told apart by what the sums behind the means gain.

#include "tools/attend_coverage.h"

#include <math.h>

#include "tools/block.h"
#include "tools/say.h"
#include "tools/stats.h"

int attend_coverage_open(struct attend_coverage *coverage, size_t n_max)
{
    *coverage = (struct attend_coverage){.verified = block_new(n_max, sizeof(double)),
                                         .bound = block_new(n_max, sizeof(double)),
                                         .estimate = block_new(n_max, sizeof(double)),
                                         .error = block_new(n_max, sizeof(double))};
    fathom_kv_stats_init(&coverage->before);
    return coverage->verified != NULL && coverage->bound != NULL && coverage->estimate != NULL &&
                   coverage->error != NULL
               ? EXIT_GOOD
               : EXIT_BAD;
}

void attend_coverage_close(struct attend_coverage *coverage)
{
    block_free(coverage->verified);
    block_free(coverage->bound);
    block_free(coverage->estimate);
    block_free(coverage->error);
    *coverage = (struct attend_coverage){0};
}

int attend_coverage_note(struct attend_coverage *coverage, const fathom_engine *engine)
{
    const struct fathom_kv_stats before = coverage->before;
    struct fathom_kv_stats now;
    fathom_kv_stats_init(&now);
    SAY_TRY(say_status(fathom_engine_stats(engine, &now)));
    coverage->before = now;
    if (now.n_covered == before.n_covered || now.n_verified == before.n_verified) return EXIT_GOOD;
    const double n = (double)now.n_covered, n_verified = (double)now.n_verified;
    const size_t i = coverage->n++;
    coverage->verified[i] =
        now.verified_coverage * n_verified - before.verified_coverage * (n_verified - 1);
    coverage->bound[i] = now.coverage_bound * n - before.coverage_bound * (n - 1);
    coverage->estimate[i] = now.coverage_estimate * n - before.coverage_estimate * (n - 1);
    // Both are sums of what was rounded to f32.
    coverage->n_above += coverage->bound[i] > coverage->verified[i] + 1e-5;
    coverage->error[i] = fabs(coverage->estimate[i] - coverage->verified[i]);
    return EXIT_GOOD;
}

struct attend_coverage_summary attend_coverage_sum_up(struct attend_coverage *coverage)
{
    const size_t n = coverage->n;
    return (struct attend_coverage_summary){
        .n = n,
        .n_above = coverage->n_above,
        .verified = stats_of(coverage->verified, n).median,
        .bound = stats_of(coverage->bound, n).median,
        .estimate = stats_of(coverage->estimate, n).median,
        .error = stats_of(coverage->error, n).median,
    };
}
