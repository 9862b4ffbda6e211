// The disk tier: extents in one file without a name, moved by a queue, verified page by page.
//
// This file opens, writes and asks; store_flight.c moves the bytes.

#include "io/disk_store.h"

#include "io/store_file.h"
#include "io/store_impl.h"
#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/base/status.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    DEPTH_DEFAULT = 128,
    DEPTH_MAX = 4096,
    WRITE_FLIGHTS_MAX = 16, // enough to keep a disk busy, and leaves some to reads
    GROW_PAGES = 1 << 14,   // the file grows by 64 MiB
    WAKE_SHARE = 8,         // sleeps until an eighth of what flies has landed
};

static_assert(STORE_PAGE_RAM_BYTES == sizeof(((struct store *)0)->checksums[0]),
              "one of each page");
static_assert(STORE_EXTENT_RAM_BYTES == 2 * sizeof(struct store_range), "an extent and a gap");

static fathom_status open_tables(struct store *store, uint64_t bytes_max)
{
    const uint64_t n_pages = bytes_max / STORE_PAGE_BYTES;
    const char *what = "requests of the disk tier";
    void *checksums = NULL;
    if (n_pages == 0 || n_pages >= UINT32_MAX)
        return status_set(FATHOM_EINVAL,
                          "disk tier: %" PRIu64 " bytes: --kv-disk must be at least %d bytes and "
                          "less than 16 TiB",
                          bytes_max, STORE_PAGE_BYTES);
    FATHOM_TRY(store_ranges_init(&store->ranges, (uint32_t)n_pages));
    FATHOM_TRY(mem_reserve(n_pages * sizeof store->checksums[0], MEM_PAGES_SMALL,
                           "checksums of the disk tier", &checksums));
    store->checksums = checksums;
    FATHOM_TRY(mem_new(store->depth, sizeof *store->flights, what, &store->flights));
    FATHOM_TRY(mem_new(store->depth, sizeof *store->idle, what, &store->idle));
    FATHOM_TRY(mem_new(store->depth, sizeof *store->done, what, &store->done));
    for (uint32_t i = 0; i < store->depth; i++)
        store->idle[store->n_idle++] = i;
    return FATHOM_OK;
}

// With no queue named: io_uring, or else threads, and the log says why.
static fathom_status open_queue(struct store *store, const struct queue_ops *wanted,
                                const struct log *log)
{
    const struct queue_params params = {.fd = store->fd,
                                        .depth = store->depth,
                                        .buffer = store->buffer,
                                        .buffer_bytes = store->buffer_bytes};
    store->queue_ops = wanted != NULL ? wanted : &queue_uring;
    fathom_status status = store->queue_ops->open(&params, &store->queue);
    if (status != FATHOM_EUNSUPPORTED || wanted != NULL) return status;
    store->queue_ops = &queue_pread;
    FATHOM_TRY(queue_pread.open(&params, &store->queue));
    log_write(log, FATHOM_LOG_INFO, "disk tier: without io_uring (%s): %s", fathom_last_error(),
              queue_pread.text(store->queue));
    return FATHOM_OK;
}

// No error: the cache may never need so much, and others may make room.
static void warn_of_little_space(const struct store *store, const struct store_params *params)
{
    const uint64_t free_bytes = store_file_free_bytes(store->fd);
    if (params->bytes_max > free_bytes)
        log_write(&params->log, FATHOM_LOG_WARN,
                  "disk tier: --kv-disk of %s, and in %s %s are free, so the cache may end up with "
                  "less: name another folder with --kv-disk-path, or make room there",
                  size_text(params->bytes_max).text, store->dir, size_text(free_bytes).text);
}

static fathom_status open_parts(struct store *store, const struct store_params *params,
                                const struct queue_ops *wanted)
{
    FATHOM_TRY(mem_string(params->dir, strlen(params->dir), &store->dir));
    FATHOM_TRY(open_tables(store, params->bytes_max));
    FATHOM_TRY(store_file_create(store->dir, &store->fd));
    int error = store_file_bypass_cache(store->fd);
    if (error != 0)
        log_write(&params->log, FATHOM_LOG_WARN,
                  "disk tier: %s does not do O_DIRECT (%s): its pages take part in the system's "
                  "cache, which costs RAM; --kv-disk-path names another folder",
                  store->dir, strerror(error));
    warn_of_little_space(store, params);
    FATHOM_TRY(open_queue(store, wanted, &params->log));
    (void)snprintf(store->text, sizeof store->text, "%s, %s, %u deep",
                   store->queue_ops->text(store->queue), error == 0 ? "O_DIRECT" : "page cache",
                   store->depth);
    return FATHOM_OK;
}

static void close_store(struct store **store)
{
    if (store == NULL || *store == NULL) return;
    struct store *closing = *store;
    closing->waiting = NULL;
    while (closing->queue != NULL && closing->n_idle < closing->depth)
        (void)store_flight_turn(closing, 1, INT64_MAX);
    if (closing->queue != NULL) closing->queue_ops->close(&closing->queue);
    if (closing->fd >= 0) store_file_close(closing->fd);
    if (closing->checksums != NULL)
        mem_unreserve(closing->checksums, closing->ranges.n_pages * sizeof closing->checksums[0]);
    store_ranges_fini(&closing->ranges);
    mem_free(closing->dir);
    mem_free(closing->flights);
    mem_free(closing->idle);
    mem_free(closing->done);
    mem_free(closing);
    *store = NULL;
}

fathom_status disk_store_open(const struct store_params *params, const struct queue_ops *queue_ops,
                              struct store **store)
{
    struct store *opened = NULL;
    if (params->depth > DEPTH_MAX)
        return status_set(FATHOM_EINVAL, "disk tier: depth %u: at most %d", params->depth,
                          DEPTH_MAX);
    if (params->buffer == NULL || (uintptr_t)params->buffer % STORE_PAGE_BYTES != 0)
        return status_set(FATHOM_EINVAL, "disk tier: the buffer does not begin with a page");
    FATHOM_TRY(mem_new(1, sizeof *opened, "disk tier", &opened));
    opened->fd = -1;
    opened->newest = &opened->waiting;
    opened->depth = params->depth > 0 ? params->depth : DEPTH_DEFAULT;
    opened->buffer = params->buffer;
    opened->buffer_bytes = params->buffer_bytes;
    opened->day_bytes_max = params->day_bytes_max;
    fathom_status status = open_parts(opened, params, queue_ops);
    if (status < 0)
        close_store(&opened);
    else
        *store = opened;
    return status;
}

static fathom_status open_store(const struct store_params *params, struct store **store)
{
    return disk_store_open(params, NULL, store);
}

// The file gets its blocks before they are written, so that a full disk shows while nothing is
// lost. The last of the disk is taken without reserve.
static fathom_status grow(struct store *store, uint32_t end_page)
{
    if (end_page <= store->n_file_pages) return FATHOM_OK;
    const uint64_t begin_bytes = (uint64_t)store->n_file_pages * STORE_PAGE_BYTES;
    uint32_t n_pages = store->ranges.n_pages;
    if (n_pages - store->n_file_pages > GROW_PAGES) n_pages = store->n_file_pages + GROW_PAGES;
    if (n_pages < end_page) n_pages = end_page;
    int error = store_file_grow(store->fd, begin_bytes, (uint64_t)n_pages * STORE_PAGE_BYTES);
    if (error != 0 && n_pages > end_page) {
        n_pages = end_page;
        error = store_file_grow(store->fd, begin_bytes, (uint64_t)n_pages * STORE_PAGE_BYTES);
    }
    if (error != 0)
        return status_set(error == EIO ? FATHOM_EIO : FATHOM_EFULL,
                          "disk tier: the file in %s cannot grow from %" PRIu64 " to %" PRIu64
                          " bytes: %s: make room there or name another folder with --kv-disk-path",
                          store->dir, begin_bytes, (uint64_t)n_pages * STORE_PAGE_BYTES,
                          strerror(error));
    store->n_file_pages = n_pages;
    return FATHOM_OK;
}

static fathom_status check_caps(struct store *store, uint32_t n_pages)
{
    const uint64_t bytes = (uint64_t)n_pages * STORE_PAGE_BYTES;
    const uint64_t day_bytes = store_day_bytes(&store->day, clock_ns());
    if (store->day_bytes_max > 0 && bytes > store->day_bytes_max - day_bytes)
        return status_set(FATHOM_EFULL,
                          "disk tier: %s were written in 24 hours and %s more would exceed "
                          "--kv-disk-writes-per-day of %s: raise it",
                          size_text(day_bytes).text, size_text(bytes).text,
                          size_text(store->day_bytes_max).text);
    return FATHOM_OK;
}

static fathom_status write_pieces(struct store *store, struct store_extent extent, const char *data)
{
    struct outcome outcome = {.n_left = 0};
    uint32_t page = 0;
    store_day_add(&store->day, (uint64_t)extent.n_pages * STORE_PAGE_BYTES);
    for (;;) {
        const bool more = page < extent.n_pages && outcome.status == FATHOM_OK;
        if (!more && outcome.n_left == 0) break;
        const bool room = store->n_idle > 0 && outcome.n_left < WRITE_FLIGHTS_MAX;
        if (more && room) {
            page += store_flight_begin_piece(store, extent, page, data, &outcome);
            (void)store_flight_turn(store, 0, 0);
        } else {
            (void)store_flight_turn(store, 1, INT64_MAX);
        }
    }
    return store_flight_pass(&outcome);
}

static struct size_text pages_text(uint32_t n_pages)
{
    return size_text((uint64_t)n_pages * STORE_PAGE_BYTES);
}

static fathom_status write_extent(struct store *store, const void *data, uint32_t n_pages,
                                  struct store_extent *extent)
{
    struct store_extent taken;
    if (n_pages == 0 || (uintptr_t)data % STORE_PAGE_BYTES != 0)
        return status_set(FATHOM_EINVAL, "disk tier: a write is of whole pages, and not of none");
    FATHOM_TRY(check_caps(store, n_pages));
    if (!store_ranges_take(&store->ranges, n_pages, &taken))
        return status_set(
            FATHOM_EFULL,
            "disk tier: --kv-disk of %s in %s has no room for %s more side by side (%s are free): "
            "raise --kv-disk",
            pages_text(store->ranges.n_pages).text, store->dir, pages_text(n_pages).text,
            pages_text(store->ranges.n_free_pages).text);
    fathom_status status = grow(store, taken.first_page + n_pages);
    if (status >= 0) status = write_pieces(store, taken, data);
    if (status < 0) {
        store_ranges_give(&store->ranges, taken);
        return status;
    }
    store->stats.bytes_written += (uint64_t)n_pages * STORE_PAGE_BYTES;
    *extent = taken;
    return FATHOM_OK;
}

// A page that is given back may be written, and what still reads it would find that.
static void release_extent(struct store *store, struct store_extent extent)
{
    while (store->reads.n_left > 0)
        (void)store_flight_turn(store, 1, INT64_MAX);
    if (store_ranges_has(&store->ranges, extent)) store_ranges_give(&store->ranges, extent);
}

static fathom_status check_read(const struct store *store, const struct store_read *read)
{
    const size_t begin_bytes = (uintptr_t)read->at - (uintptr_t)store->buffer; // huge when below
    const size_t read_bytes = (size_t)read->n_pages * STORE_PAGE_BYTES;
    if (!store_ranges_has(&store->ranges, read->extent))
        return status_set(FATHOM_EINVAL,
                          "disk tier: the extent of %u pages at page %u, generation %u, is stale",
                          read->extent.n_pages, read->extent.first_page, read->extent.generation);
    if (read->n_pages == 0 || read->page > read->extent.n_pages ||
        read->n_pages > read->extent.n_pages - read->page)
        return status_set(FATHOM_EINVAL, "disk tier: %u pages from page %u of an extent of %u",
                          read->n_pages, read->page, read->extent.n_pages);
    if (begin_bytes > store->buffer_bytes || read_bytes > store->buffer_bytes - begin_bytes ||
        begin_bytes % STORE_PAGE_BYTES != 0)
        return status_set(FATHOM_EINVAL, "disk tier: a read goes to whole pages of the buffer");
    return FATHOM_OK;
}

static fathom_status submit(struct store *store, struct store_read *reads, size_t n)
{
    for (size_t i = 0; i < n; i++)
        FATHOM_TRY(check_read(store, &reads[i]));
    if (store->told) store->reads = (struct outcome){0};
    store->told = false;
    store->reads.n_left += n;
    for (size_t i = 0; i < n; i++) {
        reads[i].status = FATHOM_IN_PROGRESS;
        reads[i].next = NULL;
        *store->newest = &reads[i];
        store->newest = &reads[i].next;
    }
    store_flight_begin_reads(store);
    (void)store_flight_turn(store, 0, 0);
    return FATHOM_OK;
}

// As few wake-ups as there can be while the disk has enough to do and checksums keep pace.
static size_t count_to_await(const struct store *store)
{
    size_t share = (store->depth - store->n_idle) / WAKE_SHARE;
    return share > 0 ? share : 1;
}

static bool is_awaited(const struct store *store, const struct store_read *read)
{
    return read != NULL ? read->status == FATHOM_IN_PROGRESS : store->reads.n_left > 0;
}

// For one read or, with NULL, for all; false if the deadline passed first.
static bool sleep_for(struct store *store, const struct store_read *read, int64_t deadline_ns)
{
    bool slept = false;
    while (is_awaited(store, read)) {
        size_t n_landed = store_flight_turn(store, 0, 0);
        if (!is_awaited(store, read)) break;
        if (deadline_ns != INT64_MAX && (int64_t)clock_ns() >= deadline_ns) return false;
        if (n_landed > 0) continue;
        store->stats.n_stalls += !slept;
        slept = true;
        (void)store_flight_turn(store, count_to_await(store), deadline_ns);
    }
    return true;
}

static fathom_status wait_reads(struct store *store, int64_t deadline_ns)
{
    if (!sleep_for(store, NULL, deadline_ns)) return FATHOM_IN_PROGRESS;
    store->told = true;
    return store_flight_pass(&store->reads);
}

static void await_read(struct store *store, const struct store_read *read, int64_t deadline_ns)
{
    (void)sleep_for(store, read, deadline_ns);
}

static void get_stats(const struct store *store, struct store_stats *stats)
{
    *stats = store->stats;
    stats->bytes_held =
        (uint64_t)(store->ranges.n_pages - store->ranges.n_free_pages) * STORE_PAGE_BYTES;
}

static const char *get_text(const struct store *store)
{
    return store->text;
}

int disk_store_fd(const struct store *store)
{
    return store->fd;
}

const struct store_ops store_ops = {
    .open = open_store,
    .close = close_store,
    .write = write_extent,
    .release = release_extent,
    .submit = submit,
    .wait = wait_reads,
    .await = await_read,
    .stats = get_stats,
    .text = get_text,
};
