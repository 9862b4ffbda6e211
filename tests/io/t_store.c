// The disk tier's store with each of its queues: what is written comes back, and what cannot is an
// error that names it.

#include "tests/check.h"

#include <string.h>
#include <unistd.h>

#include "io/disk_store.h"
#include "src/base/clock.h"
#include "src/base/rng.h"
#include "tests/io/store_rig.h"

enum { BUFFER_BYTES = 4 << 20, STEPS = 20000, KEPT = 48, PAGES_MAX = 24, BATCH_MAX = 16 };

static bool is_available(const struct queue_ops *queue_ops)
{
    struct store_rig rig;
    store_rig_init(&rig, BUFFER_BYTES);
    fathom_status status = disk_store_open(&rig.params, queue_ops, &rig.store);
    store_rig_fini(&rig);
    if (status == FATHOM_EUNSUPPORTED) return false;
    assert_int_equal(status, FATHOM_OK);
    return true;
}

static void open_rig(struct store_rig *rig, void **state)
{
    const struct queue_ops *queue_ops = *state;
    if (!is_available(queue_ops)) check_skip("%s", fathom_last_error());
    store_rig_init(rig, BUFFER_BYTES);
    store_rig_open(rig, queue_ops);
}

struct kept {
    struct store_extent extent; // n_pages 0: none
    uint64_t seed;
};

// A batch of parts of random extents, checked against what was written.
static void read_parts(struct store_rig *rig, const struct kept *kept, struct rng *rng)
{
    struct store_read reads[BATCH_MAX];
    const struct kept *from[BATCH_MAX];
    uint32_t n = 0;
    for (uint32_t i = rng_below(rng, BATCH_MAX); i > 0; i--) {
        const struct kept *k = &kept[rng_below(rng, KEPT)];
        if (k->extent.n_pages == 0) continue;
        uint32_t page = rng_below(rng, k->extent.n_pages);
        char *at = rig->buffer + (size_t)n * PAGES_MAX * STORE_PAGE_BYTES;
        from[n] = k;
        reads[n++] = (struct store_read){.extent = k->extent,
                                         .page = page,
                                         .n_pages = 1 + rng_below(rng, k->extent.n_pages - page),
                                         .at = at};
    }
    check_ok(store_ops.submit(rig->store, reads, n));
    while (store_ops.wait(rig->store, (int64_t)clock_ns() + 50000) == FATHOM_IN_PROGRESS)
        ;
    check_ok(store_ops.wait(rig->store, INT64_MAX));
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(reads[i].status, FATHOM_OK);
        store_rig_compare(reads[i].at, from[i]->seed, reads[i].page, reads[i].n_pages);
    }
}

static void random_steps(void **state)
{
    struct store_rig rig;
    struct kept kept[KEPT] = {{{0}, 0}};
    struct rng rng;
    uint64_t n_pages_held = 0;
    size_t n_full = 0;
    open_rig(&rig, state);
    rig.params.bytes_max = (uint64_t)KEPT * PAGES_MAX * STORE_PAGE_BYTES * 3 / 10;
    rig.params.depth = 8;
    store_rig_open(&rig, *state);
    rng_init(&rng, 3);
    for (uint32_t step = 0; step < STEPS; step++) {
        struct kept *k = &kept[rng_below(&rng, KEPT)];
        if (rng_below(&rng, 8) < 7) {
            read_parts(&rig, kept, &rng);
        } else if (k->extent.n_pages > 0) {
            store_ops.release(rig.store, k->extent);
            n_pages_held -= k->extent.n_pages;
            check_error(store_rig_read(&rig, k->extent), FATHOM_EINVAL, "stale");
            k->extent = (struct store_extent){0};
        } else {
            uint32_t n_pages = 1 + rng_below(&rng, PAGES_MAX);
            fathom_status status = store_rig_write(&rig, step, n_pages, &k->extent);
            k->seed = step;
            if (status == FATHOM_OK) n_pages_held += n_pages;
            if (status != FATHOM_OK) check_error(status, FATHOM_EFULL, "--kv-disk");
            n_full += status != FATHOM_OK;
        }
        assert_int_equal(store_rig_bytes_held(&rig), n_pages_held * STORE_PAGE_BYTES);
    }
    assert_in_range(n_full, 10, STEPS / 20);
    // All free again: the whole file is one run.
    for (uint32_t i = 0; i < KEPT; i++)
        store_ops.release(rig.store, kept[i].extent);
    store_rig_put(&rig, 1, (uint32_t)(rig.params.bytes_max / STORE_PAGE_BYTES));
    store_rig_fini(&rig);
}

// Larger than the pieces of a write, and more of them than fly at a time.
static void large_extent(void **state)
{
    struct store_rig rig;
    struct store_stats stats;
    open_rig(&rig, state);
    struct store_extent extent = store_rig_put(&rig, 5, BUFFER_BYTES / STORE_PAGE_BYTES);
    store_rig_check(&rig, 5, extent);
    store_ops.stats(rig.store, &stats);
    assert_int_equal(stats.bytes_written, BUFFER_BYTES);
    assert_int_equal(stats.bytes_read, BUFFER_BYTES);
    assert_int_equal(stats.bytes_held, BUFFER_BYTES);
    assert_int_equal(stats.n_reads, 1);
    assert_in_range(stats.n_stalls, 0, 1);
    store_rig_fini(&rig);
}

static void bad_arguments(void **state)
{
    struct store_rig rig;
    struct store_extent extent;
    open_rig(&rig, state);
    struct store_extent good = store_rig_put(&rig, 1, 4);
    char *buffer = rig.buffer;
    const struct store_read bad[] = {
        {.extent = {0}, .n_pages = 1, .at = buffer},
        {.extent = {0, 4, 0, 0}, .n_pages = 1, .at = buffer},
        {.extent = {good.first_page, 3, good.range, good.generation}, .n_pages = 1, .at = buffer},
        {.extent = {0, 4, UINT32_MAX, 1}, .n_pages = 1, .at = buffer},
        {.extent = good, .n_pages = 0, .at = buffer},
        {.extent = good, .n_pages = 5, .at = buffer},
        {.extent = good, .page = 3, .n_pages = 2, .at = buffer},
        {.extent = good, .page = 5, .n_pages = UINT32_MAX, .at = buffer},
        {.extent = good, .n_pages = 1, .at = buffer + 512},
        {.extent = good, .n_pages = 1, .at = buffer - STORE_PAGE_BYTES},
        {.extent = good, .n_pages = 2, .at = buffer + BUFFER_BYTES - STORE_PAGE_BYTES},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct store_read reads[] = {{.extent = good, .n_pages = 1, .at = buffer}, bad[i]};
        assert_int_equal(store_ops.submit(rig.store, reads, 2), FATHOM_EINVAL);
        check_ok(store_ops.wait(rig.store, INT64_MAX)); // nothing has begun
    }
    assert_int_equal(store_ops.write(rig.store, rig.data, 0, &extent), FATHOM_EINVAL);
    assert_int_equal(store_ops.write(rig.store, rig.data + 8, 1, &extent), FATHOM_EINVAL);
    store_rig_check(&rig, 1, good);
    store_rig_fini(&rig);
}

static void bad_params(void **state)
{
    struct store_rig rig;
    open_rig(&rig, state);
    store_ops.close(&rig.store);
    const struct store_params good = rig.params;
    rig.params.bytes_max = STORE_PAGE_BYTES - 1;
    check_error(disk_store_open(&rig.params, *state, &rig.store), FATHOM_EINVAL, "--kv-disk");
    rig.params.bytes_max = (uint64_t)UINT32_MAX * STORE_PAGE_BYTES;
    check_error(disk_store_open(&rig.params, *state, &rig.store), FATHOM_EINVAL, "--kv-disk");
    rig.params = good;
    rig.params.depth = 5000;
    check_error(disk_store_open(&rig.params, *state, &rig.store), FATHOM_EINVAL, "depth");
    rig.params = good;
    rig.params.buffer = rig.buffer + 64;
    check_error(disk_store_open(&rig.params, *state, &rig.store), FATHOM_EINVAL, "buffer");
    rig.params = good;
    rig.params.dir = "/nowhere/at/all";
    check_error(disk_store_open(&rig.params, *state, &rig.store), FATHOM_EIO, "--kv-disk-path");
    rig.params = good;
    store_rig_fini(&rig);
}

// One page of the file, other than it was. Through another description, without O_DIRECT.
static void flip_bit(const struct store_rig *rig, uint64_t byte)
{
    char path[64];
    unsigned char value = 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", disk_store_fd(rig->store));
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)byte, SEEK_SET), 0);
    assert_int_equal(fread(&value, 1, 1, file), 1);
    value ^= 0x10;
    assert_int_equal(fseek(file, (long)byte, SEEK_SET), 0);
    assert_int_equal(fwrite(&value, 1, 1, file), 1);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(fsync(disk_store_fd(rig->store)), 0);
}

static void flipped_bit(void **state)
{
    struct store_rig rig;
    char wanted[128];
    open_rig(&rig, state);
    struct store_extent first = store_rig_put(&rig, 1, 3);
    struct store_extent second = store_rig_put(&rig, 2, 8);
    const uint64_t byte = (uint64_t)(second.first_page + 5) * STORE_PAGE_BYTES;
    flip_bit(&rig, byte + 4095);
    snprintf(wanted, sizeof wanted, "page 5 of the extent of 8 pages at page %u (byte %llu of",
             second.first_page, (unsigned long long)byte);
    check_error(store_rig_read(&rig, second), FATHOM_ECORRUPT, wanted);
    check_error(FATHOM_ECORRUPT, FATHOM_ECORRUPT, rig.params.dir);
    // The rest is whole.
    store_rig_check(&rig, 1, first);
    struct store_read reads[] = {{.extent = second, .n_pages = 5, .at = rig.buffer},
                                 {.extent = second, .page = 5, .n_pages = 1, .at = rig.data},
                                 {.extent = second, .page = 6, .n_pages = 2, .at = rig.buffer}};
    reads[1].at = rig.buffer + 8 * STORE_PAGE_BYTES;
    reads[2].at = rig.buffer + 16 * STORE_PAGE_BYTES;
    check_ok(store_ops.submit(rig.store, reads, 3));
    check_error(store_ops.wait(rig.store, INT64_MAX), FATHOM_ECORRUPT, wanted);
    check_error(store_ops.wait(rig.store, INT64_MAX), FATHOM_ECORRUPT, wanted);
    assert_int_equal(reads[0].status, FATHOM_OK);
    assert_int_equal(reads[1].status, FATHOM_ECORRUPT);
    assert_int_equal(reads[2].status, FATHOM_OK);
    // A new extent there is good.
    store_ops.release(rig.store, second);
    store_rig_check(&rig, 3, store_rig_put(&rig, 3, 8));
    store_rig_fini(&rig);
}

// A read that has failed before others are begun is still told of.
static void early_failure(void **state)
{
    struct store_rig rig;
    open_rig(&rig, state);
    const struct store_extent bad = store_rig_put(&rig, 1, 1), good = store_rig_put(&rig, 2, 1);
    struct store_read reads[] = {
        {.extent = bad, .n_pages = 1, .at = rig.buffer},
        {.extent = good, .n_pages = 1, .at = rig.buffer + STORE_PAGE_BYTES}};
    flip_bit(&rig, (uint64_t)bad.first_page * STORE_PAGE_BYTES);
    check_ok(store_ops.submit(rig.store, &reads[0], 1));
    store_ops.release(rig.store, (struct store_extent){0}); // waits for the reads, and tells nobody
    assert_int_equal(reads[0].status, FATHOM_ECORRUPT);
    check_ok(store_ops.submit(rig.store, &reads[1], 1));
    check_error(store_ops.wait(rig.store, INT64_MAX), FATHOM_ECORRUPT, "page 0 of the extent of 1");
    assert_int_equal(reads[1].status, FATHOM_OK);
    check_ok(store_ops.submit(rig.store, &reads[1], 1));
    check_ok(store_ops.wait(rig.store, INT64_MAX));
    store_rig_fini(&rig);
}

// Two pages that changed places are as wrong as flipped bits.
static void swapped_pages(void **state)
{
    struct store_rig rig;
    open_rig(&rig, state);
    memset(rig.data, 7, 2 * STORE_PAGE_BYTES);
    struct store_extent extent;
    check_ok(store_ops.write(rig.store, rig.data, 2, &extent));
    check_ok(store_rig_read(&rig, extent));
    int fd = disk_store_fd(rig.store);
    const off_t first = (off_t)extent.first_page * STORE_PAGE_BYTES;
    struct store_extent other = store_rig_put(&rig, 2, 1);
    check_ok(store_rig_read(&rig, other)); // its page is in the buffer
    assert_int_equal(pwrite(fd, rig.buffer, STORE_PAGE_BYTES, first), STORE_PAGE_BYTES);
    check_error(store_rig_read(&rig, extent), FATHOM_ECORRUPT, "page 0 of the extent of 2");
    store_rig_fini(&rig);
}

static void truncated_file(void **state)
{
    struct store_rig rig;
    open_rig(&rig, state);
    struct store_extent first = store_rig_put(&rig, 1, 6);
    struct store_extent second = store_rig_put(&rig, 2, 6);
    assert_int_equal(ftruncate(disk_store_fd(rig.store), 8 * STORE_PAGE_BYTES), 0);
    store_rig_check(&rig, 1, first);
    check_error(store_rig_read(&rig, second), FATHOM_EIO, "page 2 of the extent of 6 pages at");
    check_error(FATHOM_EIO, FATHOM_EIO, "the file ends there");
    assert_int_equal(ftruncate(disk_store_fd(rig.store), 8 * STORE_PAGE_BYTES + 1536), 0);
    check_error(store_rig_read(&rig, second), FATHOM_EIO, "page 2 of the extent of 6 pages at");
    store_rig_fini(&rig);
}

static void file_cap(void **state)
{
    struct store_rig rig;
    struct store_extent extents[4], none;
    open_rig(&rig, state);
    rig.params.bytes_max = 64 * STORE_PAGE_BYTES + 100;
    store_rig_open(&rig, *state);
    for (uint32_t i = 0; i < 4; i++)
        extents[i] = store_rig_put(&rig, i, 16);
    check_error(store_rig_write(&rig, 9, 1, &none), FATHOM_EFULL, "raise --kv-disk");
    store_ops.release(rig.store, extents[0]);
    store_ops.release(rig.store, extents[2]);
    check_error(store_rig_write(&rig, 9, 17, &none), FATHOM_EFULL, "(128.0 KiB are free)");
    store_rig_check(&rig, 1, extents[1]);
    store_ops.release(rig.store, extents[1]);
    struct store_extent large = store_rig_put(&rig, 9, 48);
    store_rig_check(&rig, 9, large);
    store_rig_check(&rig, 3, extents[3]);
    assert_int_equal(store_rig_bytes_held(&rig), 64 * STORE_PAGE_BYTES);
    store_rig_fini(&rig);
}

// Something else is done between submit and wait, more is asked than flies at a time, and again
// before that is done, and close comes before the end.
static void batches(void **state)
{
    enum { READS = 500 };
    static struct store_read reads[READS];
    struct store_rig rig;
    open_rig(&rig, state);
    rig.params.depth = 7;
    store_rig_open(&rig, *state);
    struct store_extent extent = store_rig_put(&rig, 1, 200);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < READS; i++)
            reads[i] = (struct store_read){.extent = extent,
                                           .page = i * 7 % 199,
                                           .n_pages = 1 + i % 2,
                                           .at = rig.buffer + (size_t)i * 2 * STORE_PAGE_BYTES};
        check_ok(store_ops.submit(rig.store, reads, READS / 2));
        check_ok(store_ops.submit(rig.store, reads + READS / 2, READS / 2));
        if (round == 1) break;
        struct store_extent between = store_rig_put(&rig, 2, 300);
        check_ok(store_ops.wait(rig.store, INT64_MAX));
        for (uint32_t i = 0; i < READS; i++)
            store_rig_compare(reads[i].at, 1, reads[i].page, reads[i].n_pages);
        store_rig_check(&rig, 2, between);
    }
    store_rig_fini(&rig);
}

// What reads a page has ended when the page is written again.
static void released(void **state)
{
    enum { READS = 60 };
    static struct store_read reads[READS];
    struct store_rig rig;
    open_rig(&rig, state);
    rig.params.depth = 7;
    rig.params.bytes_max = 64 * STORE_PAGE_BYTES;
    store_rig_open(&rig, *state);
    struct store_extent extent = store_rig_put(&rig, 1, 64);
    for (uint32_t i = 0; i < READS; i++)
        reads[i] = (struct store_read){.extent = extent,
                                       .page = i,
                                       .n_pages = 1 + i % 5,
                                       .at = rig.buffer + (size_t)i * 5 * STORE_PAGE_BYTES};
    check_ok(store_ops.submit(rig.store, reads, READS));
    store_ops.release(rig.store, extent);
    extent = store_rig_put(&rig, 2, 64);
    for (uint32_t i = 0; i < READS; i++) {
        assert_int_equal(reads[i].status, FATHOM_OK);
        store_rig_compare(reads[i].at, 1, i, 1 + i % 5);
    }
    store_rig_check(&rig, 2, extent);
    store_rig_fini(&rig);
}

static void own_text(void **state)
{
    struct store_rig rig;
    open_rig(&rig, state);
    assert_non_null(strstr(store_ops.text(rig.store), "128 deep"));
    assert_non_null(strstr(store_ops.text(rig.store), *state == &queue_uring ? "ring" : "threads"));
    store_rig_fini(&rig);
}

int main(void)
{
    static const struct {
        const char *name;
        CMUnitTestFunction fn;
    } cases[] = {
        {"random_steps", random_steps},   {"large_extent", large_extent},
        {"bad_arguments", bad_arguments}, {"bad_params", bad_params},
        {"flipped_bit", flipped_bit},     {"early_failure", early_failure},
        {"swapped_pages", swapped_pages}, {"truncated_file", truncated_file},
        {"file_cap", file_cap},           {"batches", batches},
        {"released", released},           {"own_text", own_text},
    };
    enum { CASES = sizeof cases / sizeof cases[0] };
    static const struct queue_ops *const queues[] = {&queue_pread, &queue_uring};
    static char names[2 * CASES][64];
    struct CMUnitTest tests[2 * CASES];
    for (size_t i = 0; i < 2 * CASES; i++) {
        const struct queue_ops *queue_ops = queues[i / CASES];
        snprintf(names[i], sizeof names[i], "%s %s", cases[i % CASES].name,
                 queue_ops == &queue_uring ? "io_uring" : "threads");
        tests[i] = (struct CMUnitTest){.name = names[i],
                                       .test_func = cases[i % CASES].fn,
                                       .initial_state = (void *)(uintptr_t)queue_ops};
    }
    return check_run("t_store", tests, 2 * CASES);
}
