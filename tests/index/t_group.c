// Grouping and the index itself: permutations, determinism, outliers, block representatives, and
// the refusal of corrupt indexes; with --bench, the time a segment takes.

#include "tests/index/index_rig.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "fathom/device.h"
#include "index/index_layout.h"
#include "src/base/mem.h"

enum { SEED = 31, KINDS = FATHOM_SELECTOR_FLAT + 1 };
static struct rig rig;

static void check_units(const struct rig_segment *segment, uint32_t unit_tokens, bool cluster)
{
    uint8_t seen[8192] = {0};
    const uint32_t n_units = selector_ops.n_units(segment->index);
    const uint32_t *begin = selector_ops.unit_begins(segment->index);
    const uint16_t *positions = selector_ops.positions(segment->index);
    assert_int_equal(begin[0], 0);
    assert_int_equal(begin[n_units], segment->n_rows);
    for (uint32_t u = 0; u < n_units; u++) {
        const uint32_t most = cluster ? UNIT_SPLIT * unit_tokens : unit_tokens;
        assert_in_range(begin[u + 1] - begin[u], 1, most);
    }
    for (uint32_t i = 0; i < segment->n_rows; i++) {
        assert_int_equal(positions[i], segment->order[i]);
        assert_true(segment->order[i] < segment->n_rows && !seen[segment->order[i]]);
        seen[segment->order[i]] = 1;
    }
}

// Every selector, length and kind of keys: units are a partition, and the index checks.
static void test_permutation(void **state)
{
    static const uint32_t lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 100, 127, 128, 129, 700, 1024};
    static const uint32_t tokens[] = {16, 8, 128, 1};
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int kind = 0; kind < KINDS; kind++)
        for (int keys = 0; keys < RIG_KINDS; keys++) {
            struct selector_params params = rig_params(1, 1, 1 + rng_below(&rng, 70));
            params.kind = kind;
            params.rank_by = (int32_t)rng_below(&rng, 3);
            params.stage2_bits = 4 * rng_below(&rng, 3);
            params.estimate = keys % 2 == 0;
            rig_open(&rig, &params, UINT32_MAX, 1);
            for (uint32_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
                rig_add(&rig, &rng, keys, lengths[i], i % 2 == 0);
                struct rig_segment *segment = &rig.segments[0][i];
                check_units(segment, tokens[kind], kind == FATHOM_SELECTOR_CLUSTER);
                const size_t bytes = selector_ops.index_bytes(rig.selector, lengths[i]);
                check_ok(selector_ops.check(rig.selector, segment->index, bytes, lengths[i]));
            }
            rig_close(&rig);
        }
}

// Large units are asked for, or one for the whole segment.
static void test_unit_tokens(void **state)
{
    static const uint32_t tokens[] = {1, 3, 64, 4096};
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int kind = 0; kind < FATHOM_SELECTOR_FLAT; kind++)
        for (uint32_t i = 0; i < 4; i++) {
            struct selector_params params = rig_params(1, 1, 16);
            params.kind = kind;
            params.unit_tokens = tokens[i];
            rig_open(&rig, &params, UINT32_MAX, 1);
            rig_add(&rig, &rng, RIG_LOOSE, 500, true);
            check_units(&rig.segments[0][0], tokens[i], kind == FATHOM_SELECTOR_CLUSTER);
            rig_close(&rig);
        }
}

// The same arguments give the same bytes, whatever lay in the memory before.
static void test_deterministic(void **state)
{
    struct rng rng;
    (void)state;
    for (int kind = 0; kind < KINDS; kind++) {
        struct selector_params params = rig_params(2, 1, 64);
        params.kind = kind;
        params.stage2_bits = 4;
        params.estimate = true;
        rng_init(&rng, SEED);
        rig_open(&rig, &params, UINT32_MAX, 1);
        float *k;
        check_ok(mem_new(2 * 2000 * 64, sizeof *k, "keys", &k));
        rig_fill_keys(&rng, RIG_LOOSE, k, 2000, 64);
        float *twice = k + 2000 * 64;
        memcpy(twice, k, 2000 * 64 * sizeof *k);
        struct rng values = rng;
        rig_add_keys(&rig, &values, k, NULL, 2000, true);
        const struct rig_segment *a = &rig.segments[0][0], *b = &rig.segments[1][0];
        const size_t bytes = selector_ops.index_bytes(rig.selector, 2000);
        void *scratch, *again;
        check_ok(mem_new(selector_ops.scratch_bytes(rig.selector, 2000), 1, "scratch", &scratch));
        check_ok(mem_new(bytes, 1, "index", &again));
        memset(scratch, 0xff, selector_ops.scratch_bytes(rig.selector, 2000));
        memset(again, 0xff, bytes);
        assert_memory_equal(a->order, b->order, 2000 * sizeof *a->order);
        const struct selector_rows rows = {.k = k, .n_rows = 2000, .merged = true};
        selector_ops.group(rig.selector, &rows, again, b->order, scratch);
        selector_ops.represent(rig.selector, a->k, a->v, 2000, again, scratch);
        assert_memory_equal(a->index, again, bytes);
        mem_free(scratch);
        mem_free(again);
        mem_free(k);
        rig_close(&rig);
    }
}

// Any flipped bit, a short block, another shape.
static void test_corrupt(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (int kind = 0; kind < KINDS; kind++) {
        struct selector_params params = rig_params(1, 1, 32);
        params.kind = kind;
        params.stage2_bits = 4;
        rig_open(&rig, &params, UINT32_MAX, 1);
        rig_add(&rig, &rng, RIG_LOOSE, 300, true);
        uint8_t *index = rig.segments[0][0].index;
        const size_t bytes = selector_ops.index_bytes(rig.selector, 300);
        check_ok(selector_ops.check(rig.selector, index, bytes, 300));
        assert_int_equal(selector_ops.check(rig.selector, index, bytes - 1, 300), FATHOM_ECORRUPT);
        assert_int_equal(selector_ops.check(rig.selector, index, bytes, 299), FATHOM_ECORRUPT);
        for (int i = 0; i < 2000; i++) {
            // Every byte of the head, then any.
            const size_t at = i < 128 ? (size_t)i : rng_below(&rng, (uint32_t)bytes);
            if (at >= sizeof(struct index_head) && at < size_round(sizeof(struct index_head), 64))
                continue; // between the head and what follows
            index[at] ^= (uint8_t)(1u << i % 8);
            assert_int_equal(selector_ops.check(rig.selector, index, bytes, 300), FATHOM_ECORRUPT);
            index[at] ^= (uint8_t)(1u << i % 8);
        }
        rig_close(&rig);
    }
}

// A forged index with a right checksum must still be safe to search.
static void test_forged(void **state)
{
    struct rng rng;
    struct index_layout layout;
    (void)state;
    rng_init(&rng, SEED);
    const struct selector_params params = rig_params(1, 1, 32);
    rig_open(&rig, &params, UINT32_MAX, 1);
    rig_add(&rig, &rng, RIG_LOOSE, 300, true);
    struct index_head *head = rig.segments[0][0].index;
    const size_t bytes = selector_ops.index_bytes(rig.selector, 300);
    index_layout_of(&head->form, &layout);
    uint32_t *begin = index_part(head, layout.unit_begin);
    uint16_t *positions = index_part(head, layout.positions);
    struct {
        void *at;
        size_t bytes;
        uint32_t value;
    } forgeries[] = {
        {&head->n_units, 4, 0},
        {&head->n_units, 4, layout.units_max + 1},
        {&begin[0], 4, 1},
        {&begin[3], 4, begin[2]},
        {&begin[3], 4, 0xffffffff},
        {&begin[head->n_units], 4, 301},
        {&positions[5], 2, 300},
        {&positions[5], 2, positions[6]},
        {&head->rep_norm, 4, 0x7fc00000},
    };
    for (uint32_t i = 0; i < sizeof forgeries / sizeof forgeries[0]; i++) {
        uint32_t old = 0;
        memcpy(&old, forgeries[i].at, forgeries[i].bytes);
        memcpy(forgeries[i].at, &forgeries[i].value, forgeries[i].bytes);
        head->hash = index_hash(head);
        assert_int_equal(selector_ops.check(rig.selector, head, bytes, 300), FATHOM_ECORRUPT);
        memcpy(forgeries[i].at, &old, forgeries[i].bytes);
    }
    head->hash = index_hash(head);
    check_ok(selector_ops.check(rig.selector, head, bytes, 300));
    rig_close(&rig);
}

// Parameters that make no sense are refused by name.
static void test_params(void **state)
{
    struct selector_params params = rig_params(1, 1, 64);
    struct selector *selector = NULL;
    (void)state;
    params.d_k = 257;
    assert_int_equal(selector_ops.open(&params, &selector), FATHOM_EINVAL);
    params = rig_params(1, 300, 64);
    assert_int_equal(selector_ops.open(&params, &selector), FATHOM_EINVAL);
    params = rig_params(1, 1, 64);
    params.segment_tokens_max = 65537;
    assert_int_equal(selector_ops.open(&params, &selector), FATHOM_EINVAL);
    params = rig_params(1, 1, 64);
    params.stage2_bits = 2;
    assert_int_equal(selector_ops.open(&params, &selector), FATHOM_EINVAL);
    assert_null(selector);
}

// ---- Speed --------------------------------------------------------------------------------------

static int compare_ns(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

// Of this thread: others may have the core in between.
static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void bench_segment(uint32_t n_rows, uint32_t d, bool merged)
{
    enum { RUNS = 7 };
    struct rng rng;
    struct selector_params params = rig_params(1, 1, d);
    uint64_t group_ns[RUNS], represent_ns[RUNS];
    params.estimate = true;
    params.stage2_bits = 4;
    rng_init(&rng, SEED);
    rig_open(&rig, &params, UINT32_MAX, 1);
    rig_add(&rig, &rng, RIG_LOOSE, n_rows, merged);
    struct rig_segment *s = &rig.segments[0][0];
    const struct selector_rows rows = {.k = s->given, .n_rows = n_rows, .merged = merged};
    void *scratch;
    check_ok(mem_new(selector_ops.scratch_bytes(rig.selector, n_rows), 1, "scratch", &scratch));
    for (int run = 0; run < RUNS; run++) {
        const uint64_t begin = cpu_ns();
        selector_ops.group(rig.selector, &rows, s->index, s->order, scratch);
        const uint64_t middle = cpu_ns();
        selector_ops.represent(rig.selector, s->k, s->v, n_rows, s->index, scratch);
        group_ns[run] = middle - begin;
        represent_ns[run] = cpu_ns() - middle;
    }
    qsort(group_ns, RUNS, sizeof group_ns[0], compare_ns);
    qsort(represent_ns, RUNS, sizeof represent_ns[0], compare_ns);
    printf("%5u x %3u: group %6.2f ms, represent %6.2f ms\n", n_rows, d,
           (double)group_ns[RUNS / 2] / 1e6, (double)represent_ns[RUNS / 2] / 1e6);
    mem_free(scratch);
    rig_close(&rig);
}

static int bench(void)
{
    bench_segment(8192, 64, true);
    bench_segment(8192, 128, true);
    bench_segment(1024, 64, false);
    bench_segment(1024, 128, false);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permutation),   cmocka_unit_test(test_unit_tokens),
        cmocka_unit_test(test_deterministic), cmocka_unit_test(test_corrupt),
        cmocka_unit_test(test_forged),        cmocka_unit_test(test_params),
    };
    return check_run("t_group", tests, sizeof tests / sizeof tests[0]);
}
