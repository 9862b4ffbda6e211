// Picks by a threshold of mass, and surveys of thresholds.

#include "tests/index/index_rig.h"

#include <math.h>

#include "src/base/mem.h"

enum { SEED = 20261128, KINDS = FATHOM_SELECTOR_FLAT + 1 };

static struct rig rig;

// Threshold: as many units as hold more than the share, within floor and budget.
static void test_threshold(void **state)
{
    enum { ROWS = 1024, D = 16 };
    static float k[ROWS * D];
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (uint32_t i = 0; i < ROWS * D; i++)
        k[i] = 0.01f * rng_normal(&rng);
    for (uint32_t row = 80; row < 120; row++) // 5 chunks with nearly all the mass
        k[row * D] = 10;
    for (int stage2 = 0; stage2 < 2; stage2++) {
        struct selector_params params = rig_params(1, 1, D);
        params.kind = FATHOM_SELECTOR_CHUNK;
        params.unit_tokens = 8;
        params.scale = 1;
        params.stage2_bits = stage2 ? 8 : 0;
        const float floors[] = {0, 0.125f, 0};
        const uint32_t budgets[] = {500, 512, 16}, want[] = {40, 64, 16};
        for (int i = 0; i < 3; i++) {
            const float q[D] = {1.5f};
            rig_open(&rig, &params, UINT32_MAX, 1);
            rig.threshold = 0.01f;
            rig.floor_share = floors[i];
            rig_add_keys(&rig, &rng, k, NULL, ROWS, true);
            uint8_t *seen;
            check_ok(mem_new(rig_count_rows(&rig), 1, "seen", &seen));
            rig_begin(&rig, q);
            rig_pick(&rig, budgets[i]);
            const uint64_t n_outliers = 8;
            const uint64_t n = rig_mark(&rig, 0, seen);
            assert_in_range(n, want[i], want[i] + n_outliers);
            for (uint32_t row = 80; row < 120 && want[i] >= 40; row++)
                assert_int_equal(seen[row], 1);
            mem_free(seen);
            rig_close(&rig);
        }
    }
}

// A survey says what a pick by one of its thresholds then takes, two levels and outliers included.
static void test_survey(void **state)
{
    enum { N = 40 };
    static const uint64_t unit_max[KINDS] = {64, 8, 128, 1};
    const struct threshold_grid grid = {.from = -20.0f, .step = 0.5f, .n = N};
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (uint32_t round = 0; round < 4 * KINDS; round++) {
        struct selector_params params = rig_params(2, 1 + rng_below(&rng, 4), 32);
        params.kind = (int32_t)(round % KINDS);
        params.rank_by = (int32_t)(round % 3);
        params.stage2_bits = 4 * (round / KINDS % 3);
        params.reduce_sum = round % 5 == 0;
        params.unit_tokens = round < KINDS ? 2 : 0; // 2: of cluster, two levels
        rig_open(&rig, &params, UINT32_MAX, 2);
        rig.threshold = 1;
        for (int i = 0; i < 30; i++)
            rig_add(&rig, &rng, RIG_LOOSE, 500, true);
        float q[RIG_HEADS * 4 * 32];
        for (size_t i = 0; i < sizeof q / sizeof *q; i++)
            q[i] = 2 * rng_normal(&rng);
        const uint64_t budget = 2000, budgets[RIG_HEADS] = {budget, budget, budget, budget};
        uint64_t rows[RIG_HEADS * N];
        rig_begin(&rig, q);
        selector_ops.survey(rig.search, budgets, &grid, rows);
        for (uint32_t i = 0; i < N; i += 3) {
            rig.threshold = expf(grid.from + grid.step * (float)i);
            rig_begin(&rig, q);
            rig_pick(&rig, 0);
            const uint64_t n_outliers[] = {rig.picked[0].n_rows, rig.picked[1].n_rows};
            rig_begin(&rig, q);
            rig_pick(&rig, budget);
            for (uint32_t h = 0; h < 2; h++) {
                const uint64_t n = rig.picked[h].n_rows - n_outliers[h], said = rows[h * N + i];
                assert_true(i == 0 || said <= rows[h * N + i - 1]);
                // A last unit may go beyond the budget, and one be at the threshold to rounding.
                assert_in_range(n + unit_max[params.kind], said < budget ? said : budget,
                                said + 3 * unit_max[params.kind]);
            }
        }
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threshold),
        cmocka_unit_test(test_survey),
    };
    return check_run("t_threshold", tests, sizeof tests / sizeof tests[0]);
}
