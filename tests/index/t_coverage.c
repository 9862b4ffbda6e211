// The bound and the estimate of what was not picked, and the partial that stands in for it, against
// sums in double over all keys.

#include "tests/index/index_rig.h"

#include <math.h>
#include <string.h>

#include "fathom/device.h"
#include "src/base/mem.h"

enum { SEED = 51 };
static struct rig rig;

static void fill_query(struct rng *rng, const struct selector_params *p, float length, float *q)
{
    for (size_t i = 0; i < (size_t)p->n_kv_heads * p->group * p->d_k; i++)
        q[i] = rng_normal(rng) * length;
}

// One search with growing budgets; after each, every query head's rest is at most its bound.
static void check_bounds(struct rng *rng, float length, uint64_t *n_checked)
{
    const struct selector_params *p = &rig.params;
    const uint64_t n_rows = rig_count_rows(&rig);
    uint8_t *seen[RIG_HEADS];
    float *q;
    check_ok(mem_new((size_t)p->n_kv_heads * p->group * p->d_k, sizeof *q, "q", &q));
    fill_query(rng, p, length, q);
    rig_begin(&rig, q);
    for (uint32_t h = 0; h < p->n_kv_heads; h++)
        check_ok(mem_new(n_rows, 1, "seen", &seen[h]));
    for (int call = 0; call < 3; call++) {
        rig_pick(&rig, call * n_rows / 6);
        for (uint32_t h = 0; h < p->n_kv_heads; h++) {
            rig_mark(&rig, h, seen[h]);
            for (uint32_t g = 0; g < p->group; g++) {
                double rest, all;
                rig_masses(&rig, h, g, seen[h], &rest, &all);
                const float bound = rig.picked[h].rest_bound[g];
                if (!((double)bound >= rest))
                    fail_msg(
                        "bound %.9g below %.9g: kind %d, rank %d, q8 %d, stage 2 %u (rows %d), "
                        "d %u, call %d",
                        (double)bound, rest, (int)p->kind, (int)p->rank_by, p->index_q8,
                        p->stage2_bits, p->stage2_in_rows, p->d_k, call);
                (*n_checked)++;
            }
        }
    }
    for (uint32_t h = 0; h < p->n_kv_heads; h++)
        mem_free(seen[h]);
    mem_free(q);
}

static void test_bound_is_true(void **state)
{
    static const float lengths[] = {0, 1e-3f, 1, 4, 30};
    static const uint32_t isas[] = {0, FATHOM_ISA_AVX2, UINT32_MAX};
    struct rng rng;
    uint64_t n_checked = 0;
    (void)state;
    rng_init(&rng, SEED);
    for (int round = 0; round < 240; round++) {
        struct selector_params p =
            rig_params(1 + rng_below(&rng, 2), 1 + rng_below(&rng, 4), 1 + rng_below(&rng, 130));
        p.kind = round % (FATHOM_SELECTOR_FLAT + 1);
        p.rank_by = (int32_t)rng_below(&rng, 3);
        p.index_q8 = rng_below(&rng, 2) == 0;
        p.stage2_bits = 4 * rng_below(&rng, 3);
        p.stage2_in_rows = rng_below(&rng, 2) == 0;
        p.unit_tokens = rng_below(&rng, 3) == 0 ? 1 + rng_below(&rng, 40) : 0;
        p.estimate = rng_below(&rng, 2) == 0;
        rig_open(&rig, &p, isas[rng_below(&rng, 3)], 1);
        const uint32_t n_segments = 1 + rng_below(&rng, 3);
        for (uint32_t i = 0; i < n_segments; i++)
            rig_add(&rig, &rng, (enum rig_keys)(round / 4 % RIG_KINDS), 1 + rng_below(&rng, 200),
                    i % 2 == 0);
        for (uint32_t h = 0; h < p.n_kv_heads && round % 5 == 0; h++)
            rig.segments[h][n_segments - 1].n_visible /= 2;
        for (int i = 0; i < 5; i++)
            check_bounds(&rng, lengths[i], &n_checked);
        rig_close(&rig);
    }
    assert_true(n_checked > 10000);
}

// Two levels, with most units not scored.
static void test_bound_of_unscored(void **state)
{
    struct rng rng;
    uint64_t n_checked = 0;
    (void)state;
    rng_init(&rng, SEED);
    for (int stage2 = 0; stage2 < 2; stage2++) {
        struct selector_params p = rig_params(1, 2, 24);
        p.unit_tokens = 2;
        p.stage2_bits = stage2 ? 4 : 0;
        rig_open(&rig, &p, UINT32_MAX, 1);
        for (int i = 0; i < 6; i++)
            rig_add(&rig, &rng, RIG_LOOSE, 2000, false);
        for (int i = 0; i < 4; i++)
            check_bounds(&rng, 2, &n_checked);
        rig_close(&rig);
    }
}

// Keys in tight clusters and queries that want some of them: what the bound leaves is little.
static void test_bound_is_tight(void **state)
{
    enum { D = 64, ROWS = 2048 };
    struct rng rng;
    double least = 1;
    (void)state;
    for (int variant = 0; variant < 6; variant++) {
        struct selector_params p = rig_params(1, 1, D);
        p.index_q8 = variant % 2 == 0;
        p.rank_by = variant / 2;
        rng_init(&rng, SEED);
        rig_open(&rig, &p, UINT32_MAX, 1);
        for (int i = 0; i < 2; i++)
            rig_add(&rig, &rng, RIG_TIGHT, ROWS, true);
        uint8_t *seen;
        check_ok(mem_new(2 * ROWS, 1, "seen", &seen));
        for (int i = 0; i < 20; i++) {
            const float *key = rig.segments[0][i % 2].k + (size_t)rng_below(&rng, ROWS) * D;
            float q[D];
            double rest, all;
            for (uint32_t c = 0; c < D; c++)
                q[c] = 2 * key[c];
            memset(seen, 0, 2 * ROWS);
            rig_begin(&rig, q);
            rig_pick(&rig, 2 * ROWS / 10);
            rig_mark(&rig, 0, seen);
            rig_masses(&rig, 0, 0, seen, &rest, &all);
            const double picked = all + log1p(-exp(rest - all));
            const double bound = (double)rig.picked[0].rest_bound[0];
            const double estimate = (double)rig.picked[0].rest_estimate[0];
            least = fmin(least, 1 / (1 + exp(bound - picked)));
            assert_true(fabs(estimate - rest) < 0.1);
        }
        mem_free(seen);
        rig_close(&rig);
        if (!(least >= 0.9)) fail_msg("variant %d: coverage at least %.3f", variant, least);
    }
}

// The estimate on keys that are spread evenly about their representatives.
static void test_estimate_is_near(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int round = 0; round < 40; round++) {
        struct selector_params p = rig_params(1, 2, 64);
        p.stage2_bits = round % 2 ? 8 : 0;
        p.kind = round / 2 % 2 ? FATHOM_SELECTOR_BLOCK : FATHOM_SELECTOR_CLUSTER;
        p.unit_tokens = 32;
        rig_open(&rig, &p, UINT32_MAX, 1);
        // Consecutive keys are spread evenly when they are independent.
        rig_add(&rig, &rng, p.kind == FATHOM_SELECTOR_BLOCK ? RIG_NORMAL : RIG_LOOSE, 2048, true);
        rig_add(&rig, &rng, RIG_NORMAL, 1024, true);
        float q[128];
        uint8_t *seen;
        check_ok(mem_new(3072, 1, "seen", &seen));
        fill_query(&rng, &p, 1, q);
        rig_begin(&rig, q);
        rig_pick(&rig, 100);
        rig_mark(&rig, 0, seen);
        for (uint32_t g = 0; g < 2; g++) {
            double rest, all;
            rig_masses(&rig, 0, g, seen, &rest, &all);
            const double off = (double)rig.picked[0].rest_estimate[g] - rest;
            if (!(fabs(off) < 0.5)) fail_msg("round %d: off by %.3f", round, off);
        }
        mem_free(seen);
        rig_close(&rig);
    }
}

// Nor is it far above where queries are long and want few of the keys.
static void test_estimate_is_not_above(void **state)
{
    static const float lengths[] = {1, 4, 16};
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int round = 0; round < 60; round++) {
        struct selector_params p = rig_params(1, 2, 64);
        p.kind = round / 3 % 2 ? FATHOM_SELECTOR_CHUNK : FATHOM_SELECTOR_CLUSTER;
        p.unit_tokens = 16;
        p.estimate = true;
        rig_open(&rig, &p, UINT32_MAX, 1);
        rig_add(&rig, &rng, RIG_LOOSE, 2048, true);
        float q[128], o[128], lse[2];
        static uint8_t seen[2048];
        memset(seen, 0, sizeof seen);
        fill_query(&rng, &p, lengths[round % 3], q);
        rig_begin(&rig, q);
        rig_pick(&rig, 100);
        rig_mark(&rig, 0, seen);
        selector_ops.estimate(rig.search, o, lse);
        for (uint32_t g = 0; g < 2; g++) {
            double rest, all;
            rig_masses(&rig, 0, g, seen, &rest, &all);
            const double about = fmax((double)rig.picked[0].rest_estimate[g], (double)lse[g]);
            if (!(about - rest < 1)) fail_msg("round %d: above by %.3f", round, about - rest);
        }
        rig_close(&rig);
    }
}

// ---- Stand-in for attention ---------------------------------------------------------------------

// What rows begin .. end - 1 of a segment that are not marked weigh, for their mean value.
static double add_unit(uint32_t s, uint32_t begin, uint32_t end, const uint8_t *seen, double lse,
                       double *o)
{
    const uint32_t d_v = rig.params.d_v;
    double weight = 0;
    for (uint32_t row = begin; row < end; row++)
        if (!seen[row] && rig_visible(&rig, 0, s, row))
            weight += exp(rig_score(&rig, 0, 0, s, row) - lse);
    for (uint32_t row = begin; row < end; row++)
        for (uint32_t c = 0; c < d_v; c++)
            o[c] += weight / (end - begin) * (double)rig.segments[0][s].v[(size_t)row * d_v + c];
    return weight;
}

// Attention over the rows that are not marked, each with its unit's mean value, in double.
static void attend_rest(const uint8_t *seen, double *o, double *lse)
{
    double all, sum = 0;
    rig_masses(&rig, 0, 0, seen, lse, &all);
    for (uint32_t c = 0; c < rig.params.d_v; c++)
        o[c] = 0;
    for (uint32_t s = 0; s < rig.n_segments; s++) {
        const void *index = rig.segments[0][s].index;
        const uint32_t *begin = selector_ops.unit_begins(index);
        for (uint32_t u = 0; u < selector_ops.n_units(index); u++)
            sum += add_unit(s, begin[u], begin[u + 1], seen, *lse, o);
        seen += rig.segments[0][s].n_rows;
    }
    assert_true(sum == 0 || fabs(sum - 1) < 1e-6);
}

// The stand-in is the attention over all rows that were not picked, none with a masked segment:
// where the second stage scores all tokens, and where keys nearly equal their representatives.
static void test_stand_in(void **state)
{
    enum { D = 32 };
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int round = 0; round < 30; round++) {
        struct selector_params p = rig_params(1, 1, D);
        p.estimate = true;
        p.index_q8 = false;
        p.d_v = 20;
        p.unit_tokens = 4;
        p.kind = round % 2 ? FATHOM_SELECTOR_FLAT : FATHOM_SELECTOR_CLUSTER;
        p.stage2_bits = round / 2 % 2 ? 8 : 0;
        const enum rig_keys keys = p.stage2_bits > 0 ? RIG_LOOSE : RIG_TIGHT;
        rig_open(&rig, &p, UINT32_MAX, 1);
        rig_add(&rig, &rng, keys, 300, true);
        rig_add(&rig, &rng, keys, 700, true);
        const bool masked = round % 3 == 2;
        if (masked) rig.segments[0][1].n_visible = 500;
        uint8_t *seen;
        float q[D], o[20], lse;
        double o_true[20], lse_true;
        check_ok(mem_new(1000, 1, "seen", &seen));
        fill_query(&rng, &p, 1, q);
        rig_begin(&rig, q);
        rig_pick(&rig, 64);
        rig_mark(&rig, 0, seen);
        for (uint32_t row = 0; row < 700 && masked; row++)
            seen[300 + row] = 1; // is left out
        attend_rest(seen, o_true, &lse_true);
        selector_ops.estimate(rig.search, o, &lse);
        if (!(fabs((double)lse - lse_true) < 0.02))
            fail_msg("round %d: %.4f, not %.4f", round, (double)lse, lse_true);
        for (uint32_t c = 0; c < 20; c++)
            assert_true(fabs((double)o[c] - o_true[c]) < 0.02);
        rig_pick(&rig, UINT64_MAX);
        selector_ops.estimate(rig.search, o, &lse);
        assert_true(lse == -INFINITY && o[0] == 0);
        mem_free(seen);
        rig_close(&rig);
    }
}

// Takes every second unit of the last pick back, and its rows out of `seen`.
static void leave_half(uint8_t *seen)
{
    static struct left_unit units[1000];
    const struct selection *picked = &rig.picked[0];
    uint32_t n = 0, n_units = 0;
    bool leaves = false;
    for (uint32_t i = 0; i < picked->n_runs; i++) {
        const struct picked_run *run = &picked->runs[i];
        if (i == 0 || run->segment != run[-1].segment || run->unit != run[-1].unit) {
            leaves = n_units++ % 2 == 0;
            if (leaves) units[n++] = (struct left_unit){0, run->segment, run->unit};
        }
        if (leaves) memset(seen + run->segment * 300 + run->row, 0, run->n_rows);
    }
    assert_true(n > 0 && n < n_units);
    selector_ops.leave(rig.search, units, n);
}

// Masked segments are left out and, without a second stage, units with rows that were seen.
static void see_left_out(uint8_t *seen, bool masked)
{
    for (uint32_t s = 0; s < rig.n_segments; s++) {
        const void *index = rig.segments[0][s].index;
        const uint32_t *begin = selector_ops.unit_begins(index);
        for (uint32_t u = 0; u < selector_ops.n_units(index); u++) {
            uint8_t *rows = seen + s * 300 + begin[u];
            const uint32_t n = begin[u + 1] - begin[u];
            if ((masked && s == 1) || (rig.params.stage2_bits == 0 && memchr(rows, 1, n) != NULL))
                memset(rows, 1, n);
        }
    }
}

// What was picked but not read is bounded, estimated and stood in for like what was not picked.
static void test_left(void **state)
{
    enum { D = 32 };
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int round = 0; round < 48; round++) {
        struct selector_params p = rig_params(1, 1, D);
        p.estimate = true;
        p.index_q8 = false;
        p.d_v = 20;
        p.unit_tokens = 4;
        p.kind = round % 4;
        p.stage2_bits = round / 4 % 2 ? 8 : 0;
        const bool masked = round % 3 == 2;
        uint8_t seen[1000] = {0};
        float q[D], o[20], lse;
        double o_true[20], lse_true, rest, all;
        rig_open(&rig, &p, UINT32_MAX, 1);
        rig_add(&rig, &rng, RIG_TIGHT, 300, true);
        rig_add(&rig, &rng, RIG_TIGHT, 700, true);
        if (masked) rig.segments[0][1].n_visible = 500;
        fill_query(&rng, &p, 1, q);
        rig_begin(&rig, q);
        for (int pick = 0; pick <= round % 2; pick++) {
            rig_pick(&rig, 66 + 66 * pick);
            rig_mark(&rig, 0, seen);
        }
        leave_half(seen);
        rig_masses(&rig, 0, 0, seen, &rest, &all);
        assert_true((double)rig.picked[0].rest_bound[0] >= rest);
        const bool tight = p.kind == FATHOM_SELECTOR_CLUSTER || p.kind == FATHOM_SELECTOR_FLAT ||
                           p.stage2_bits > 0;
        assert_true(!tight || fabs((double)rig.picked[0].rest_estimate[0] - rest) < 0.05);
        see_left_out(seen, masked);
        attend_rest(seen, o_true, &lse_true);
        selector_ops.estimate(rig.search, o, &lse);
        if (tight && !(fabs((double)lse - lse_true) < 0.05))
            fail_msg("round %d: %.4f, not %.4f", round, (double)lse, lse_true);
        for (uint32_t c = 0; c < 20 && tight; c++)
            assert_true(fabs((double)o[c] - o_true[c]) < 0.05);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound_is_true),
        cmocka_unit_test(test_bound_of_unscored),
        cmocka_unit_test(test_bound_is_tight),
        cmocka_unit_test(test_estimate_is_near),
        cmocka_unit_test(test_estimate_is_not_above),
        cmocka_unit_test(test_stand_in),
        cmocka_unit_test(test_left),
    };
    return check_run("t_coverage", tests, sizeof tests / sizeof tests[0]);
}
