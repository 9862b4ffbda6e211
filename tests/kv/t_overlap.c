// Search, disk and attention side by side: what a KV head picked is being read while the next ones
// are searched, and nothing depends on which was ready first.

#include "tests/kv/kv_rig.h"

#include <string.h>
#include <time.h>

#include "index/selectors.h"
#include "src/base/mem.h"
#include "src/kv/wire.h"
#include "tests/io/queue_fake.h"
#include "tests/kv/store_wrap.h"

enum {
    SEED = 20261129,
    N_HEADS = 8,
    N_KV_HEADS = 4,
    D = 16,
    N_STEP = 64,
    N_PROMPT = 4096,
    N_MAX = N_PROMPT + 64,
    N_DECODED = 12,
    NOBODY = N_KV_HEADS,
};

// ---- A selector that is watched -----------------------------------------------------------------

// slow: the head whose pick takes long. n_pushed: requests to the disk before each head's pick.
static struct {
    uint32_t slow;
    size_t n_pushed[N_KV_HEADS];
} watched;

static void watch_pick(struct search *search, uint32_t head, uint32_t thread, uint64_t budget,
                       struct selection *out)
{
    if (thread == 0) watched.n_pushed[head] = queue_fake.n_pushed; // which that thread counts
    if (head == watched.slow) (void)nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    selector_ops.pick_head(search, head, thread, budget, out);
}

const struct selector_ops *__wrap_wire_selector_ops(void);
const struct selector_ops *__wrap_wire_selector_ops(void)
{
    static struct selector_ops ops;
    ops = selector_ops;
    ops.pick_head = watch_pick;
    return &ops;
}

// ---- An engine whose rows are on disk -----------------------------------------------------------

struct rig {
    fathom_device *device;
    fathom_engine *engine;
    struct fathom_seq seq;
    struct rng rng;
    float q[N_HEADS * D];
};

static void append(struct rig *rig, uint32_t n)
{
    float *rows = rig_values(&rig->rng, (size_t)2 * n * N_KV_HEADS * D);
    check_ok(fathom_step_begin(rig->engine, rig->seq, n));
    check_ok(fathom_append(rig->engine, rig->seq, 0, rows, rows + (size_t)n * N_KV_HEADS * D));
    mem_free(rows);
}

// With as little RAM as the engine takes.
static void open_rig(struct rig *rig, uint32_t n_threads)
{
    struct fathom_device_params device;
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){1, N_HEADS, N_KV_HEADS, D, N_MAX, N_STEP});
    p.kv.mode = FATHOM_KV_SPARSE;
    p.kv.stage2_bits = 0;
    p.kv.n_window = 16;
    p.kv.n_segment = 64;
    p.kv.n_merged = 256;
    p.kv.budget_tokens = 24;
    p.kv.disk_bytes = 16 << 20;
    p.kv.disk_path = ".";
    p.kv.host_bytes = 256 << 10;
    queue_fake = (struct queue_fake){0};
    store_wrap.queue_ops = &queue_fake_ops;
    fathom_device_params_init(&device);
    device.n_threads = n_threads;
    check_ok(fathom_device_open(&device, &rig->device));
    rig_open_least(rig->device, &p, 32, &rig->engine);
    check_ok(fathom_seq_create(rig->engine, &rig->seq));
    rng_init(&rig->rng, SEED);
    rig_fill(&rig->rng, rig->q, N_HEADS * D);
    for (uint32_t n = 0; n < N_PROMPT; n += N_STEP) {
        append(rig, N_STEP);
        check_ok(fathom_step_end(rig->engine, rig->seq));
    }
}

static void decode(struct rig *rig, float *out)
{
    append(rig, 1);
    check_ok(fathom_attend(rig->engine, rig->seq, 0, rig->q, out));
    check_ok(fathom_step_end(rig->engine, rig->seq));
}

// ---- Tests --------------------------------------------------------------------------------------

static void reads_while_searching(void **state)
{
    struct rig rig;
    float out[N_HEADS * D];
    (void)state;
    watched.slow = NOBODY;
    open_rig(&rig, 1); // which searches the heads in their order
    const size_t n_before = queue_fake.n_pushed;
    decode(&rig, out);
    assert_int_equal(watched.n_pushed[0], n_before);
    for (uint32_t h = 1; h < N_KV_HEADS; h++)
        assert_true(watched.n_pushed[h] > watched.n_pushed[h - 1]);
    rig_close(&rig.device, &rig.engine);
}

// Steps that ask anew or as before, and at last for more than there is RAM for at once.
static void any_order(void **state)
{
    static float outs[N_KV_HEADS + 1][N_DECODED][N_HEADS * D];
    struct fathom_kv_stats stats[N_KV_HEADS + 1];
    (void)state;
    for (uint32_t slow = 0; slow <= NOBODY; slow++) {
        struct rig rig;
        watched.slow = slow;
        open_rig(&rig, 2);
        for (int i = 0; i < N_DECODED; i++) {
            if (i % 2 == 1) rig_fill(&rig.rng, rig.q, N_HEADS * D);
            if (i == N_DECODED / 2)
                check_ok(fathom_engine_set_budget(rig.engine, -1, -1, 512, 0.0f));
            decode(&rig, outs[slow][i]);
        }
        stats[slow] = rig_stats(rig.engine);
        assert_memory_equal(outs[slow], outs[0], sizeof outs[0]);
        assert_int_equal(stats[slow].disk_reads, stats[0].disk_reads);
        assert_int_equal(stats[slow].host_hits, stats[0].host_hits);
        rig_close(&rig.device, &rig.engine);
    }
    printf("%llu reads, %llu hits\n", (unsigned long long)stats[0].disk_reads,
           (unsigned long long)stats[0].host_hits);
    assert_true(stats[0].host_hits > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_while_searching),
        cmocka_unit_test(any_order),
    };
    printf("seed %d\n", SEED);
    return check_run("overlap", tests, sizeof tests / sizeof *tests);
}
