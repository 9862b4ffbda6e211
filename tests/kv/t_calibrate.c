// The calibrated threshold: heads of one engine whose keys lie in topics, and whose queries are as
// sharp as their layer and head say, pick their budget on average, but not alike.

#include "tests/kv/kv_rig.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"

enum {
    SEED = 20261129,
    N_LAYERS = 2,
    N_HEADS = 4,
    N_KV_HEADS = 2,
    D = 32,
    TOPIC = 24, // tokens
    N_TOKENS = 3000,
    N_PREFILLED = 1600,
    N_STEP = 32,
};
static const double BUDGET = 0.05;

struct cache {
    struct rng rng;
    fathom_device *device;
    fathom_engine *engine;
    float *centres; // [N_TOKENS / TOPIC + 1, D]
    float k[N_STEP * N_KV_HEADS * D], v[N_STEP * N_KV_HEADS * D];
    float q[N_STEP * N_HEADS * D], out[N_STEP * N_HEADS * D];
};

static struct fathom_engine_params base_params(void)
{
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_KV_HEADS, D, N_TOKENS, N_STEP});
    p.n_seqs_max = 3;
    p.kv.mode = FATHOM_KV_SPARSE;
    p.kv.n_sink = 8;
    p.kv.n_window = 32;
    p.kv.n_segment = 64;
    p.kv.n_merged = 512;
    p.kv.budget_share = (float)BUDGET;
    p.kv.threshold_auto = true;
    return p;
}

static void open_cache(struct cache *c, const struct fathom_engine_params *p)
{
    memset(c, 0, sizeof *c);
    rng_init(&c->rng, SEED);
    rig_open(p, &c->device, &c->engine);
    c->centres = rig_values(&c->rng, (N_TOKENS / TOPIC + 1) * D);
}

static void close_cache(struct cache *c)
{
    rig_close(&c->device, &c->engine);
    mem_free(c->centres);
}

// Keys about their topic's centre; queries towards a topic, layer 1's three times as sharp.
static void fill(struct cache *c, uint32_t token, uint32_t n, uint32_t layer)
{
    const float strength = layer == 0 ? 0.7f : 2.1f;
    for (uint32_t t = 0; t < n; t++) {
        const float *own = c->centres + (token + t) / TOPIC * D;
        const float *other = c->centres + rng_below(&c->rng, (token + t) / TOPIC + 1) * D;
        for (uint32_t i = 0; i < N_KV_HEADS * D; i++) {
            c->k[t * N_KV_HEADS * D + i] = own[i % D] + 0.5f * rng_normal(&c->rng);
            c->v[t * N_KV_HEADS * D + i] = rng_normal(&c->rng);
        }
        for (uint32_t i = 0; i < N_HEADS * D; i++)
            c->q[t * N_HEADS * D + i] = strength * (other[i % D] + 0.5f * rng_normal(&c->rng));
    }
}

// Shares of the sealed rows that the attends of one layer picked.
struct shares {
    double sum, least, most;
    uint32_t n;
};

static void add_share(struct shares *s, double share)
{
    s->sum += share;
    s->least = s->n == 0 ? share : fmin(s->least, share);
    s->most = fmax(s->most, share);
    s->n++;
}

// A step of n tokens; `sum` adds up the output's bits.
static void step(struct cache *c, struct fathom_seq seq, uint32_t n, struct shares *shares,
                 uint64_t *sum)
{
    uint32_t token;
    check_ok(fathom_seq_count(c->engine, seq, &token));
    check_ok(fathom_step_begin(c->engine, seq, n));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        const struct fathom_kv_stats before = rig_stats(c->engine);
        fill(c, token, n, layer);
        check_ok(fathom_append(c->engine, seq, layer, c->k, c->v));
        check_ok(fathom_attend(c->engine, seq, layer, c->q, c->out));
        const struct fathom_kv_stats after = rig_stats(c->engine);
        for (size_t i = 0; i < (size_t)n * N_HEADS * D; i++) {
            uint32_t bits;
            memcpy(&bits, &c->out[i], sizeof bits);
            *sum = *sum * 31 + bits;
        }
        if (shares != NULL)
            add_share(&shares[layer], (double)(after.picked_keys - before.picked_keys) /
                                          (double)(after.sealed_keys - before.sealed_keys));
    }
    check_ok(fathom_step_end(c->engine, seq));
}

static uint64_t prefill(struct cache *c, struct fathom_seq seq)
{
    uint64_t sum = 0;
    for (uint32_t n = 0; n < N_PREFILLED; n += N_STEP)
        step(c, seq, N_STEP, NULL, &sum);
    return sum;
}

// ---- Tests --------------------------------------------------------------------------------------

static const char *const selectors[] = {"cluster", "chunk", "block", "flat"};

// What 100 steps after a prefill pick, by layer.
static struct fathom_kv_stats decode(const struct fathom_engine_params *p, struct shares *shares)
{
    struct cache c;
    struct fathom_seq seq;
    uint64_t sum = 0;
    open_cache(&c, p);
    check_ok(fathom_seq_create(c.engine, &seq));
    prefill(&c, seq);
    assert_int_equal(rig_stats(c.engine).n_calibrations, 0);
    for (uint32_t n = 0; n < 100; n++)
        step(&c, seq, 1, shares, &sum);
    const struct fathom_kv_stats stats = rig_stats(c.engine);
    close_cache(&c);
    return stats;
}

static double mean_of(const struct shares *shares)
{
    return (shares[0].sum + shares[1].sum) / (shares[0].n + shares[1].n);
}

// Compared with the best of the budget, which has the same outliers of chunks in it.
static void picks_the_budget(void **state)
{
    (void)state;
    for (int32_t i = 0; i < 4 * 2; i++) {
        if (check_few() && i / 4 != i % 2) continue; // each selector, each second stage
        struct fathom_engine_params p = base_params();
        struct shares plain[N_LAYERS] = {{0}}, own[N_LAYERS] = {{0}};
        p.kv.selector = i % 4;
        p.kv.stage2_bits = i < 4 ? 4 : 0;
        p.kv.n_unit = p.kv.selector == FATHOM_SELECTOR_BLOCK ? TOPIC : 0;
        p.kv.threshold_auto = false;
        assert_int_equal(decode(&p, plain).n_calibrations, 0);
        p.kv.threshold_auto = true;
        const struct fathom_kv_stats stats = decode(&p, own);
        printf("%s, stage 2 %d: picked %.4f, best of budget %.4f; layer 0 %.4f (%.4f to %.4f), "
               "layer 1 %.4f (%.4f to %.4f); threshold %.2e, %.2f ms\n",
               selectors[i % 4], p.kv.stage2_bits, mean_of(own), mean_of(plain),
               own[0].sum / own[0].n, own[0].least, own[0].most, own[1].sum / own[1].n,
               own[1].least, own[1].most, stats.threshold, stats.calibrate_s * 1e3);
        assert_int_equal(stats.n_calibrations, 1); // 50 samples were there
        assert_true(stats.calibrate_s > 0.0 && stats.threshold > 0.0);
        assert_true(fabs(mean_of(own) - mean_of(plain)) < 0.2 * BUDGET);
        // The layer of flat attention asks for more keys than the sharp one.
        assert_true(own[0].sum > 1.2 * own[1].sum);
        // But for outliers and a last unit, within the floor and the ceiling.
        assert_true(own[0].most < 4 * BUDGET + 0.03 && own[1].least > BUDGET / 8 - 0.001);
    }
}

// Anew after few samples, after a prefill, after half as many rows again, and after a truncation.
static void calibrates_when_due(void **state)
{
    struct fathom_engine_params p = base_params();
    struct cache c;
    struct fathom_seq seq;
    uint64_t sum = 0;
    (void)state;
    open_cache(&c, &p);
    check_ok(fathom_seq_create(c.engine, &seq));
    for (uint32_t n = 0; n < 4 * N_STEP; n += N_STEP)
        step(&c, seq, N_STEP, NULL, &sum); // 4 samples; 64 rows are sealed
    step(&c, seq, 1, NULL, &sum);
    assert_int_equal(rig_stats(c.engine).n_calibrations, 1);
    for (uint32_t n = 0; n < 26; n++)
        step(&c, seq, 1, NULL, &sum);
    assert_int_equal(rig_stats(c.engine).n_calibrations, 1);
    for (uint32_t n = 0; n < 2; n++)
        step(&c, seq, 1, NULL, &sum); // the 33rd
    assert_int_equal(rig_stats(c.engine).n_calibrations, 2);
    const uint64_t before = rig_stats(c.engine).n_calibrations;
    for (uint32_t n = 0; n < 64; n++)
        step(&c, seq, 1, NULL, &sum); // 64 rows more: twice as many
    assert_int_equal(rig_stats(c.engine).n_calibrations, before + 1);
    for (uint32_t n = 0; n < 1024; n += N_STEP)
        step(&c, seq, N_STEP, NULL, &sum);
    assert_int_equal(rig_stats(c.engine).n_calibrations, before + 1);
    step(&c, seq, 1, NULL, &sum);
    step(&c, seq, 1, NULL, &sum);
    assert_int_equal(rig_stats(c.engine).n_calibrations, before + 2);
    check_ok(fathom_seq_truncate(c.engine, seq, 600));
    step(&c, seq, 1, NULL, &sum);
    assert_int_equal(rig_stats(c.engine).n_calibrations, before + 3);
    check_ok(fathom_seq_truncate(c.engine, seq, 4)); // nothing is sealed any more
    step(&c, seq, 1, NULL, &sum);
    assert_int_equal(rig_stats(c.engine).n_calibrations, before + 3);
    close_cache(&c);
}

// Forks go on with the threshold that they took along.
static void forks_alike(void **state)
{
    struct fathom_engine_params p = base_params();
    struct cache c;
    struct fathom_seq seq, forks[2];
    uint64_t sum = 0, sums[2] = {0};
    (void)state;
    open_cache(&c, &p);
    check_ok(fathom_seq_create(c.engine, &seq));
    prefill(&c, seq);
    step(&c, seq, 1, NULL, &sum);
    check_ok(fathom_seq_fork(c.engine, seq, &forks[0]));
    check_ok(fathom_seq_fork(c.engine, seq, &forks[1]));
    const struct rng rng = c.rng;
    for (int i = 0; i < 2; i++) {
        c.rng = rng;
        for (uint32_t n = 0; n < 80; n++)
            step(&c, forks[i], 1, NULL, &sums[i]);
    }
    assert_int_equal(sums[0], sums[1]);
    assert_int_equal(rig_stats(c.engine).n_calibrations, 1);
    close_cache(&c);
}

// Coverage that is asked for goes beyond the threshold; budgets of everything read everything.
static void gives_way(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    for (int32_t i = 0; i < 3; i++) {
        struct cache c;
        struct fathom_seq seq;
        struct shares shares[N_LAYERS] = {{0}};
        uint64_t sum = 0;
        p.kv.coverage = i < 2 ? 0.98f : 0.0f;
        p.kv.threshold_auto = i != 1;
        p.kv.threshold = i == 1 ? 0.01f : 0.0f;
        p.kv.budget_share = i < 2 ? (float)BUDGET : 1.0f;
        open_cache(&c, &p);
        check_ok(fathom_seq_create(c.engine, &seq));
        prefill(&c, seq);
        for (uint32_t n = 0; n < 20; n++)
            step(&c, seq, 1, shares, &sum);
        const struct fathom_kv_stats stats = rig_stats(c.engine);
        if (i < 2) assert_true(stats.coverage_estimate >= 0.98 && stats.n_rounds > stats.n_steps);
        if (i == 2) assert_true(shares[0].least == 1.0 && shares[1].least == 1.0);
        close_cache(&c);
    }
}

static void refuses_both(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    p.kv.threshold = 0.01f;
    rig_refuses(&p, "kv.threshold_auto");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(picks_the_budget), cmocka_unit_test(calibrates_when_due),
        cmocka_unit_test(forks_alike),      cmocka_unit_test(gives_way),
        cmocka_unit_test(refuses_both),
    };
    printf("seed %d\n", SEED);
    return check_run("calibrate", tests, sizeof tests / sizeof *tests);
}
