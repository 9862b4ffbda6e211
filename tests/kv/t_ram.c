// What the cache takes of the process's memory, against what it was allowed: an engine whose RAM
// budget binds is filled, and asked so that all arrays of its search are used.

#include "tests/kv/kv_rig.h"

#include <string.h>
#include <unistd.h>

#include "src/base/mem.h"

enum { SEED = 20261125, N_STEP = 512, N_ASK = 4, ROWS = 4096 };

// Resident memory of this process. VmHWM would be the peak of earlier cases too.
static uint64_t resident_bytes(void)
{
    unsigned long long all, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu %llu", &all, &resident), 2);
    fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static struct fathom_engine_params base_params(uint32_t n_tokens)
{
    struct fathom_engine_params p = rig_params(&(struct rig_sizes){1, 32, 8, 16, n_tokens, N_STEP});
    p.kv.mode = FATHOM_KV_SPARSE;
    p.kv.budget_share = 0.95f;
    p.kv.host_bytes = 8 << 20;
    p.kv.verify_share = 1e-6f; // sums up what is not picked, too
    return p;
}

static void append(fathom_engine *engine, struct fathom_seq seq, uint32_t at, uint32_t n,
                   const float *rows, float *out)
{
    const float *k = rows + (size_t)(at % ROWS) * 8 * 16;
    check_ok(fathom_step_begin(engine, seq, n));
    check_ok(fathom_append(engine, seq, 0, k, k + 7));
    if (out != NULL) check_ok(fathom_attend(engine, seq, 0, k + 3, out));
    check_ok(fathom_step_end(engine, seq));
}

static void run(struct fathom_engine_params p)
{
    static float out[N_STEP * 32 * 16];
    fathom_engine *engine;
    struct fathom_seq seq;
    struct rng rng;
    rng_init(&rng, SEED);
    // Used again and again, from another place each time; queries lie among them.
    float *rows = rig_values(&rng, (size_t)(ROWS + N_STEP) * 32 * 16);
    fathom_device *device = rig_device();
    const uint64_t before = resident_bytes();
    rig_open_least(device, &p, 8, &engine);
    printf("%s\n", fathom_engine_plan(engine));
    check_ok(fathom_seq_create(engine, &seq));
    // The longest steps take the most.
    const bool asks = p.kv.prefill == FATHOM_PREFILL_SPARSE;
    const uint32_t n_asked = p.n_tokens_max - (asks ? 2 : 0) * N_STEP;
    uint32_t n = 0;
    for (; n + N_STEP + N_ASK <= p.n_tokens_max; n += N_STEP)
        append(engine, seq, n, N_STEP, rows, n >= n_asked ? out : NULL);
    uint64_t most = resident_bytes();
    for (uint32_t i = 0; i < N_ASK; i++) {
        append(engine, seq, n++, 1, rows, out);
        most = resident_bytes() > most ? resident_bytes() : most;
    }
    const struct fathom_kv_stats stats = rig_stats(engine);
    const uint64_t grown = most - before, promised = p.kv.host_bytes + stats.device_bytes;
    printf("promised %.1f MB, used %.1f, of them hot rows %.1f; stats say %.1f\n",
           (double)promised * 1e-6, (double)grown * 1e-6, (double)stats.device_bytes * 1e-6,
           (double)(stats.host_bytes + stats.device_bytes) * 1e-6);
    assert_true(stats.host_bytes <= p.kv.host_bytes);
    assert_true(grown <= promised + promised / 20 + (8 << 20));
    // What is promised is what it takes, not some large number.
    assert_true(grown >= promised / 2);
    const bool on_disk = fathom_engine_kv(engine)->disk_bytes > 0;
    assert_int_equal(stats.disk_bytes_read > 0, on_disk);
    rig_close(&device, &engine);
    mem_free(rows);
}

// Every key is a unit: as many units are wanted from disk as rows.
static void flat_on_disk(void **state)
{
    struct fathom_engine_params p = base_params(1 << 17);
    (void)state;
    p.kv.selector = FATHOM_SELECTOR_FLAT;
    p.kv.disk_bytes = 1 << 30;
    p.kv.disk_path = ".";
    run(p);
}

// Every token is a candidate, and scored.
static void tokens_in_ram(void **state)
{
    struct fathom_engine_params p = base_params(1 << 17);
    (void)state;
    p.kv.selector = FATHOM_SELECTOR_BLOCK;
    p.kv.stage2_bits = 4;
    run(p);
}

// The query heads of 32 tokens score together.
static void prompts(void **state)
{
    struct fathom_engine_params p = base_params(1 << 17);
    (void)state;
    p.kv.prefill = FATHOM_PREFILL_SPARSE;
    run(p);
}

// Too short for a merged segment, and for anything to leave RAM: there are no places for either.
static void short_context(void **state)
{
    struct fathom_engine_params p = base_params(6144);
    (void)state;
    p.kv.disk_bytes = 1 << 30;
    p.kv.disk_path = ".";
    run(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_context),
        cmocka_unit_test(flat_on_disk),
        cmocka_unit_test(tokens_in_ram),
        cmocka_unit_test(prompts),
    };
    printf("seed %d\n", SEED);
    return check_run("ram", tests, sizeof tests / sizeof *tests);
}
