// The tiered cache when calls fail: a scenario of opening, prefill, decode, spilling, reading back,
// fork and truncate, with the first call that allocates or reaches the kernel failing, then the
// second, and so on until all goes well. Each failure is told or made good, leaves nothing behind
// (the address sanitizer looks), and the sequence goes on and gives what it should. Then bits of
// the file are turned, and disks that are too small.

#include "tests/kv/kv_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "src/base/status.h"
#include "tests/io/fault.h"
#include "tests/kv/naive.h"
#include "tests/kv/store_wrap.h"

enum { SEED = 20261123, N_MAX = 600, STEP_MAX = 32 };

// ---- An engine ----------------------------------------------------------------------------------

struct rig {
    struct naive naive;
    fathom_device *device;
    fathom_engine *engine;
    struct naive_seq a, b;
};

static struct fathom_engine_params base_params(int32_t mode)
{
    struct fathom_engine_params p = rig_params(&(struct rig_sizes){2, 4, 2, 20, N_MAX, STEP_MAX});
    p.d_v = 12;
    p.n_seqs_max = 2;
    p.kv.mode = mode;
    p.kv.prefill = FATHOM_PREFILL_SPARSE;
    p.kv.budget_share = 1.0f;
    p.kv.n_sink = 4;
    p.kv.n_window = 8;
    p.kv.n_segment = 16;
    p.kv.n_merged = 32;
    p.kv.disk_bytes = 1 << 20;
    p.kv.disk_path = ".";
    p.kv.host_bytes = 128 << 10;
    return p;
}

static fathom_status open_engine(struct rig *rig)
{
    struct fathom_device_params device;
    fathom_device_params_init(&device);
    device.n_threads = 2;
    FATHOM_TRY(fathom_device_open(&device, &rig->device));
    return fathom_engine_open(rig->device, &rig->naive.params, &rig->engine);
}

// With as little RAM as the engine takes.
static void init_rig(struct rig *rig, struct fathom_engine_params p)
{
    memset(rig, 0, sizeof *rig);
    naive_init(&rig->naive, &p, SEED);
    rig->device = rig_device();
    rig_open_least(rig->device, &rig->naive.params, 64, &rig->engine);
    rig_close(&rig->device, &rig->engine);
    naive_seq_init(&rig->naive, &rig->a);
    naive_seq_init(&rig->naive, &rig->b);
}

static void fini_rig(struct rig *rig)
{
    rig_close(&rig->device, &rig->engine);
    naive_seq_fini(&rig->a);
    naive_seq_fini(&rig->b);
    naive_fini(&rig->naive);
}

static void check_told(fathom_status status)
{
    assert_true(status == FATHOM_ENOMEM || status == FATHOM_EIO || status == FATHOM_EFULL ||
                status == FATHOM_EUNSUPPORTED);
    assert_true(strlen(fathom_last_error()) > 10);
}

// ---- Each call ----------------------------------------------------------------------------------

static void cut_back(struct rig *rig, struct naive_seq *seq, uint32_t n)
{
    check_ok(fathom_seq_truncate(rig->engine, seq->seq, n));
    seq->n = n;
}

// Steps go on: at once when the fault is over, or, when nothing more can leave RAM, once there are
// fewer tokens.
static void step(struct rig *rig, struct naive_seq *seq, uint32_t n)
{
    uint32_t n_tokens;
    fathom_status status = naive_step(&rig->naive, rig->engine, seq, n);
    if (status >= 0) return;
    check_told(status);
    assert_true(fault_met());
    check_ok(fathom_seq_count(rig->engine, seq->seq, &n_tokens));
    assert_int_equal(n_tokens, seq->n);
    status = naive_step(&rig->naive, rig->engine, seq, n);
    if (status == FATHOM_EFULL) {
        assert_non_null(strstr(fathom_last_error(), "no room"));
        cut_back(rig, seq, seq->n / 2);
        status = naive_step(&rig->naive, rig->engine, seq, 1);
    }
    check_ok(status);
}

static void use(struct rig *rig)
{
    fathom_status status = fathom_seq_create(rig->engine, &rig->a.seq);
    if (status < 0) check_ok(fathom_seq_create(rig->engine, &rig->a.seq));
    rig->a.n = 0;
    for (int i = 0; i < 8; i++)
        step(rig, &rig->a, STEP_MAX);
    for (int i = 0; i < 3; i++)
        step(rig, &rig->a, 1);
    status = fathom_seq_fork(rig->engine, rig->a.seq, &rig->b.seq);
    if (status < 0) check_ok(fathom_seq_fork(rig->engine, rig->a.seq, &rig->b.seq));
    memcpy(rig->b.tokens, rig->a.tokens, rig->a.n * sizeof *rig->a.tokens);
    rig->b.n = rig->a.n;
    cut_back(rig, &rig->a, rig->a.n / 2);
    step(rig, &rig->b, STEP_MAX);
    step(rig, &rig->a, STEP_MAX);
    step(rig, &rig->b, 1);
    check_ok(fathom_seq_free(rig->engine, rig->a.seq));
    step(rig, &rig->b, 1);
    check_ok(fathom_seq_free(rig->engine, rig->b.seq));
    assert_int_equal(rig_stats(rig->engine).disk_bytes, 0);
    assert_int_equal(rig_stats(rig->engine).n_segments, 0);
}

static void each_call(const struct queue_ops *queue_ops, int error)
{
    struct rig rig;
    size_t n = 0;
    store_wrap.queue_ops = queue_ops;
    init_rig(&rig, base_params(FATHOM_KV_SPARSE));
    for (;; n++) {
        fault_begin(n, error);
        const fathom_status status = open_engine(&rig);
        if (status < 0) check_told(status);
        if (status >= 0) use(&rig);
        const bool met = fault_met();
        fault_end();
        if (!met) assert_true(rig_stats(rig.engine).disk_bytes_read > 0);
        rig_close(&rig.device, &rig.engine);
        if (!met) break;
    }
    printf("%s: %zu calls\n", strerror(error), n);
    assert_true(n > 60);
    fini_rig(&rig);
}

static void each_call_of_threads(void **state)
{
    (void)state;
    each_call(&queue_pread, EIO);
}

static void each_call_of_any(void **state)
{
    (void)state;
    each_call(NULL, EIO);
    each_call(NULL, ENOSPC);
}

// What else an engine may allocate: with collapsed positions and a calibrated threshold.
static void each_call_of_opening(void **state)
{
    struct rig rig;
    struct fathom_engine_params p = base_params(FATHOM_KV_SPARSE);
    size_t n = 0;
    (void)state;
    p.rope.pairing = FATHOM_ROPE_HALVES;
    p.kv.positions = FATHOM_POSITIONS_COLLAPSED;
    p.kv.threshold_auto = true;
    store_wrap.queue_ops = &queue_pread;
    init_rig(&rig, p);
    for (bool met = true; met; n++) {
        fault_begin(n, EIO);
        fathom_status status = open_engine(&rig);
        if (status >= 0) status = fathom_seq_create(rig.engine, &rig.a.seq);
        met = fault_met();
        fault_end();
        if (status < 0) check_told(status);
        if (!met) check_ok(status);
        rig_close(&rig.device, &rig.engine);
    }
    printf("opening: %zu calls\n", n);
    assert_true(n > 30);
    fini_rig(&rig);
}

// ---- Turned bits --------------------------------------------------------------------------------

static void turn_bit(int fd, size_t page, uint32_t bit)
{
    static _Alignas(STORE_PAGE_BYTES) uint8_t data[STORE_PAGE_BYTES];
    const off_t at = (off_t)(page * STORE_PAGE_BYTES);
    assert_int_equal(pread(fd, data, sizeof data, at), sizeof data);
    data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    assert_int_equal(pwrite(fd, data, sizeof data, at), sizeof data);
}

// Every step of `stream` reads every page that is held, so the turned bit is always met.
static void turned_bits(void **state)
{
    struct rig rig;
    size_t n_corrupt = 0;
    (void)state;
    store_wrap.queue_ops = NULL;
    init_rig(&rig, base_params(FATHOM_KV_STREAM));
    check_ok(open_engine(&rig));
    check_ok(fathom_seq_create(rig.engine, &rig.a.seq));
    for (int i = 0; i < 10; i++)
        step(&rig, &rig.a, STEP_MAX);
    const int fd = disk_store_fd(store_wrap.opened);
    const size_t n_pages = (size_t)lseek(fd, 0, SEEK_END) / STORE_PAGE_BYTES;
    const uint32_t n = rig.a.n;
    for (size_t page = 0; page < n_pages; page++) {
        const uint32_t bit = rng_below(&rig.naive.rng, 8 * STORE_PAGE_BYTES);
        turn_bit(fd, page, bit);
        const fathom_status status = naive_step(&rig.naive, rig.engine, &rig.a, 1);
        if (status < 0) {
            check_error(status, FATHOM_ECORRUPT, "page 0 of the extent of 1 pages");
            n_corrupt++;
        }
        turn_bit(fd, page, bit);
        if (status >= 0) cut_back(&rig, &rig.a, n);
        check_ok(naive_step(&rig.naive, rig.engine, &rig.a, 1));
        cut_back(&rig, &rig.a, n);
    }
    printf("%zu of %zu pages met\n", n_corrupt, n_pages);
    assert_true(n_corrupt > 0);
    assert_int_equal(n_corrupt, rig_stats(rig.engine).disk_bytes / STORE_PAGE_BYTES);
    fini_rig(&rig);
}

// ---- Disks that are too small -------------------------------------------------------------------

static void fill_disk(uint64_t disk_bytes, uint64_t day_bytes)
{
    struct rig rig;
    struct fathom_engine_params p = base_params(FATHOM_KV_SPARSE);
    fathom_status status = FATHOM_OK;
    p.kv.disk_bytes = disk_bytes;
    p.kv.disk_day_bytes = day_bytes;
    init_rig(&rig, p);
    check_ok(open_engine(&rig));
    check_ok(fathom_seq_create(rig.engine, &rig.a.seq));
    while (status >= 0 && rig.a.n < N_MAX)
        status = naive_step(&rig.naive, rig.engine, &rig.a, 1);
    printf("full at %u tokens\n", rig.a.n);
    check_error(status, FATHOM_EFULL, "or see to the disk, which takes no more: disk tier: ");
    assert_true(rig.a.n < N_MAX && rig_stats(rig.engine).disk_bytes_written > 0);
    cut_back(&rig, &rig.a, rig.a.n - 1);
    check_ok(naive_step(&rig.naive, rig.engine, &rig.a, 1));
    cut_back(&rig, &rig.a, rig.a.n / 2);
    for (int i = 0; i < 20; i++)
        check_ok(naive_step(&rig.naive, rig.engine, &rig.a, 1));
    fini_rig(&rig);
}

static void small_disks(void **state)
{
    (void)state;
    store_wrap.queue_ops = NULL;
    fill_disk(10 * STORE_PAGE_BYTES, 0);
    fill_disk(1 << 20, 10 * STORE_PAGE_BYTES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_call_of_threads), cmocka_unit_test(each_call_of_any),
        cmocka_unit_test(each_call_of_opening), cmocka_unit_test(turned_bits),
        cmocka_unit_test(small_disks),
    };
    return check_run("t_faults", tests, sizeof tests / sizeof *tests);
}
