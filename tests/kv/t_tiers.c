// The tiered cache against the dense one: with everything read, both give the same to rounding.
//
// Both engines get the same rows and queries. They round keys and values alike, so what differs is
// the order of float sums alone: of n keys, in blocks, each partial's weights and the merge have
// relative errors of a few tens of 2^-24 and scores of up to some 10 in magnitude an absolute error
// of 10 * 2^-20; values are normal, outputs below 5. So 5e-5 is the bound.

#include "tests/kv/kv_rig.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"

enum { SEED = 20261121, N_MAX = 1400, N_STEP = 128, N_LAYERS = 2 };
static const float tolerance = 5e-5f;

struct shape {
    const char *name;
    uint32_t n_heads, n_kv_heads, d;
};
enum { N_SHAPES = 3 };
static const struct shape shapes[N_SHAPES] = {
    {"MHA", 2, 2, 0},
    {"GQA", 4, 2, 0},
    {"MQA", 4, 1, 0},
};
static const uint32_t head_sizes[N_SHAPES] = {64, 96, 128};
enum { N_SELECTORS = 4 };
static const char *const selectors[N_SELECTORS] = {"cluster", "chunk", "block", "flat"};

// ---- Two engines side by side -------------------------------------------------------------------

struct pair {
    fathom_device *device;
    fathom_engine *dense, *tiered;
    struct shape shape;
    float *q, *k, *v; // rows of N_MAX tokens, of layer 0; other layers shift them by a token
    float *out_dense, *out_tiered;
};

// Two handles of the same tokens.
struct twin {
    struct fathom_seq dense, tiered;
    uint32_t n;
};

static struct fathom_kv_params tiered_params(int32_t mode, int32_t selector)
{
    struct fathom_kv_params kv;
    fathom_kv_params_init(&kv);
    kv.mode = mode;
    kv.selector = selector;
    kv.prefill = FATHOM_PREFILL_SPARSE;
    kv.n_sink = 20;
    kv.n_window = 40;
    kv.n_segment = 64;
    kv.n_merged = 256;
    kv.budget_share = 1.0f;
    return kv;
}

static void open_pair(struct pair *pair, const struct shape *shape,
                      const struct fathom_kv_params *kv)
{
    const struct rig_sizes sizes = {N_LAYERS, shape->n_heads, shape->n_kv_heads,
                                    shape->d, N_MAX,          N_STEP};
    struct fathom_engine_params params = rig_params(&sizes);
    struct rng rng;
    params.n_seqs_max = 2;
    params.rope.pairing = FATHOM_ROPE_HALVES;
    params.kv.mode = FATHOM_KV_DENSE;
    rig_open(&params, &pair->device, &pair->dense);
    params.kv = *kv;
    // With a disk, RAM is as small as the engine allows, so that segments are spilled.
    if (kv->disk_bytes > 0) {
        params.kv.host_bytes = 1 << 20;
        rig_open_least(pair->device, &params, 128, &pair->tiered);
    } else {
        check_ok(fathom_engine_open(pair->device, &params, &pair->tiered));
    }
    rng_init(&rng, SEED);
    pair->shape = *shape;
    const size_t n = N_MAX + N_LAYERS;
    pair->q = rig_values(&rng, n * shape->n_heads * shape->d);
    pair->k = rig_values(&rng, n * shape->n_kv_heads * shape->d);
    pair->v = rig_values(&rng, n * shape->n_kv_heads * shape->d);
    pair->out_dense = rig_values(&rng, (size_t)N_STEP * shape->n_heads * shape->d);
    pair->out_tiered = rig_values(&rng, (size_t)N_STEP * shape->n_heads * shape->d);
}

static void close_pair(struct pair *pair, bool on_disk)
{
    assert_int_equal(rig_stats(pair->tiered).disk_bytes_read > 0, on_disk);
    // The plan says how the disk is read, to the end.
    const char *plan = fathom_engine_plan(pair->tiered);
    assert_true(!on_disk || strcmp(plan + strlen(plan) - strlen(" 128 deep"), " 128 deep") == 0);
    fathom_engine_close(&pair->dense);
    rig_close(&pair->device, &pair->tiered);
    mem_free(pair->q);
    mem_free(pair->k);
    mem_free(pair->v);
    mem_free(pair->out_dense);
    mem_free(pair->out_tiered);
}

static void create_twin(struct pair *pair, struct twin *twin)
{
    check_ok(fathom_seq_create(pair->dense, &twin->dense));
    check_ok(fathom_seq_create(pair->tiered, &twin->tiered));
    twin->n = 0;
}

static void free_twin(struct pair *pair, struct twin *twin)
{
    check_ok(fathom_seq_free(pair->dense, twin->dense));
    check_ok(fathom_seq_free(pair->tiered, twin->tiered));
}

static void compare(const struct pair *pair, uint32_t n, uint32_t first, uint32_t layer)
{
    const size_t n_values = (size_t)n * pair->shape.n_heads * pair->shape.d;
    for (size_t i = 0; i < n_values; i++)
        if (!(fabsf(pair->out_dense[i] - pair->out_tiered[i]) <= tolerance))
            fail_msg("%s %u, tokens %u to %u, layer %u, value %zu: %g, dense %g", pair->shape.name,
                     pair->shape.d, first, first + n - 1, layer, i, (double)pair->out_tiered[i],
                     (double)pair->out_dense[i]);
}

// A step of n tokens on both; `shift` picks other rows, so that forks go different ways.
static void step(struct pair *pair, struct twin *twin, uint32_t n, uint32_t shift)
{
    const struct shape *s = &pair->shape;
    check_ok(fathom_step_begin(pair->dense, twin->dense, n));
    check_ok(fathom_step_begin(pair->tiered, twin->tiered, n));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        const size_t at = (twin->n + shift) % (N_MAX - N_STEP) + layer;
        const float *k = pair->k + at * s->n_kv_heads * s->d;
        const float *v = pair->v + at * s->n_kv_heads * s->d;
        const float *q = pair->q + at * s->n_heads * s->d;
        check_ok(fathom_append(pair->dense, twin->dense, layer, k, v));
        check_ok(fathom_append(pair->tiered, twin->tiered, layer, k, v));
        check_ok(fathom_attend(pair->dense, twin->dense, layer, q, pair->out_dense));
        check_ok(fathom_attend(pair->tiered, twin->tiered, layer, q, pair->out_tiered));
        compare(pair, n, twin->n, layer);
    }
    check_ok(fathom_step_end(pair->dense, twin->dense));
    check_ok(fathom_step_end(pair->tiered, twin->tiered));
    twin->n += n;
}

static void grow(struct pair *pair, struct twin *twin, uint32_t to, uint32_t most, uint32_t shift)
{
    while (twin->n < to)
        step(pair, twin, to - twin->n < most ? to - twin->n : most, shift);
}

static void truncate_twin(struct pair *pair, struct twin *twin, uint32_t n)
{
    check_ok(fathom_seq_truncate(pair->dense, twin->dense, n));
    check_ok(fathom_seq_truncate(pair->tiered, twin->tiered, n));
    twin->n = n;
}

static void fork_twin(struct pair *pair, const struct twin *twin, struct twin *fork)
{
    check_ok(fathom_seq_fork(pair->dense, twin->dense, &fork->dense));
    check_ok(fathom_seq_fork(pair->tiered, twin->tiered, &fork->tiered));
    fork->n = twin->n;
}

// ---- Tests --------------------------------------------------------------------------------------

// Prefill and decode over every boundary: sinks 20, window 40, segments 64 and 256.
static void run_lengths(struct pair *pair, bool on_disk)
{
    static const uint32_t lengths[] = {1, 19, 20, 21, 59, 60, 61, 123, 124, 125, 126};
    struct twin twin;
    create_twin(pair, &twin);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        grow(pair, &twin, lengths[i], 50, 0);
        step(pair, &twin, 1, 0);
        truncate_twin(pair, &twin, lengths[i]);
    }
    grow(pair, &twin, 380, 1, 0);
    // Either merges; only the longer one has more than the least RAM holds.
    const uint32_t end = check_few() && !on_disk ? 700 : 1200;
    grow(pair, &twin, end, 100, 0);
    grow(pair, &twin, end + 10, 1, 0);
    free_twin(pair, &twin);
}

static void run_forks(struct pair *pair)
{
    struct twin a, b;
    create_twin(pair, &a);
    grow(pair, &a, 700, 128, 0);
    fork_twin(pair, &a, &b);
    grow(pair, &a, 900, 64, 0);
    grow(pair, &b, 760, 1, 300);  // goes another way
    truncate_twin(pair, &a, 310); // into a merged segment
    step(pair, &a, 1, 0);
    grow(pair, &a, 500, 50, 90);
    step(pair, &b, 1, 300); // b has kept what a gave up
    truncate_twin(pair, &b, 730);
    step(pair, &b, 2, 300);
    truncate_twin(pair, &b, 15); // into the sinks
    grow(pair, &b, 600, 100, 11);
    truncate_twin(pair, &a, 0);
    grow(pair, &a, 300, 100, 0);
    free_twin(pair, &b);
    step(pair, &a, 1, 0);
    free_twin(pair, &a);
}

// Every shape, each with one head size; three turns go through all pairs. With check_few one shape
// a turn.
static void run_mode(const struct fathom_kv_params *kv, uint32_t turn)
{
    for (uint32_t i = 0; i < N_SHAPES; i++) {
        if (check_few() && i != turn) continue;
        struct pair pair;
        struct shape shape = shapes[i];
        shape.d = head_sizes[(i + turn) % N_SHAPES];
        open_pair(&pair, &shape, kv);
        run_lengths(&pair, kv->disk_bytes > 0);
        run_forks(&pair);
        close_pair(&pair, kv->disk_bytes > 0);
    }
}

static void test_stream(void **state)
{
    (void)state;
    const struct fathom_kv_params kv = tiered_params(FATHOM_KV_STREAM, FATHOM_SELECTOR_CLUSTER);
    for (uint32_t turn = 0; turn < (check_few() ? 1 : N_SHAPES); turn++)
        run_mode(&kv, turn);
}

static void test_selector(void **state)
{
    static const int32_t stage2_bits[N_SHAPES] = {4, 8, 0};
    const uint32_t selector = (uint32_t)(uintptr_t)*state;
    struct fathom_kv_params kv = tiered_params(FATHOM_KV_SPARSE, (int32_t)selector);
    printf("%s\n", selectors[selector]);
    for (uint32_t turn = 0; turn < N_SHAPES; turn++) {
        if (check_few() && turn != selector % N_SHAPES) continue;
        kv.stage2_bits = stage2_bits[turn];
        kv.index_q8 = turn != 2;
        run_mode(&kv, turn);
    }
}

static void test_disk(void **state)
{
    (void)state;
    struct fathom_kv_params kv = tiered_params(FATHOM_KV_STREAM, FATHOM_SELECTOR_CLUSTER);
    kv.disk_bytes = 64 << 20;
    kv.disk_path = ".";
    run_mode(&kv, 1);
    kv.mode = FATHOM_KV_SPARSE;
    for (int32_t selector = 0; selector < (check_few() ? 1 : N_SELECTORS); selector++) {
        printf("%s\n", selectors[selector]);
        kv.selector = selector;
        run_mode(&kv, 2 - (uint32_t)selector % N_SHAPES);
    }
}

static void test_auto(void **state)
{
    (void)state;
    struct fathom_kv_params kv = tiered_params(FATHOM_KV_AUTO, FATHOM_SELECTOR_CLUSTER);
    kv.device_bytes = 4 << 20;
    run_mode(&kv, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),
        cmocka_unit_test_prestate(test_selector, (void *)FATHOM_SELECTOR_CLUSTER),
        cmocka_unit_test_prestate(test_selector, (void *)FATHOM_SELECTOR_CHUNK),
        cmocka_unit_test_prestate(test_selector, (void *)FATHOM_SELECTOR_BLOCK),
        cmocka_unit_test_prestate(test_selector, (void *)FATHOM_SELECTOR_FLAT),
        cmocka_unit_test(test_disk),
        cmocka_unit_test(test_auto),
    };
    printf("seed %d\n", SEED);
    return check_run("tiers", tests, sizeof tests / sizeof *tests);
}
