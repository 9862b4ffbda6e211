// Budgets of an open engine: what is set is picked, by the layer and head that were named.

#include "tests/kv/kv_rig.h"

#include <string.h>

enum { SEED = 20261124, N_LAYERS = 2, N_HEADS = 2, D = 16, N_STEP = 64, N_SEALED = 288 };

struct rig {
    fathom_device *device;
    fathom_engine *engine;
    struct fathom_seq seq;
    struct rng rng;
};

static void open_rig(struct rig *rig, int32_t mode, bool calibrates, const uint64_t *head_budgets)
{
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_HEADS, D, 512, N_STEP});
    p.kv.mode = mode;
    p.kv.selector = FATHOM_SELECTOR_FLAT;
    p.kv.n_sink = 0;
    p.kv.n_window = 16;
    p.kv.n_segment = 32;
    p.kv.n_merged = 64;
    p.kv.budget_tokens = 10;
    p.kv.head_budgets = head_budgets;
    p.kv.threshold_auto = calibrates;
    rig_open(&p, &rig->device, &rig->engine);
    check_ok(fathom_seq_create(rig->engine, &rig->seq));
    rng_init(&rig->rng, SEED);
}

// Keys that each layer's heads picked in a step of n tokens.
static void step(struct rig *rig, uint32_t n, uint64_t picked[N_LAYERS])
{
    static float k[N_STEP * N_HEADS * D], v[N_STEP * N_HEADS * D], out[N_STEP * N_HEADS * D];
    check_ok(fathom_step_begin(rig->engine, rig->seq, n));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        const uint64_t before = rig_stats(rig->engine).picked_keys;
        rig_fill(&rig->rng, k, sizeof k / sizeof *k);
        rig_fill(&rig->rng, v, sizeof v / sizeof *v);
        check_ok(fathom_append(rig->engine, rig->seq, layer, k, v));
        check_ok(fathom_attend(rig->engine, rig->seq, layer, v, out));
        picked[layer] = rig_stats(rig->engine).picked_keys - before;
    }
    check_ok(fathom_step_end(rig->engine, rig->seq));
}

static void check_picks(struct rig *rig, uint64_t first, uint64_t second)
{
    uint64_t picked[N_LAYERS];
    step(rig, 1, picked);
    assert_int_equal(picked[0], first);
    assert_int_equal(picked[1], second);
}

// So that N_SEALED tokens are sealed, and stay so for the steps of a test.
static void fill(struct rig *rig)
{
    uint64_t picked[N_LAYERS];
    for (uint32_t n = 0; n < N_SEALED + 32; n += N_STEP)
        step(rig, N_STEP, picked);
    check_ok(fathom_engine_set_budget(rig->engine, -1, -1, 0, 1.0f));
    check_picks(rig, N_SEALED * N_HEADS, N_SEALED * N_HEADS);
}

static void sets(void **state)
{
    struct rig rig;
    (void)state;
    open_rig(&rig, FATHOM_KV_SPARSE, false, NULL);
    fill(&rig);
    check_ok(fathom_engine_set_budget(rig.engine, -1, -1, 10, 0.0f));
    check_picks(&rig, 20, 20);
    check_ok(fathom_engine_set_budget(rig.engine, 1, -1, 30, 1.0f)); // tokens go first
    check_picks(&rig, 20, 60);
    check_ok(fathom_engine_set_budget(rig.engine, -1, 0, 0, 0.125f));
    check_picks(&rig, 10 + N_SEALED / 8, 30 + N_SEALED / 8);
    check_ok(fathom_engine_set_budget(rig.engine, 0, 1, 0, 0.0f));
    check_picks(&rig, N_SEALED / 8, 30 + N_SEALED / 8);
    rig_close(&rig.device, &rig.engine);
}

static void opens_with(void **state)
{
    static const uint64_t of_heads[N_LAYERS * N_HEADS] = {5, 6, 7, 8};
    struct rig rig;
    uint64_t picked[N_LAYERS];
    (void)state;
    open_rig(&rig, FATHOM_KV_SPARSE, false, of_heads);
    for (int i = 0; i < 5; i++)
        step(&rig, N_STEP, picked);
    check_picks(&rig, 11, 15);
    check_ok(fathom_engine_set_budget(rig.engine, 1, 1, 9, 0.0f));
    check_picks(&rig, 11, 16);
    rig_close(&rig.device, &rig.engine);
}

// A threshold was calibrated to the budgets that there were.
static void recalibrates(void **state)
{
    struct rig rig;
    uint64_t picked[N_LAYERS];
    (void)state;
    open_rig(&rig, FATHOM_KV_SPARSE, true, NULL);
    fill(&rig);
    check_ok(fathom_engine_set_budget(rig.engine, -1, -1, 10, 0.0f));
    step(&rig, 1, picked);
    const struct fathom_kv_stats before = rig_stats(rig.engine);
    step(&rig, 1, picked);
    check_ok(fathom_engine_set_budget(rig.engine, 1, 0, 20, 0.0f));
    step(&rig, 1, picked);
    const struct fathom_kv_stats after = rig_stats(rig.engine);
    assert_int_equal(after.n_calibrations, before.n_calibrations + 1);
    assert_true(after.threshold < before.threshold);
    rig_close(&rig.device, &rig.engine);
}

static void check_refused(struct rig *rig, int32_t layer, int32_t kv_head, float share,
                          const char *word)
{
    check_error(fathom_engine_set_budget(rig->engine, layer, kv_head, 0, share), FATHOM_EINVAL,
                word);
}

static void refuses(void **state)
{
    struct rig rig;
    (void)state;
    open_rig(&rig, FATHOM_KV_SPARSE, false, NULL);
    fill(&rig);
    check_ok(fathom_engine_set_budget(rig.engine, -1, -1, 10, 0.0f));
    check_refused(&rig, N_LAYERS, -1, 0.5f, "layer=2: must be 0 to 1");
    check_refused(&rig, -2, -1, 0.5f, "layer=-2");
    check_refused(&rig, -1, N_HEADS, 0.5f, "kv_head=2");
    check_refused(&rig, -1, -1, 1.5f, "share=1.5");
    check_refused(&rig, -1, -1, -0.5f, "share=-0.5");
    check_refused(&rig, -1, -1, __builtin_nanf(""), "share=nan");
    assert_int_equal(fathom_engine_set_budget(NULL, -1, -1, 0, 0.5f), FATHOM_EINVAL);
    check_picks(&rig, 20, 20);
    rig_close(&rig.device, &rig.engine);
    open_rig(&rig, FATHOM_KV_STREAM, false, NULL);
    check_error(fathom_engine_set_budget(rig.engine, -1, -1, 1, 0.0f), FATHOM_EUNSUPPORTED,
                "--kv-mode");
    rig_close(&rig.device, &rig.engine);
    open_rig(&rig, FATHOM_KV_AUTO, false, NULL); // all of it fits: dense
    check_ok(fathom_engine_set_budget(rig.engine, -1, -1, 1, 0.0f));
    check_picks(&rig, 0, 0);
    rig_close(&rig.device, &rig.engine);
}

// What an engine of a mode says it took of stage 2, a disk and the mode.
static void check_taken(int32_t asked, int32_t mode, int32_t stage2_bits, bool disk)
{
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_HEADS, D, 512, N_STEP});
    fathom_device *device;
    fathom_engine *engine;
    p.kv.mode = asked;
    p.kv.n_window = 16;
    p.kv.n_segment = 32;
    p.kv.n_merged = 64;
    p.kv.host_bytes = 4 << 20;
    p.kv.disk_bytes = 1 << 20;
    p.kv.disk_path = ".";
    rig_open(&p, &device, &engine);
    const struct fathom_kv_params *taken = fathom_engine_kv(engine);
    assert_int_equal(taken->mode, mode);
    assert_int_equal(taken->stage2_bits, stage2_bits);
    assert_int_equal(taken->disk_bytes > 0, disk);
    assert_null(taken->disk_path);
    rig_close(&device, &engine);
}

static void tells_what_it_took(void **state)
{
    (void)state;
    check_taken(FATHOM_KV_DENSE, FATHOM_KV_DENSE, 0, false);
    check_taken(FATHOM_KV_AUTO, FATHOM_KV_DENSE, 0, false); // all of it fits
    check_taken(FATHOM_KV_STREAM, FATHOM_KV_STREAM, 0, true);
    check_taken(FATHOM_KV_SPARSE, FATHOM_KV_SPARSE, 4, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets),
        cmocka_unit_test(opens_with),
        cmocka_unit_test(recalibrates),
        cmocka_unit_test(refuses),
        cmocka_unit_test(tells_what_it_took),
    };
    printf("seed %d\n", SEED);
    return check_run("budget", tests, sizeof tests / sizeof *tests);
}
