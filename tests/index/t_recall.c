// How much a search reads, and what it finds.

#include "tests/index/index_rig.h"

#include <math.h>
#include <string.h>

#include "fathom/device.h"
#include "src/base/mem.h"

enum { SEED = 61 };
static struct rig rig;

// Two levels: of 32 segments of 4096 rows less than half of the representatives are read.
static void test_two_levels(void **state)
{
    enum { SEGMENTS = 32, ROWS = 4096 };
    struct selector_params params = rig_params(1, 2, 32);
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    params.unit_tokens = 4; // many units, for a scan of all to be dear
    rig_open(&rig, &params, UINT32_MAX, 2);
    for (uint32_t i = 0; i < SEGMENTS; i++)
        rig_add(&rig, &rng, RIG_LOOSE, ROWS, false);
    uint64_t n_units = 0;
    for (uint32_t i = 0; i < SEGMENTS; i++)
        n_units += selector_ops.n_units(rig.segments[0][i].index);
    float q[2 * 32];
    for (uint32_t i = 0; i < 2 * 32; i++)
        q[i] = 2 * rng_normal(&rng);
    uint8_t *seen;
    check_ok(mem_new(SEGMENTS * ROWS, 1, "seen", &seen));
    rig_begin(&rig, q);
    rig_pick(&rig, SEGMENTS * ROWS / 50);
    rig_mark(&rig, 0, seen);
    assert_true(2 * rig.picked[0].scanned_keys < n_units);
    // A budget that those do not hold is met all the same.
    const uint64_t n_rows = SEGMENTS * ROWS / 2;
    rig_pick(&rig, n_rows);
    rig_mark(&rig, 0, seen);
    assert_in_range(rig.picked[0].n_rows, n_rows, n_rows + 63);
    rig_pick(&rig, UINT64_MAX);
    rig_mark(&rig, 0, seen);
    assert_int_equal(rig.picked[0].n_rows, SEGMENTS * ROWS);
    mem_free(seen);
    rig_close(&rig);
}

// ---- Needles ------------------------------------------------------------------------------------

enum { D = 64, SEGMENTS = 4, ROWS = 2048, TOPIC_TOKENS = 64 };
enum { NEEDLES = 16, QUERIES = 64 };
static float keys[SEGMENTS][ROWS * D];
static struct {
    uint32_t segment;
    uint32_t position;
} needles[NEEDLES];

// Text goes from topic to topic, with similar keys in each; a needle is one key of its own.
static void plant(struct rng *rng)
{
    float topic[D] = {0};
    for (uint32_t s = 0; s < SEGMENTS; s++)
        for (uint32_t row = 0; row < ROWS; row++)
            for (uint32_t c = 0; c < D; c++) {
                if (row % TOPIC_TOKENS == 0) topic[c] = rng_normal(rng);
                keys[s][row * D + c] = topic[c] + 0.5f * rng_normal(rng);
            }
    for (uint32_t i = 0; i < NEEDLES; i++) {
        needles[i].segment = i % SEGMENTS;
        needles[i].position = i / SEGMENTS * (ROWS * SEGMENTS / NEEDLES) + rng_below(rng, 128);
        for (uint32_t c = 0; c < D; c++)
            keys[i % SEGMENTS][needles[i].position * D + c] = 1.2f * rng_normal(rng);
    }
}

// How many queries pick their needle with 1 % of the tokens.
static uint32_t find_needles(struct rng *rng, const struct selector_params *params)
{
    uint32_t n_found = 0;
    rig_open(&rig, params, UINT32_MAX, 1);
    for (uint32_t s = 0; s < SEGMENTS; s++)
        rig_add_keys(&rig, rng, keys[s], NULL, ROWS, true);
    for (uint32_t query = 0; query < QUERIES; query++) {
        const uint32_t i = query % NEEDLES;
        const struct rig_segment *segment = &rig.segments[0][needles[i].segment];
        float q[D];
        for (uint32_t c = 0; c < D; c++)
            q[c] = 2.5f * (segment->given[needles[i].position * D + c] + 0.5f * rng_normal(rng));
        rig_begin(&rig, q);
        rig_pick(&rig, SEGMENTS * ROWS / 100);
        for (uint32_t r = 0; r < rig.picked[0].n_runs; r++) {
            const struct picked_run *run = &rig.picked[0].runs[r];
            for (uint32_t row = run->row; row < run->row + run->n_rows; row++)
                n_found += run->segment == needles[i].segment &&
                           segment->order[row] == needles[i].position;
        }
    }
    rig_close(&rig);
    return n_found;
}

// A mean of eight keys hides one of them; bounds and token scores do not.
static void test_needles(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    plant(&rng);
    struct selector_params params = rig_params(1, 1, D);
    params.kind = FATHOM_SELECTOR_FLAT;
    assert_int_equal(find_needles(&rng, &params), QUERIES);
    params.kind = FATHOM_SELECTOR_CHUNK;
    params.rank_by = FATHOM_RANK_MEAN;
    const uint32_t n_chunk = find_needles(&rng, &params);
    params.kind = FATHOM_SELECTOR_CLUSTER;
    params.rank_by = FATHOM_RANK_BALL;
    params.stage2_bits = 4;
    const uint32_t n_cluster = find_needles(&rng, &params);
    params.rank_by = FATHOM_RANK_BOX;
    const uint32_t n_box = find_needles(&rng, &params);
    printf("found by %d queries: chunk by mean %u, cluster by ball %u, by box %u\n", QUERIES,
           n_chunk, n_cluster, n_box);
    assert_true(n_chunk < QUERIES / 2);
    assert_true(n_cluster >= QUERIES - QUERIES / 20);
    assert_true(n_box >= QUERIES - QUERIES / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_levels),
        cmocka_unit_test(test_needles),
    };
    return check_run("t_recall", tests, sizeof tests / sizeof tests[0]);
}
