// What is in flight between the disk tier's file and memory.
//
// Every request has a flight, which remembers what is left of it: the kernel may move less than was
// asked, and then the rest goes on as another request of the same flight. Reads and pieces of a
// write fly side by side; each adds its end to the outcome of the reads or the write.
// Checksums are made and verified here, on the caller's thread, while other requests fly.
//
// A checksum covers the page's number too, so a page that lands elsewhere is found out.

#include "io/store_impl.h"

#include "src/base/hash.h"
#include "src/base/status.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    READ_PAGES_MAX = 1 << 18, // of one request: 1 GiB
    WRITE_PAGES_MAX = 1 << 7, // of one request: 512 KiB, so that hashing and writing overlap
};

static uint64_t offset_of(struct store_extent extent, uint32_t page)
{
    return ((uint64_t)extent.first_page + page) * STORE_PAGE_BYTES;
}

static uint32_t hash_page(const void *data, uint32_t file_page)
{
    return (uint32_t)hash_bytes(data, STORE_PAGE_BYTES, file_page);
}

// Adds a failure at a page of an extent to an outcome, which keeps the text of its lowest status.
static void add_failure(const struct store *store, struct outcome *outcome, fathom_status status,
                        struct store_extent extent, uint32_t page, const char *what)
{
    if (status >= outcome->status) return;
    outcome->status = status;
    (void)snprintf(outcome->text, sizeof outcome->text,
                   "disk tier: page %" PRIu32 " of the extent of %" PRIu32 " pages at page %" PRIu32
                   " (byte %" PRIu64 " of the file): %s; the file is in %s",
                   page, extent.n_pages, extent.first_page, offset_of(extent, page), what,
                   store->dir);
}

fathom_status store_flight_pass(const struct outcome *outcome)
{
    return outcome->status < 0 ? status_set(outcome->status, "%s", outcome->text) : FATHOM_OK;
}

static void launch(struct store *store, struct flight *flight)
{
    const uint32_t n_pages = flight->n_pages < READ_PAGES_MAX ? flight->n_pages : READ_PAGES_MAX;
    flight->op.offset = offset_of(flight->extent, flight->page);
    flight->op.bytes = n_pages * STORE_PAGE_BYTES;
    flight->op.slot = (uint32_t)(flight - store->flights);
    store->queue_ops->push(store->queue, &flight->op);
}

// Takes an idle flight, which the caller has seen to be there.
static void begin(struct store *store, const struct flight *flight)
{
    struct flight *used = &store->flights[store->idle[--store->n_idle]];
    *used = *flight;
    launch(store, used);
}

void store_flight_begin_reads(struct store *store)
{
    while (store->waiting != NULL && store->n_idle > 0) {
        struct store_read *read = store->waiting;
        store->waiting = read->next;
        if (read->next == NULL) store->newest = &store->waiting;
        begin(store, &(struct flight){.op.to = read->at,
                                      .extent = read->extent,
                                      .page = read->page,
                                      .n_pages = read->n_pages,
                                      .outcome = &store->reads,
                                      .read = read});
    }
}

static fathom_status verify(struct store *store, const struct store_read *read)
{
    const char *data = read->at;
    for (uint32_t i = 0; i < read->n_pages; i++, data += STORE_PAGE_BYTES) {
        uint32_t file_page = read->extent.first_page + read->page + i;
        if (hash_page(data, file_page) == store->checksums[file_page]) continue;
        add_failure(store, &store->reads, FATHOM_ECORRUPT, read->extent, read->page + i,
                    "its checksum is wrong, so it is not what was written: check the disk and "
                    "its cable, or name another folder with --kv-disk-path");
        return FATHOM_ECORRUPT;
    }
    return FATHOM_OK;
}

static void end_flight(struct store *store, struct flight *flight, fathom_status status)
{
    struct store_read *read = flight->read;
    if (read != NULL && status < 0) {
        read->status = status;
    } else if (read != NULL) {
        read->status = verify(store, read);
        store->stats.n_reads++;
        store->stats.bytes_read += (uint64_t)read->n_pages * STORE_PAGE_BYTES;
    }
    flight->outcome->n_left--;
    store->idle[store->n_idle++] = (uint32_t)(flight - store->flights);
}

static void fail_flight(struct store *store, struct flight *flight, int32_t result)
{
    const bool full = result == -ENOSPC || result == -EDQUOT || result == -EFBIG;
    const fathom_status status = full && flight->read == NULL ? FATHOM_EFULL : FATHOM_EIO;
    char what[160];
    if (status == FATHOM_EFULL)
        (void)snprintf(what, sizeof what,
                       "cannot be written: %s: make room there or name another folder with "
                       "--kv-disk-path",
                       strerror(-result));
    else
        (void)snprintf(what, sizeof what, "cannot be %s: %s",
                       flight->read != NULL ? "read" : "written",
                       result < 0 ? strerror(-result) : "the file ends there");
    add_failure(store, flight->outcome, status, flight->extent, flight->page, what);
    end_flight(store, flight, status);
}

// What was moved by halves of a page is moved again: O_DIRECT goes on at whole ones only.
static void land(struct store *store, const struct queue_done *done)
{
    struct flight *flight = &store->flights[done->slot];
    const uint32_t n_moved = done->result > 0 ? (uint32_t)done->result / STORE_PAGE_BYTES : 0;
    if (n_moved == 0 && done->result != -EINTR) {
        fail_flight(store, flight, done->result);
        return;
    }
    const size_t moved_bytes = (size_t)n_moved * STORE_PAGE_BYTES;
    flight->page += n_moved;
    flight->n_pages -= n_moved;
    if (flight->op.to != NULL)
        flight->op.to = (char *)flight->op.to + moved_bytes;
    else
        flight->op.from = (const char *)flight->op.from + moved_bytes;
    if (flight->n_pages > 0)
        launch(store, flight);
    else
        end_flight(store, flight, FATHOM_OK);
}

uint32_t store_flight_begin_piece(struct store *store, struct store_extent extent, uint32_t page,
                                  const char *data, struct outcome *outcome)
{
    const char *piece = data + (size_t)page * STORE_PAGE_BYTES;
    uint32_t n_pages = extent.n_pages - page;
    if (n_pages > WRITE_PAGES_MAX) n_pages = WRITE_PAGES_MAX;
    for (uint32_t i = 0; i < n_pages; i++) {
        uint32_t file_page = extent.first_page + page + i;
        store->checksums[file_page] = hash_page(piece + (size_t)i * STORE_PAGE_BYTES, file_page);
    }
    outcome->n_left++;
    begin(store, &(struct flight){.op.from = piece,
                                  .extent = extent,
                                  .page = page,
                                  .n_pages = n_pages,
                                  .outcome = outcome});
    return n_pages;
}

size_t store_flight_turn(struct store *store, size_t n_min, int64_t deadline_ns)
{
    size_t n_done = store->queue_ops->reap(store->queue, n_min, deadline_ns, store->done);
    for (size_t i = 0; i < n_done; i++)
        land(store, &store->done[i]);
    store_flight_begin_reads(store);
    return n_done;
}
