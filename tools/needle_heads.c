// See needle_heads.h. The library tells means since the engine was opened; a length's own are found
// from those before it.

#include "tools/needle_heads.h"

#include <stdio.h>

#include "tools/block.h"
#include "tools/kv_report.h"
#include "tools/output.h"
#include "tools/say.h"

static int read_head(const struct needle_heads *heads, const struct rig *rig, uint32_t i,
                     struct fathom_head_stats *stats)
{
    fathom_head_stats_init(stats);
    return say_status(fathom_engine_head_stats(
        fathom_runner_engine(rig->runner), i / heads->n_kv_heads, i % heads->n_kv_heads, stats));
}

int needle_heads_take(struct needle_heads *heads, const struct rig *rig)
{
    *heads = (struct needle_heads){rig->info->n_layers, rig->info->n_kv_heads, NULL};
    const uint32_t n = heads->n_layers * heads->n_kv_heads;
    heads->stats = block_new(n, sizeof *heads->stats);
    if (heads->stats == NULL) return EXIT_BAD;
    for (uint32_t i = 0; i < n; i++)
        SAY_TRY(read_head(heads, rig, i, &heads->stats[i]));
    return EXIT_GOOD;
}

static void subtract(struct fathom_head_stats *s, const struct fathom_head_stats *since)
{
#define MEAN(member, n) s->member = kv_report_mean_since(s->member, s->n, since->member, since->n)
    MEAN(coverage_bound, n_covered);
    MEAN(coverage_estimate, n_covered);
    MEAN(verified_coverage, n_verified);
    MEAN(verified_error, n_verified);
#undef MEAN
    s->sealed_keys -= since->sealed_keys;
    s->picked_keys -= since->picked_keys;
    s->n_covered -= since->n_covered;
    s->n_verified -= since->n_verified;
}

int needle_heads_since(struct needle_heads *heads, const struct rig *rig)
{
    for (uint32_t i = 0; i < heads->n_layers * heads->n_kv_heads; i++) {
        struct fathom_head_stats now;
        SAY_TRY(read_head(heads, rig, i, &now));
        subtract(&now, &heads->stats[i]);
        heads->stats[i] = now;
    }
    return EXIT_GOOD;
}

void needle_heads_free(struct needle_heads *heads)
{
    block_free(heads->stats);
    *heads = (struct needle_heads){0};
}

uint64_t needle_heads_verified(const struct needle_heads *heads)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < heads->n_layers * heads->n_kv_heads; i++)
        n += heads->stats[i].n_verified;
    return n;
}

// ---- Results ------------------------------------------------------------------------------------

void needle_heads_print_header(void)
{
    printf("| %8s | %5s | %7s | %7s | %8s | %10s | %10s | %7s | %7s |\n", "tokens", "layer",
           "KV head", "samples", "picked %", "coverage %", "estimate %", "bound %", "error %");
    printf(
        "| -------: | ----: | ------: | ------: | -------: | ---------: | ---------: | ------: | "
        "------: |\n");
}

static void print_row(uint32_t n_tokens, const char *layer, const char *head,
                      const struct fathom_head_stats *s)
{
    printf("| %8u | %5s | %7s | %7llu |", n_tokens, layer, head, (unsigned long long)s->n_verified);
    if (s->n_verified == 0 || s->sealed_keys == 0) {
        printf(" %8s | %10s | %10s | %7s | %7s |\n", "-", "-", "-", "-", "-");
        return;
    }
    printf(" %8.2f | %10.2f | %10.2f | %7.2f | %7.2f |\n",
           100 * (double)s->picked_keys / (double)s->sealed_keys, 100 * s->verified_coverage,
           100 * s->coverage_estimate, 100 * s->coverage_bound, 100 * s->verified_error);
}

// Adds a head to the sums `all`, whose means are sums over n_verified until the end.
static void add_head(struct fathom_head_stats *all, const struct fathom_head_stats *s)
{
    all->sealed_keys += s->sealed_keys;
    all->picked_keys += s->picked_keys;
    all->n_verified += s->n_verified;
    all->verified_coverage += s->verified_coverage * (double)s->n_verified;
    all->verified_error += s->verified_error * (double)s->n_verified;
    all->n_covered += s->n_covered;
    all->coverage_estimate += s->coverage_estimate * (double)s->n_covered;
    all->coverage_bound += s->coverage_bound * (double)s->n_covered;
}

int needle_heads_print(const struct needle_heads *heads, uint32_t n_tokens)
{
    struct fathom_head_stats all = {0};
    for (uint32_t i = 0; i < heads->n_layers * heads->n_kv_heads; i++) {
        char layer[16], head[16];
        snprintf(layer, sizeof layer, "%u", i / heads->n_kv_heads);
        snprintf(head, sizeof head, "%u", i % heads->n_kv_heads);
        print_row(n_tokens, layer, head, &heads->stats[i]);
        add_head(&all, &heads->stats[i]);
    }
    if (all.n_verified > 0) {
        all.verified_coverage /= (double)all.n_verified;
        all.verified_error /= (double)all.n_verified;
    }
    if (all.n_covered > 0) {
        all.coverage_estimate /= (double)all.n_covered;
        all.coverage_bound /= (double)all.n_covered;
    }
    print_row(n_tokens, "all", "all", &all);
    return output_check();
}

static json_t *build_mean(double mean, uint64_t n)
{
    return n > 0 ? json_real(mean) : json_null();
}

json_t *needle_heads_json(const struct needle_heads *heads)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < heads->n_layers * heads->n_kv_heads; i++) {
        const struct fathom_head_stats *s = &heads->stats[i];
        json_array_append_new(
            rows,
            json_pack("{s:i, s:i, s:I, s:I, s:o, s:I, s:o, s:o, s:I, s:o, s:o}", "layer",
                      (int)(i / heads->n_kv_heads), "kv_head", (int)(i % heads->n_kv_heads),
                      "sealed_keys", (json_int_t)s->sealed_keys, "picked_keys",
                      (json_int_t)s->picked_keys, "picked_share",
                      build_mean((double)s->picked_keys / (double)s->sealed_keys, s->sealed_keys),
                      "n_covered", (json_int_t)s->n_covered, "coverage_bound",
                      build_mean(s->coverage_bound, s->n_covered), "coverage_estimate",
                      build_mean(s->coverage_estimate, s->n_covered), "n_verified",
                      (json_int_t)s->n_verified, "verified_coverage",
                      build_mean(s->verified_coverage, s->n_verified), "verified_error",
                      build_mean(s->verified_error, s->n_verified)));
    }
    return rows;
}
