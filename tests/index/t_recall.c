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
    const struct selector_params params = rig_params(1, 2, 32);
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_levels),
    };
    return check_run("t_recall", tests, sizeof tests / sizeof tests[0]);
}
