// The disk tier's store at its limits: a full disk, caps, deadlines, requests that are done by
// halves or not at all.
//
// The linker wraps the clock, so that a day can pass.

#include "tests/check.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "io/disk_store.h"
#include "io/store_file.h"
#include "src/base/clock.h"
#include "tests/io/queue_fake.h"
#include "tests/io/store_rig.h"

enum { BUFFER_BYTES = 4 << 20 };

static uint64_t clock_ahead_ns;

uint64_t __real_clock_ns(void);
uint64_t __wrap_clock_ns(void);

uint64_t __wrap_clock_ns(void)
{
    return __real_clock_ns() + clock_ahead_ns;
}

static void open_rig(struct store_rig *rig)
{
    queue_fake = (struct queue_fake){0};
    store_rig_init(rig, BUFFER_BYTES);
    store_rig_open(rig, &queue_fake_ops);
}

static void pass_minutes(uint64_t n)
{
    clock_ahead_ns += n * 60 * 1000000000;
}

static void day_cap(void **state)
{
    struct store_rig rig;
    struct store_extent extent, none;
    (void)state;
    open_rig(&rig);
    rig.params.day_bytes_max = 40 * STORE_PAGE_BYTES;
    store_rig_open(&rig, NULL);
    extent = store_rig_put(&rig, 1, 30);
    pass_minutes(12 * 60);
    check_error(store_rig_write(&rig, 2, 11, &none), FATHOM_EFULL, "--kv-disk-writes-per-day");
    store_ops.release(rig.store, extent); // written is written
    check_error(store_rig_write(&rig, 2, 11, &none), FATHOM_EFULL, "--kv-disk-writes-per-day");
    extent = store_rig_put(&rig, 3, 10);
    check_error(store_rig_write(&rig, 4, 1, &none), FATHOM_EFULL, "--kv-disk-writes-per-day");
    pass_minutes(12 * 60 - 1);
    check_error(store_rig_write(&rig, 4, 1, &none), FATHOM_EFULL, "--kv-disk-writes-per-day");
    pass_minutes(11);
    store_rig_put(&rig, 5, 30);
    check_error(store_rig_write(&rig, 6, 1, &none), FATHOM_EFULL, "--kv-disk-writes-per-day");
    pass_minutes(100 * 24 * 60);
    check_error(store_rig_write(&rig, 6, 41, &none), FATHOM_EFULL, "--kv-disk-writes-per-day");
    store_rig_put(&rig, 6, 40);
    store_rig_check(&rig, 3, extent);
    store_rig_fini(&rig);
}

static void deadlines(void **state)
{
    struct store_rig rig;
    struct store_stats before, after;
    (void)state;
    open_rig(&rig);
    struct store_extent extent = store_rig_put(&rig, 1, 8);
    store_ops.stats(rig.store, &before);
    queue_fake.holds = true;
    struct store_read read = {.extent = extent, .n_pages = 8, .at = rig.buffer};
    check_ok(store_ops.submit(rig.store, &read, 1));
    const int64_t begin_ns = (int64_t)clock_ns();
    assert_int_equal(store_ops.wait(rig.store, begin_ns), FATHOM_IN_PROGRESS);
    assert_int_equal(store_ops.wait(rig.store, 0), FATHOM_IN_PROGRESS);
    store_ops.stats(rig.store, &after);
    assert_int_equal(after.n_stalls, before.n_stalls); // nothing to sleep for
    const int64_t deadline_ns = (int64_t)clock_ns() + 5000000;
    assert_int_equal(store_ops.wait(rig.store, deadline_ns), FATHOM_IN_PROGRESS);
    assert_true((int64_t)clock_ns() >= deadline_ns);
    assert_int_equal(read.status, FATHOM_IN_PROGRESS);
    store_ops.await(rig.store, &read, 0);
    assert_int_equal(read.status, FATHOM_IN_PROGRESS);
    store_ops.stats(rig.store, &after);
    assert_int_equal(after.n_stalls, before.n_stalls + 1);
    assert_int_equal(after.n_reads, 0);
    queue_fake.holds = false;
    check_ok(store_ops.wait(rig.store, INT64_MAX));
    assert_int_equal(read.status, FATHOM_OK);
    store_rig_compare(rig.buffer, 1, 0, 8);
    store_rig_fini(&rig);
}

// What became of one read is told by its status, and to whoever waits for all.
static void await_one(void **state)
{
    struct store_rig rig;
    (void)state;
    open_rig(&rig);
    const struct store_extent extent = store_rig_put(&rig, 1, 5);
    struct store_read reads[] = {
        {.extent = extent, .n_pages = 4, .at = rig.buffer},
        {.extent = extent, .page = 4, .n_pages = 1, .at = rig.buffer + 4 * STORE_PAGE_BYTES}};
    queue_fake.n_good = queue_fake.n_pushed + 1;
    queue_fake.result = -EIO;
    check_ok(store_ops.submit(rig.store, reads, 2));
    store_ops.await(rig.store, &reads[0], INT64_MAX);
    assert_int_equal(reads[0].status, FATHOM_OK);
    store_rig_compare(rig.buffer, 1, 0, 4);
    store_ops.await(rig.store, &reads[1], INT64_MAX);
    assert_int_equal(reads[1].status, FATHOM_EIO);
    store_ops.await(rig.store, &reads[1], INT64_MAX); // is done, and stays so
    check_error(store_ops.wait(rig.store, INT64_MAX), FATHOM_EIO, "page 4 of the extent of 5");
    store_rig_fini(&rig);
}

static void halves(void **state)
{
    struct store_rig rig;
    (void)state;
    open_rig(&rig);
    queue_fake.halves = true;
    for (uint32_t n_pages = 1; n_pages < 400; n_pages = n_pages * 3 / 2 + 1) {
        size_t n_before = queue_fake.n_pushed;
        store_rig_check(&rig, n_pages, store_rig_put(&rig, n_pages, n_pages));
        assert_true(queue_fake.n_pushed - n_before >= (n_pages > 1 ? 4 : 2));
    }
    store_rig_fini(&rig);
}

// Two writes and a batch of reads, where request n_good has this result. Both extents hold what
// was written, or nothing; reads give what was written, or their own status.
static fathom_status run_failing(struct store_rig *rig, size_t n_good, int32_t result)
{
    struct store_extent extents[2] = {{0}, {0}};
    struct store_read reads[20];
    uint64_t seeds[20];
    fathom_status lowest = FATHOM_OK;
    queue_fake = (struct queue_fake){.n_good = n_good, .result = result};
    for (uint32_t i = 0; i < 2; i++) {
        fathom_status status = store_rig_write(rig, i, 300, &extents[i]);
        if (status < lowest) lowest = status;
        if (status != FATHOM_OK) check_error(status, status, "of the extent of 300 pages at page");
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < 20; i++) {
        if (extents[i % 2].n_pages == 0) continue;
        seeds[n] = i % 2;
        reads[n++] = (struct store_read){.extent = extents[i % 2],
                                         .page = i * 10,
                                         .n_pages = i + 1,
                                         .at = rig->buffer + (size_t)i * 20 * STORE_PAGE_BYTES};
    }
    check_ok(store_ops.submit(rig->store, reads, n));
    fathom_status status = store_ops.wait(rig->store, INT64_MAX);
    if (status < lowest) lowest = status;
    if (status != FATHOM_OK) check_error(status, FATHOM_EIO, "cannot be read");
    for (uint32_t i = 0; i < n; i++) {
        if (reads[i].status == FATHOM_OK)
            store_rig_compare(reads[i].at, seeds[i], reads[i].page, reads[i].n_pages);
        else
            assert_int_equal(reads[i].status, FATHOM_EIO);
    }
    store_ops.release(rig->store, extents[0]);
    store_ops.release(rig->store, extents[1]);
    assert_int_equal(store_rig_bytes_held(rig), 0);
    return lowest;
}

static void each_request_fails(void **state)
{
    static const struct {
        int32_t result;
        fathom_status status[2]; // allowed
    } cases[] = {
        {-EIO, {FATHOM_EIO, FATHOM_EIO}},    {-ENOSPC, {FATHOM_EFULL, FATHOM_EIO}},
        {-EAGAIN, {FATHOM_EIO, FATHOM_EIO}}, {-EINTR, {FATHOM_OK, FATHOM_OK}},
        {100, {FATHOM_EIO, FATHOM_EIO}},
    };
    struct store_rig rig;
    (void)state;
    open_rig(&rig);
    rig.params.depth = 6;
    rig.params.bytes_max = 600 * STORE_PAGE_BYTES;
    store_rig_open(&rig, &queue_fake_ops);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t n = 0;
        do {
            fathom_status status = run_failing(&rig, n, cases[i].result);
            if (queue_fake.n_pushed <= n)
                assert_int_equal(status, FATHOM_OK);
            else if (status != cases[i].status[0])
                assert_int_equal(status, cases[i].status[1]);
        } while (queue_fake.n_pushed > n++);
        assert_true(n > 20);
        assert_int_equal(run_failing(&rig, SIZE_MAX, 0), FATHOM_OK);
    }
    store_rig_fini(&rig);
}

// Writes until there is no more room; all that was written stays. Returns how many pages that was.
static uint32_t fill_disk(struct store_rig *rig, uint32_t n_pages)
{
    struct store_extent extents[64];
    struct store_extent none;
    uint32_t n = 0;
    while (n < 64 && store_rig_write(rig, n, n_pages, &extents[n]) == FATHOM_OK)
        n++;
    assert_in_range(n, 1, 63);
    check_error(store_rig_write(rig, 99, n_pages, &none), FATHOM_EFULL, rig->params.dir);
    check_error(FATHOM_EFULL, FATHOM_EFULL,
                "make room there or name another folder with --kv-disk-path");
    assert_int_equal(store_rig_bytes_held(rig), (uint64_t)n * n_pages * STORE_PAGE_BYTES);
    for (uint32_t i = 0; i < n; i++)
        store_rig_check(rig, i, extents[i]);
    store_ops.release(rig->store, extents[0]);
    store_rig_check(rig, 7, store_rig_put(rig, 7, n_pages));
    return n * n_pages;
}

static void small_disk(void **state)
{
    struct store_rig rig;
    char dir[] = "/tmp/fathom-test-XXXXXX";
    (void)state;
    open_rig(&rig);
    store_ops.close(&rig.store);
    assert_non_null(mkdtemp(dir));
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", dir, "tmpfs", 0, "size=1m") != 0) {
        rmdir(dir);
        store_rig_fini(&rig);
        check_skip("mounting a small file system: %s", strerror(errno));
    }
    rig.params.dir = dir;
    store_rig_open(&rig, NULL);
    assert_non_null(strstr(rig.logged, "--kv-disk of 16.0 MiB, and in /tmp/fathom-test-"));
    assert_non_null(strstr(rig.logged, " 1.0 MiB are free, so the cache"));
    assert_in_range(fill_disk(&rig, 20), 200, 256);
    store_rig_fini(&rig);
    // io_uring lets go of the file a moment after it was closed.
    assert_int_equal(umount2(dir, MNT_DETACH), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void file_size_limit(void **state)
{
    struct store_rig rig;
    const struct rlimit limit = {1 << 20, RLIM_INFINITY};
    const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    store_rig_init(&rig, BUFFER_BYTES);
    store_rig_open(&rig, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_in_range(fill_disk(&rig, 20), 240, 256);
    store_rig_fini(&rig);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
}

// The file has no name, and nobody else may open it.
static void private_file(void **state)
{
    struct store_rig rig;
    (void)state;
    open_rig(&rig);
    const int fds[] = {disk_store_fd(rig.store), store_file_create_named(rig.params.dir)};
    for (int i = 0; i < 2; i++) {
        struct stat info;
        assert_true(fds[i] >= 0);
        assert_int_equal(fstat(fds[i], &info), 0);
        assert_int_equal(info.st_nlink, 0);
        assert_int_equal(info.st_mode & 07777, 0600);
        assert_true((fcntl(fds[i], F_GETFD) & FD_CLOEXEC) != 0);
    }
    close(fds[1]);
    errno = 0;
    assert_int_equal(store_file_create_named("/nowhere/at/all"), -1);
    assert_int_equal(errno, ENOENT);
    store_rig_fini(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(day_cap),
        cmocka_unit_test(deadlines),
        cmocka_unit_test(await_one),
        cmocka_unit_test(halves),
        cmocka_unit_test(each_request_fails),
        cmocka_unit_test(small_disk),
        cmocka_unit_test(file_size_limit),
        cmocka_unit_test(private_file),
    };
    return check_run("t_store_limits", tests, sizeof tests / sizeof tests[0]);
}
