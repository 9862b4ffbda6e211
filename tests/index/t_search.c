// Searches: what is picked, and that nothing is picked twice or lost.

#include "tests/index/index_rig.h"

#include <math.h>
#include <string.h>

#include "fathom/device.h"
#include "src/base/mem.h"

enum { SEED = 41, KINDS = FATHOM_SELECTOR_FLAT + 1 };
static struct rig rig;

static float *new_query(struct rng *rng, const struct selector_params *p, float length)
{
    const size_t n = (size_t)p->n_kv_heads * p->group * p->d_k;
    float *q;
    check_ok(mem_new(n, sizeof *q, "q", &q));
    for (size_t i = 0; i < n; i++)
        q[i] = rng_normal(rng) * length;
    return q;
}

static uint8_t *new_marks(void)
{
    uint8_t *seen;
    check_ok(mem_new(rig_count_rows(&rig), 1, "seen", &seen));
    return seen;
}

// ---- The oracle ---------------------------------------------------------------------------------

static int compare_down(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

// Flat picks exactly the keys with the greatest scores: no picked one is below one that was left,
// but for the rounding of keys to f16 and of sums.
static void test_flat_is_exact(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int round = 0; round < 20; round++) {
        struct selector_params params = rig_params(2, 1, 1 + rng_below(&rng, 128));
        params.kind = FATHOM_SELECTOR_FLAT;
        params.rank_by = (int32_t)rng_below(&rng, 3); // has no say
        params.stage2_bits = 4;
        rig_open(&rig, &params, round % 2 ? UINT32_MAX : 0, 2);
        for (uint32_t i = 0; i < 3; i++)
            rig_add(&rig, &rng, RIG_LOOSE, 1 + rng_below(&rng, 400), i % 2 == 0);
        float *q = new_query(&rng, &params, 1);
        uint8_t *seen = new_marks();
        const uint64_t n_rows = rig_count_rows(&rig), budget = rng_below(&rng, (uint32_t)n_rows);
        rig_begin(&rig, q);
        rig_pick(&rig, budget);
        for (uint32_t h = 0; h < 2; h++) {
            double scores[1200], least = INFINITY;
            uint32_t n = 0;
            memset(seen, 0, n_rows);
            assert_int_equal(rig_mark(&rig, h, seen), budget);
            for (uint32_t s = 0; s < 3; s++)
                for (uint32_t row = 0; row < rig.segments[h][s].n_rows; row++, n++) {
                    scores[n] = rig_score(&rig, h, 0, s, row);
                    if (seen[n]) least = fmin(least, scores[n]);
                }
            qsort(scores, n, sizeof scores[0], compare_down);
            if (budget > 0) assert_true(least >= scores[budget - 1] - 0x1p-10 * 20);
            assert_int_equal(rig.picked[h].n_rows, budget);
            assert_int_equal(rig.picked[h].scanned_keys, n_rows);
        }
        mem_free(seen);
        mem_free(q);
        rig_close(&rig);
    }
}

// ---- Nothing twice, nothing lost ----------------------------------------------------------------

static void vary(struct selector_params *p, struct rng *rng, int kind)
{
    p->kind = kind;
    p->rank_by = (int32_t)rng_below(rng, 3);
    p->index_q8 = rng_below(rng, 2) == 0;
    p->stage2_bits = 4 * rng_below(rng, 3);
    p->stage2_in_rows = rng_below(rng, 2) == 0;
    p->reduce_sum = rng_below(rng, 3) == 0;
    p->unit_tokens = rng_below(rng, 2) == 0 ? 0 : 1 + rng_below(rng, 30);
    p->estimate = rng_below(rng, 2) == 0;
}

static void add_segments(struct rng *rng, uint32_t n, bool masked)
{
    for (uint32_t i = 0; i < n; i++)
        rig_add(&rig, rng, (enum rig_keys)rng_below(rng, RIG_KINDS), 1 + rng_below(rng, 500),
                i % 2 == 0);
    for (uint32_t h = 0; h < rig.params.n_kv_heads && masked && n > 0; h++) {
        struct rig_segment *last = &rig.segments[h][n - 1];
        last->n_visible = rng_below(rng, 3) == 0 ? 0 : last->n_rows / 2;
    }
}

// Budgets that grow call by call, the last one everything: each row comes once, and never fewer
// than asked for, but for a threshold's first call.
static void test_picks_go_on(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int round = 0; round < 240; round++) {
        struct selector_params params =
            rig_params(1 + rng_below(&rng, 3), 1 + rng_below(&rng, 5), 1 + rng_below(&rng, 100));
        vary(&params, &rng, round % KINDS);
        rig_open(&rig, &params, round % 3 ? UINT32_MAX : 0, 1 + rng_below(&rng, 3));
        rig.threshold = rng_below(&rng, 4) == 0 ? 1e-3f : 0;
        rig.floor_share = 0.1f * (float)rng_below(&rng, 4);
        rig.by_heads = rng_below(&rng, 2) == 0;
        add_segments(&rng, rng_below(&rng, 6), round % 5 == 0);
        float *q = new_query(&rng, &params, 2);
        uint8_t *seen[RIG_HEADS];
        uint64_t n_seen[RIG_HEADS] = {0};
        for (uint32_t h = 0; h < params.n_kv_heads; h++)
            seen[h] = new_marks();
        rig_begin(&rig, q);
        const uint32_t n_calls = 1 + rng_below(&rng, 4);
        for (uint32_t call = 0; call < n_calls; call++) {
            const uint64_t budget = call + 1 == n_calls ? UINT64_MAX : rng_below(&rng, 900);
            rig_pick(&rig, budget);
            for (uint32_t h = 0; h < params.n_kv_heads; h++) {
                const uint64_t n_visible = rig_count_visible(&rig, h);
                n_seen[h] += rig_mark(&rig, h, seen[h]);
                assert_int_equal(rig.picked[h].n_rows, n_seen[h]);
                const uint64_t asked = budget < n_visible ? budget : n_visible;
                const bool all = rig.threshold == 0 || call > 0 || budget == UINT64_MAX;
                const uint64_t least = (uint64_t)((double)rig.floor_share * (double)asked);
                assert_true(n_seen[h] >= (all ? asked : least));
            }
        }
        for (uint32_t h = 0; h < params.n_kv_heads; h++) {
            assert_int_equal(n_seen[h], rig_count_visible(&rig, h));
            for (uint32_t g = 0; g < params.group; g++) {
                assert_true(rig.picked[h].rest_bound[g] == -INFINITY);
                assert_true(rig.picked[h].rest_estimate[g] == -INFINITY);
            }
            mem_free(seen[h]);
        }
        mem_free(q);
        rig_close(&rig);
    }
}

// One unit at most beyond the budget without a second stage, and nothing with it.
static void test_budget(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int round = 0; round < 60; round++) {
        struct selector_params params = rig_params(1, 1 + rng_below(&rng, 4), 32);
        vary(&params, &rng, FATHOM_SELECTOR_CLUSTER);
        params.unit_tokens = 16;
        rig_open(&rig, &params, UINT32_MAX, 1);
        add_segments(&rng, 5, false);
        float *q = new_query(&rng, &params, 2);
        const uint64_t n_rows = rig_count_rows(&rig), budget = n_rows / (2 + rng_below(&rng, 20));
        rig_begin(&rig, q);
        rig_pick(&rig, budget);
        const uint64_t most = params.stage2_bits > 0 ? budget : budget + 63;
        const uint64_t least = 2 * budget > 4096 ? 2 * budget : 4096; // candidates
        assert_in_range(rig.picked[0].n_rows, budget, most);
        if (params.stage2_bits > 0)
            assert_in_range(rig.picked[0].n_candidates, least < n_rows ? least : n_rows,
                            least + 63);
        rig_pick(&rig, budget / 2);
        assert_int_equal(rig.picked[0].n_runs, 0);
        mem_free(q);
        rig_close(&rig);
    }
}

// The number of threads changes nothing, nor does how they share the work.
static void test_threads(void **state)
{
    static uint8_t first[1 << 16];
    struct rng rng;
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        size_t n_first = 0;
        for (int i = 0; i < 3; i++) {
            rng_init(&rng, SEED);
            struct selector_params params = rig_params(2, 3, 40);
            params.kind = kind;
            params.stage2_bits = kind % 2 ? 0 : 8;
            rig_open(&rig, &params, UINT32_MAX, i == 0 ? 1 : 4);
            rig.by_heads = i == 2;
            add_segments(&rng, 6, false);
            float *q = new_query(&rng, &params, 2);
            rig_begin(&rig, q);
            rig_pick(&rig, 300);
            size_t n_got = 0;
            for (uint32_t h = 0; h < 2; h++) {
                const struct selection *got = &rig.picked[h];
                const size_t bytes = got->n_runs * sizeof *got->runs;
                assert_true(bytes <= sizeof first / 2);
                if (i == 0)
                    memcpy(first + h * sizeof first / 2, got->runs, bytes);
                else
                    assert_memory_equal(first + h * sizeof first / 2, got->runs, bytes);
                if (i == 0) n_first += bytes;
                n_got += bytes;
            }
            assert_int_equal(n_got, n_first);
            mem_free(q);
            rig_close(&rig);
        }
    }
}

// ---- What is picked -----------------------------------------------------------------------------

// A segment's chunk that is least told by its mean comes with any budget, and on top of it.
static void test_outliers(void **state)
{
    enum { ROWS = 1024, D = 16 };
    struct selector_params params = rig_params(1, 2, D);
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    params.kind = FATHOM_SELECTOR_CHUNK;
    for (int stage2 = 0; stage2 < 2; stage2++) {
        params.stage2_bits = stage2 ? 4 : 0;
        rig_open(&rig, &params, UINT32_MAX, 1);
        static float k[ROWS * D];
        for (uint32_t i = 0; i < ROWS * D; i++)
            k[i] = 1 + 0.01f * rng_normal(&rng);
        for (uint32_t i = 0; i < D; i++)
            k[(40 * 8 + 3) * D + i] *= -1; // of chunk 40
        rig_add_keys(&rig, &rng, k, NULL, ROWS, true);
        float q[2 * D] = {1};
        uint8_t *seen = new_marks();
        rig_begin(&rig, q);
        rig_pick(&rig, 0);
        assert_int_equal(rig.picked[0].n_rows, 8);
        assert_int_equal(rig_mark(&rig, 0, seen), 8);
        for (uint32_t row = 40 * 8; row < 41 * 8; row++)
            assert_int_equal(seen[row], 1);
        rig_pick(&rig, 16);
        assert_int_equal(rig.picked[0].n_rows, 24);
        assert_int_equal(rig_mark(&rig, 0, seen), 16);
        mem_free(seen);
        rig_close(&rig);
    }
}

// Blocks are judged by the keys that received attention, not by their mean.
static void test_block_representatives(void **state)
{
    enum { ROWS = 512, D = 8 };
    struct selector_params params = rig_params(1, 1, D);
    static float k[ROWS * D], received[ROWS];
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    params.kind = FATHOM_SELECTOR_BLOCK;
    params.rank_by = FATHOM_RANK_MEAN;
    for (uint32_t row = 0; row < ROWS; row++) {
        received[row] = 0.1f * (float)rng_unit(&rng);
        for (uint32_t c = 0; c < D; c++)
            k[row * D + c] = 0.01f * rng_normal(&rng);
    }
    for (uint32_t i = 0; i < 4; i++) { // block 2: four good keys that a mean of 128 hides
        k[(2 * 128 + 20 * i) * D] = 3;
        received[2 * 128 + 20 * i] = 1;
    }
    for (uint32_t row = 0; row < 128; row++) // block 0: a mean that is greater
        k[row * D] += 0.5f;
    const float q[D] = {4};
    for (int with = 0; with < 2; with++) {
        rig_open(&rig, &params, UINT32_MAX, 1);
        rig_add_keys(&rig, &rng, k, with ? received : NULL, ROWS, true);
        rig_begin(&rig, q);
        rig_pick(&rig, 1);
        assert_int_equal(rig.picked[0].n_runs, 1);
        assert_int_equal(rig.picked[0].runs[0].unit, with ? 2 : 0);
        assert_int_equal(rig.picked[0].n_rows, 128);
        rig_close(&rig);
    }
}

// Max: a unit that one head wants much beats one that all want a little. Sum: the other way round.
static void test_group_reduction(void **state)
{
    enum { ROWS = 64, D = 8, GROUP = 4 };
    static float k[ROWS * D];
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int sum = 0; sum < 2; sum++) {
        struct selector_params params = rig_params(1, GROUP, D);
        params.kind = FATHOM_SELECTOR_CHUNK;
        params.rank_by = FATHOM_RANK_MEAN;
        params.index_q8 = false;
        params.scale = 1;
        params.reduce_sum = sum;
        for (uint32_t row = 0; row < ROWS; row++)
            for (uint32_t c = 0; c < D; c++)
                k[row * D + c] = 0;
        for (uint32_t row = 0; row < 8; row++) {
            k[(8 + row) * D + 0] = 2; // chunk 1: head 0 alone
            k[(24 + row) * D + 7] = 1.5f;
        }
        float q[GROUP * D] = {0};
        for (uint32_t g = 0; g < GROUP; g++) {
            q[g * D + 7] = 1; // chunk 3: every head
            q[g * D] = g == 0 ? 1 : 0;
        }
        rig_open(&rig, &params, UINT32_MAX, 1);
        rig_add_keys(&rig, &rng, k, NULL, ROWS, true);
        rig_begin(&rig, q);
        rig_pick(&rig, 8);
        assert_int_equal(rig.picked[0].runs[0].unit, sum ? 3 : 1);
        rig_close(&rig);
    }
}

// Every query head of every query finds the row that it alone wants, whatever the others want.
static void run_queries(int32_t kind, uint32_t n_queries)
{
    enum { ROWS = 2048, D = 32, HEADS = 2, GROUP = 2, QUERIES = 40, WANTED = HEADS * GROUP };
    static float k[HEADS * ROWS * D], q[QUERIES * WANTED * D];
    static uint8_t seen[ROWS];
    struct selector_params params = rig_params(HEADS, GROUP, D);
    struct rng rng;
    rng_init(&rng, SEED);
    params.kind = kind;
    params.stage2_bits = 4;
    params.scale = 1;
    params.n_queries_max = QUERIES;
    for (size_t i = 0; i < HEADS * ROWS * D; i++)
        k[i] = 0.1f * rng_normal(&rng);
    for (uint32_t i = 0; i < n_queries * WANTED; i++) // the row of query head i
        for (uint32_t c = 0; c < D; c++) {
            const uint32_t head = i / GROUP % HEADS;
            q[i * D + c] = rng_normal(&rng);
            k[(head * ROWS + 12 * i) * D + c] = q[i * D + c];
        }
    rig_open(&rig, &params, UINT32_MAX, 2);
    rig.n_queries = n_queries;
    rig_add_keys(&rig, &rng, k, NULL, ROWS, true);
    rig_begin(&rig, q);
    rig_pick(&rig, n_queries * GROUP);
    for (uint32_t h = 0; h < HEADS; h++) {
        const uint32_t *order = rig.segments[h][0].order;
        memset(seen, 0, sizeof seen);
        assert_true(rig_mark(&rig, h, seen) >= n_queries * GROUP); // and outliers
        for (uint32_t row = 0; row < ROWS; row++)
            if (order[row] % 12 == 0 && order[row] < 12 * n_queries * WANTED &&
                order[row] / 12 / GROUP % HEADS == h)
                assert_true(seen[row]);
    }
    rig_close(&rig);
}

static void test_queries(void **state)
{
    (void)state;
    for (int32_t kind = FATHOM_SELECTOR_CLUSTER; kind <= FATHOM_SELECTOR_FLAT; kind++)
        for (uint32_t n = 1; n <= 40; n += 13) {
            if (kind == FATHOM_SELECTOR_BLOCK) continue; // picks blocks
            run_queries(kind, n);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flat_is_exact),   cmocka_unit_test(test_picks_go_on),
        cmocka_unit_test(test_budget),          cmocka_unit_test(test_threads),
        cmocka_unit_test(test_outliers),        cmocka_unit_test(test_block_representatives),
        cmocka_unit_test(test_group_reduction), cmocka_unit_test(test_queries),
    };
    return check_run("t_search", tests, sizeof tests / sizeof tests[0]);
}
