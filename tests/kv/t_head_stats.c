// What an engine tells of single KV heads: each head's own figures, which together are the
// engine's; and exact attention for a while, which they do not count.

#include "tests/kv/kv_rig.h"

#include <math.h>

enum {
    SEED = 20261129,
    N_LAYERS = 3, // the first reads everything
    N_HEADS = 4,
    N_KV_HEADS = 2,
    GROUP = N_HEADS / N_KV_HEADS,
    D = 16,
    N_STEP = 64,
    N_FILLED = 320,
    N_DECODED = 6,
    ROW_BYTES = 2 * D * 2, // of a key and a value, f16
};

struct rig {
    fathom_device *device;
    fathom_engine *engine;
    struct fathom_seq seq;
    float k[N_LAYERS][N_STEP * N_KV_HEADS * D], v[N_LAYERS][N_STEP * N_KV_HEADS * D];
    float q[N_LAYERS][N_STEP * N_HEADS * D], out[N_LAYERS][N_STEP * N_HEADS * D];
    struct rng rng;
};

static void fill_step(struct rig *rig, uint32_t n)
{
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        rig_fill(&rig->rng, rig->k[layer], n * N_KV_HEADS * D);
        rig_fill(&rig->rng, rig->v[layer], n * N_KV_HEADS * D);
        rig_fill(&rig->rng, rig->q[layer], n * N_HEADS * D);
    }
}

// Leaves the step open.
static void attend_step(struct rig *rig, uint32_t n)
{
    check_ok(fathom_step_begin(rig->engine, rig->seq, n));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        check_ok(fathom_append(rig->engine, rig->seq, layer, rig->k[layer], rig->v[layer]));
        check_ok(fathom_attend(rig->engine, rig->seq, layer, rig->q[layer], rig->out[layer]));
    }
}

// Layer 1: a head of 12 keys, and one that picks everything; layer 2: 20 keys each.
static void open_rig(struct rig *rig)
{
    static const uint64_t budgets[N_LAYERS * N_KV_HEADS] = {9, 9, 12, UINT64_MAX, 20, 20};
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_KV_HEADS, D, 512, N_STEP});
    p.kv.mode = FATHOM_KV_SPARSE;
    p.kv.n_sink = 4;
    p.kv.n_window = 16;
    p.kv.n_segment = 32;
    p.kv.n_merged = 64;
    p.kv.n_dense_layers = 1;
    p.kv.head_budgets = budgets;
    p.kv.verify_share = 1.0f;
    rig_open(&p, &rig->device, &rig->engine);
    check_ok(fathom_seq_create(rig->engine, &rig->seq));
    rng_init(&rig->rng, SEED);
    for (uint32_t n = 0; n < N_FILLED; n += N_STEP) {
        fill_step(rig, N_STEP);
        attend_step(rig, N_STEP);
        check_ok(fathom_step_end(rig->engine, rig->seq));
    }
}

static struct fathom_head_stats head_stats(const struct rig *rig, uint32_t layer, uint32_t kv_head)
{
    struct fathom_head_stats stats;
    fathom_head_stats_init(&stats);
    check_ok(fathom_engine_head_stats(rig->engine, layer, kv_head, &stats));
    return stats;
}

// |out - exact| / |exact|, mean over a KV head's query heads.
static double error_of(const float *out, const float *exact, uint32_t kv_head)
{
    double sum = 0.0;
    for (uint32_t h = kv_head * GROUP; h < (kv_head + 1) * GROUP; h++) {
        double off = 0.0, norm = 0.0;
        for (uint32_t i = h * D; i < (h + 1) * D; i++) {
            off += ((double)out[i] - (double)exact[i]) * ((double)out[i] - (double)exact[i]);
            norm += (double)exact[i] * (double)exact[i];
        }
        sum += sqrt(off / norm) / GROUP;
    }
    return sum;
}

// Decodes, and adds up the errors of each head against exact attention to the same.
static void decode(struct rig *rig, double errors[N_LAYERS][N_KV_HEADS])
{
    static float picked[N_LAYERS][N_HEADS * D];
    for (uint32_t i = 0; i < N_DECODED; i++) {
        fill_step(rig, 1);
        attend_step(rig, 1);
        for (uint32_t layer = 0; layer < N_LAYERS; layer++)
            memcpy(picked[layer], rig->out[layer], sizeof picked[layer]);
        fathom_step_cancel(rig->engine, rig->seq);
        check_ok(fathom_engine_set_exact(rig->engine, true));
        attend_step(rig, 1);
        check_ok(fathom_engine_set_exact(rig->engine, false));
        check_ok(fathom_step_end(rig->engine, rig->seq));
        for (uint32_t layer = 0; layer < N_LAYERS; layer++)
            for (uint32_t h = 0; h < N_KV_HEADS; h++)
                errors[layer][h] += error_of(picked[layer], rig->out[layer], h);
    }
}

static void each_head(void **state)
{
    static const double picked[N_LAYERS][N_KV_HEADS] = {{0, 0}, {12, 0}, {20, 20}};
    static struct rig rig;
    double errors[N_LAYERS][N_KV_HEADS] = {0};
    (void)state;
    open_rig(&rig);
    decode(&rig, errors);
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        for (uint32_t h = 0; h < N_KV_HEADS; h++) {
            const struct fathom_head_stats s = head_stats(&rig, layer, h);
            const uint64_t n = layer == 0 ? 0 : N_DECODED; // exact steps do not count
            const bool everything = layer == 1 && h == 1;
            assert_int_equal(s.n_verified, n);
            assert_int_equal(s.n_covered, n);
            assert_int_equal(s.sealed_keys > 0, n > 0);
            if (everything) assert_int_equal(s.picked_keys, s.sealed_keys);
            if (!everything) assert_true((double)s.picked_keys == picked[layer][h] * (double)n);
            if (n == 0) continue;
            assert_true(fabs(s.verified_error - errors[layer][h] / N_DECODED) < 1e-5);
            assert_int_equal(s.verified_error > 0.05, !everything);
            assert_int_equal(s.verified_coverage < 0.95, !everything);
            assert_true(s.verified_coverage < 1 + 1e-5);
            assert_true(s.coverage_bound <= s.verified_coverage + 1e-5);
            assert_int_equal(s.coverage_estimate < 0.95, !everything);
        }
    rig_close(&rig.device, &rig.engine);
}

static void all_heads(void **state)
{
    static struct rig rig;
    double errors[N_LAYERS][N_KV_HEADS] = {0}, coverage = 0, error = 0, bound = 0, estimate = 0;
    uint64_t picked = 0, sealed = 0;
    (void)state;
    open_rig(&rig);
    decode(&rig, errors);
    for (uint32_t layer = 1; layer < N_LAYERS; layer++)
        for (uint32_t h = 0; h < N_KV_HEADS; h++) {
            const struct fathom_head_stats s = head_stats(&rig, layer, h);
            coverage += s.verified_coverage / 4;
            error += s.verified_error / 4;
            bound += s.coverage_bound / 4;
            estimate += s.coverage_estimate / 4;
            picked += s.picked_keys;
            sealed += s.sealed_keys;
        }
    const struct fathom_kv_stats all = rig_stats(rig.engine);
    assert_int_equal(all.n_verified, 2 * N_DECODED);
    assert_int_equal(all.n_covered, 2 * N_DECODED);
    assert_int_equal(all.n_steps_picked, 2 * N_DECODED);
    assert_int_equal(all.n_steps, 2 * N_DECODED * N_LAYERS);
    assert_int_equal(all.picked_keys, picked);
    assert_int_equal(all.sealed_keys, sealed);
    // Of six layers a step, with its exact repetition, two pick; verifying does not count.
    assert_int_equal(all.read_bytes,
                     ROW_BYTES * (all.tail_keys + picked + 2 * sealed) + all.scanned_bytes);
    assert_true(fabs(all.verified_coverage - coverage) < 1e-12);
    assert_true(fabs(all.verified_error - error) < 1e-12);
    assert_true(fabs(all.coverage_bound - bound) < 1e-12);
    assert_true(fabs(all.coverage_estimate - estimate) < 1e-12);
    rig_close(&rig.device, &rig.engine);
}

static void refuses(void **state)
{
    static struct rig rig;
    struct fathom_head_stats stats;
    (void)state;
    open_rig(&rig);
    fathom_head_stats_init(&stats);
    check_error(fathom_engine_head_stats(rig.engine, N_LAYERS, 0, &stats), FATHOM_EINVAL,
                "layer=3: must be 0 to 2");
    check_error(fathom_engine_head_stats(rig.engine, 0, N_KV_HEADS, &stats), FATHOM_EINVAL,
                "kv_head=2: must be 0 to 1");
    assert_int_equal(fathom_engine_head_stats(NULL, 0, 0, &stats), FATHOM_EINVAL);
    assert_int_equal(fathom_engine_set_exact(NULL, true), FATHOM_EINVAL);
    stats.struct_bytes = 4;
    check_error(fathom_engine_head_stats(rig.engine, 0, 0, &stats), FATHOM_EINVAL,
                "fathom_head_stats_init");
    rig_close(&rig.device, &rig.engine);
}

static void dense(void **state)
{
    static struct rig rig;
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_KV_HEADS, D, 512, N_STEP});
    (void)state;
    p.kv.mode = FATHOM_KV_DENSE;
    rig_open(&p, &rig.device, &rig.engine);
    check_ok(fathom_engine_set_exact(rig.engine, true));
    assert_int_equal(head_stats(&rig, 1, 1).n_verified, 0);
    rig_close(&rig.device, &rig.engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_head),
        cmocka_unit_test(all_heads),
        cmocka_unit_test(refuses),
        cmocka_unit_test(dense),
    };
    printf("seed %d\n", SEED);
    return check_run("head stats", tests, sizeof tests / sizeof *tests);
}
