// The disk tier when calls fail: opening, writing, reading and closing, with the first call that
// allocates or reaches the kernel failing, then the second, and so on until all goes well. Each
// failure is told or made good, leaves nothing behind, and leaves an open store usable.

#include "tests/check.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/status.h"
#include "tests/io/fault.h"
#include "tests/io/store_rig.h"

enum { BUFFER_BYTES = 2 << 20, WRITE_PAGES = 300 };

static int count_files(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

// Writes, reads, frees, writes. Every status that comes back is good or tells; what is read is
// right or has a status. Returns the lowest.
static fathom_status use(struct store_rig *rig)
{
    struct store_extent extents[2] = {{0}, {0}};
    struct store_read reads[12];
    uint64_t seeds[12];
    uint32_t n = 0;
    fathom_status lowest = FATHOM_OK;
    for (uint32_t i = 0; i < 2; i++) {
        fathom_status status = store_rig_write(rig, i, WRITE_PAGES, &extents[i]);
        if (status < lowest) lowest = status;
    }
    for (uint32_t i = 0; i < 12; i++) {
        if (extents[i % 2].n_pages == 0) continue;
        seeds[n] = i % 2;
        reads[n++] = (struct store_read){.extent = extents[i % 2],
                                         .page = i * 20,
                                         .n_pages = 1 + i * 3,
                                         .at = rig->buffer + (size_t)i * 36 * STORE_PAGE_BYTES};
    }
    check_ok(store_ops.submit(rig->store, reads, n));
    fathom_status status = store_ops.wait(rig->store, INT64_MAX);
    if (status < lowest) lowest = status;
    for (uint32_t i = 0; i < n; i++) {
        if (reads[i].status == FATHOM_OK)
            store_rig_compare(reads[i].at, seeds[i], reads[i].page, reads[i].n_pages);
        else
            assert_int_equal(reads[i].status, status);
    }
    store_ops.release(rig->store, extents[0]);
    store_ops.release(rig->store, extents[1]);
    assert_int_equal(store_rig_bytes_held(rig), 0);
    return lowest;
}

static void check_told(fathom_status status)
{
    if (status == FATHOM_OK) return;
    assert_true(status == FATHOM_ENOMEM || status == FATHOM_EIO || status == FATHOM_EFULL ||
                status == FATHOM_EUNSUPPORTED);
    assert_true(strlen(fathom_last_error()) > 10);
}

// Returns how many calls there were.
static size_t run_all(struct store_rig *rig, const struct queue_ops *queue_ops, int error)
{
    for (size_t n = 0;; n++) {
        const int n_files = count_files();
        fault_begin(n, error);
        fathom_status status = disk_store_open(&rig->params, queue_ops, &rig->store);
        if (status == FATHOM_OK) status = use(rig);
        const bool met = fault_met();
        fault_end();
        check_told(status);
        if (!met) assert_int_equal(status, FATHOM_OK);
        if (rig->store != NULL) check_ok(use(rig));
        store_ops.close(&rig->store);
        assert_int_equal(count_files(), n_files);
        if (!met) return n;
    }
}

static const int errors[] = {EIO, EAGAIN, ENOSPC, EINTR, EINVAL};

static void each_call(const struct queue_ops *queue_ops)
{
    struct store_rig rig;
    store_rig_init(&rig, BUFFER_BYTES);
    rig.params.depth = 8; // fills a ring of io_uring, whose sizes are powers of two
    rig.params.bytes_max = 2 * WRITE_PAGES * STORE_PAGE_BYTES;
    fathom_status status = disk_store_open(&rig.params, queue_ops, &rig.store);
    store_ops.close(&rig.store);
    if (status == FATHOM_EUNSUPPORTED) {
        store_rig_fini(&rig);
        check_skip("%s", fathom_last_error());
    }
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        size_t n = run_all(&rig, queue_ops, errors[i]);
        printf("%s: %zu calls\n", strerror(errors[i]), n);
        assert_true(n > 20);
    }
    store_rig_fini(&rig);
}

static void each_call_of_threads(void **state)
{
    (void)state;
    each_call(&queue_pread);
}

static void each_call_of_uring(void **state)
{
    (void)state;
    each_call(&queue_uring);
}

// Whichever queue it comes to be.
static void each_call_of_any(void **state)
{
    (void)state;
    each_call(NULL);
}

// Opens with ever later calls failing, until that makes the log say this; the store works, and the
// log says no more.
static void open_logged(struct store_rig *rig, const struct queue_ops *queue_ops, int error,
                        const char *words)
{
    store_rig_init(rig, BUFFER_BYTES);
    for (size_t n = 0; strstr(rig->logged, words) == NULL; n++) {
        store_ops.close(&rig->store);
        fault_begin(n, error);
        fathom_status status = disk_store_open(&rig->params, queue_ops, &rig->store);
        fault_end();
        check_told(status);
        assert_true(n < 50);
    }
    const size_t n_logged = rig->n_logged;
    check_ok(use(rig));
    assert_int_equal(rig->n_logged, n_logged);
}

static void no_direct(void **state)
{
    struct store_rig rig;
    (void)state;
    open_logged(&rig, &queue_pread, EINVAL, "does not do O_DIRECT");
    assert_int_equal(rig.log_level, FATHOM_LOG_WARN);
    assert_non_null(strstr(store_ops.text(rig.store), "page cache"));
    store_rig_fini(&rig);
}

static void no_uring(void **state)
{
    struct store_rig rig;
    (void)state;
    open_logged(&rig, NULL, ENOSYS, "without io_uring (");
    assert_int_equal(rig.log_level, FATHOM_LOG_INFO);
    assert_non_null(strstr(store_ops.text(rig.store), "32 threads"));
    store_rig_fini(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_call_of_threads),
        cmocka_unit_test(each_call_of_uring),
        cmocka_unit_test(each_call_of_any),
        cmocka_unit_test(no_direct),
        cmocka_unit_test(no_uring),
    };
    return check_run("t_store_faults", tests, sizeof tests / sizeof tests[0]);
}
