// See store_rig.h.

#include "tests/io/store_rig.h"

#include <string.h>

#include "src/base/mem.h"
#include "tests/check.h"

enum { PAGE_WORDS = STORE_PAGE_BYTES / 8 };

static void fill_page(uint64_t *words, uint64_t seed, uint32_t page)
{
    uint64_t x = (seed << 32) + page + 1;
    for (int i = 0; i < PAGE_WORDS; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        words[i] = x ^ x >> 29;
    }
}

static void note_log(int level, const char *text, void *user)
{
    struct store_rig *rig = user;
    rig->n_logged++;
    rig->log_level = level;
    (void)snprintf(rig->logged, sizeof rig->logged, "%s", text);
}

void store_rig_init(struct store_rig *rig, uint64_t buffer_bytes)
{
    const char *dir = getenv("FATHOM_TEST_STORE");
    if (dir == NULL) dir = getenv("TMPDIR");
    void *blocks[2];
    for (int i = 0; i < 2; i++)
        check_ok(mem_reserve(buffer_bytes, MEM_PAGES_HUGE, "test", &blocks[i]));
    *rig = (struct store_rig){.buffer = blocks[0], .data = blocks[1]};
    rig->params = (struct store_params){.dir = dir != NULL ? dir : "/tmp",
                                        .bytes_max = (uint64_t)16 << 20,
                                        .buffer = rig->buffer,
                                        .buffer_bytes = buffer_bytes,
                                        .log = {note_log, rig}};
}

void store_rig_open(struct store_rig *rig, const struct queue_ops *queue_ops)
{
    store_ops.close(&rig->store);
    check_ok(disk_store_open(&rig->params, queue_ops, &rig->store));
}

void store_rig_fini(struct store_rig *rig)
{
    store_ops.close(&rig->store);
    assert_null(rig->store);
    mem_unreserve(rig->buffer, rig->params.buffer_bytes);
    mem_unreserve(rig->data, rig->params.buffer_bytes);
}

fathom_status store_rig_write(struct store_rig *rig, uint64_t seed, uint32_t n_pages,
                              struct store_extent *extent)
{
    for (uint32_t i = 0; i < n_pages; i++)
        fill_page((uint64_t *)(void *)rig->data + (size_t)i * PAGE_WORDS, seed, i);
    return store_ops.write(rig->store, rig->data, n_pages, extent);
}

struct store_extent store_rig_put(struct store_rig *rig, uint64_t seed, uint32_t n_pages)
{
    struct store_extent extent = {0};
    check_ok(store_rig_write(rig, seed, n_pages, &extent));
    assert_int_equal(extent.n_pages, n_pages);
    return extent;
}

fathom_status store_rig_read(struct store_rig *rig, struct store_extent extent)
{
    struct store_read read = {.extent = extent, .n_pages = extent.n_pages, .at = rig->buffer};
    fathom_status status = store_ops.submit(rig->store, &read, 1);
    if (status < 0) return status;
    status = store_ops.wait(rig->store, INT64_MAX);
    assert_int_equal(read.status, status);
    return status;
}

void store_rig_compare(const char *at, uint64_t seed, uint32_t page, uint32_t n_pages)
{
    uint64_t words[PAGE_WORDS];
    for (uint32_t i = 0; i < n_pages; i++) {
        fill_page(words, seed, page + i);
        assert_memory_equal(at + (size_t)i * STORE_PAGE_BYTES, words, sizeof words);
    }
}

void store_rig_check(struct store_rig *rig, uint64_t seed, struct store_extent extent)
{
    memset(rig->buffer, 0, (size_t)extent.n_pages * STORE_PAGE_BYTES);
    check_ok(store_rig_read(rig, extent));
    store_rig_compare(rig->buffer, seed, 0, extent.n_pages);
}

uint64_t store_rig_bytes_held(const struct store_rig *rig)
{
    struct store_stats stats;
    store_ops.stats(rig->store, &stats);
    return stats.bytes_held;
}
