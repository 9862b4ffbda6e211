// The RAM in which units from disk stay, a ring with a hash table over it, and the reads into it.

#include "src/kv/fetch.h"

#include <string.h>

#include "src/base/mem.h"
#include "src/base/status.h"

enum { PAGE = STORE_PAGE_BYTES };

static uint32_t table_size(uint32_t n_pages)
{
    uint32_t n = 2;
    while (n < 2 * n_pages)
        n *= 2;
    return n;
}

size_t fetch_table_bytes(size_t bytes)
{
    const size_t n_pages = bytes / PAGE;
    return n_pages * (sizeof(struct kept) + sizeof(struct store_read)) +
           table_size((uint32_t)n_pages) * sizeof(uint32_t);
}

fathom_status fetch_open(struct fetch *fetch, size_t bytes, uint32_t n_wants_max)
{
    void *buffer, *wants;
    fetch->n_pages = (uint32_t)(bytes / PAGE);
    fetch->n_table = table_size(fetch->n_pages);
    fetch->n_wants_max = n_wants_max;
    FATHOM_TRY(
        mem_reserve((size_t)fetch->n_pages * PAGE, MEM_PAGES_HUGE, "fetched units", &buffer));
    fetch->buffer = buffer;
    FATHOM_TRY(mem_new(fetch->n_pages, sizeof *fetch->kept, "fetched units", &fetch->kept));
    FATHOM_TRY(mem_new(fetch->n_table, sizeof *fetch->table, "fetched units", &fetch->table));
    FATHOM_TRY(mem_new(fetch->n_pages, sizeof *fetch->reads, "reads", &fetch->reads));
    FATHOM_TRY(
        mem_reserve(n_wants_max * sizeof *fetch->wants, MEM_PAGES_SMALL, "wanted units", &wants));
    fetch->wants = wants;
    return FATHOM_OK;
}

void fetch_close(struct fetch *fetch)
{
    if (fetch->buffer != NULL) mem_unreserve(fetch->buffer, (size_t)fetch->n_pages * PAGE);
    mem_free(fetch->kept);
    mem_free(fetch->table);
    mem_free(fetch->reads);
    if (fetch->wants != NULL)
        mem_unreserve(fetch->wants, fetch->n_wants_max * sizeof *fetch->wants);
    *fetch = (struct fetch){0};
}

// ---- The units that are kept --------------------------------------------------------------------

// Unlike any other's: units of a segment are fewer than 2^16.
static uint64_t unit_key(const struct segments *segments, const struct segment *segment,
                         uint32_t head, uint32_t unit)
{
    return ((uint64_t)segment->id * segments->n_heads + head) << 16 | unit;
}

static uint32_t home(const struct fetch *fetch, uint64_t key)
{
    return (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (fetch->n_table - 1);
}

static uint32_t find_place(const struct fetch *fetch, uint64_t key)
{
    uint32_t at = home(fetch, key);
    while (fetch->table[at] != 0 && fetch->kept[fetch->table[at] - 1].key != key)
        at = (at + 1) & (fetch->n_table - 1);
    return at;
}

// Linear probing: what stands behind a gap moves into it if it may.
static void remove_key(struct fetch *fetch, uint64_t key)
{
    const uint32_t mask = fetch->n_table - 1;
    uint32_t gap = find_place(fetch, key);
    if (fetch->table[gap] == 0) return;
    for (uint32_t at = (gap + 1) & mask; fetch->table[at] != 0; at = (at + 1) & mask) {
        const uint32_t wish = home(fetch, fetch->kept[fetch->table[at] - 1].key);
        if (((at - wish) & mask) < ((at - gap) & mask)) continue;
        fetch->table[gap] = fetch->table[at];
        gap = at;
    }
    fetch->table[gap] = 0;
}

static void drop_oldest(struct fetch *fetch)
{
    const struct kept *oldest = &fetch->kept[fetch->n_out % fetch->n_pages];
    const uint32_t at = find_place(fetch, oldest->key);
    if (fetch->table[at] == fetch->n_out % fetch->n_pages + 1) remove_key(fetch, oldest->key);
    fetch->n_out++;
}

// Pages for a unit, in one piece; what lay there is forgotten.
static uint32_t give_pages(struct fetch *fetch, uint32_t n_pages)
{
    uint32_t first = fetch->head;
    if (first + n_pages > fetch->n_pages) first = 0;
    // Entries lie in the order of their pages, so those in the way are the oldest. Where the end of
    // the buffer was skipped, these lie before the beginning.
    while (fetch->n_out < fetch->n_in) {
        const struct kept *oldest = &fetch->kept[fetch->n_out % fetch->n_pages];
        const bool skipped = first < fetch->head && oldest->page >= fetch->head;
        const bool in_the_way =
            oldest->page < first + n_pages && oldest->page + oldest->n_pages > first;
        if (!skipped && !in_the_way) break;
        drop_oldest(fetch);
    }
    fetch->head = first + n_pages;
    return first;
}

static struct kept *keep(struct fetch *fetch, uint64_t key, uint32_t page, uint32_t n_pages,
                         uint32_t skip_bytes)
{
    const uint32_t entry = (uint32_t)(fetch->n_in++ % fetch->n_pages);
    fetch->kept[entry] =
        (struct kept){.key = key, .page = page, .n_pages = n_pages, .skip_bytes = skip_bytes};
    return &fetch->kept[entry];
}

// ---- Resolving wants ----------------------------------------------------------------------------

struct batch {
    struct fetch *fetch;
    uint32_t n_pages; // given out
    uint32_t n_reads;
};

// Pages that may still be given out in this batch: half the buffer is for it, so that what it found
// in the other half stays.
static uint32_t pages_left(const struct batch *batch)
{
    return batch->fetch->n_pages / 2 - batch->n_pages;
}

// Whether giving out the rest of the batch's pages may overwrite the entry.
static bool in_danger(const struct batch *batch, const struct kept *kept)
{
    const struct fetch *fetch = batch->fetch;
    const uint32_t ahead = kept->page >= fetch->head ? kept->page - fetch->head
                                                     : kept->page + fetch->n_pages - fetch->head;
    // Skipping the buffer's end costs pages too: at most those of the longest unit.
    return ahead <= pages_left(batch) + fetch->n_pages / 8;
}

static bool find_kept(struct batch *batch, struct want *want, uint64_t key)
{
    struct fetch *fetch = batch->fetch;
    const uint32_t entry = fetch->table[find_place(fetch, key)];
    if (entry == 0) return false;
    struct kept found = fetch->kept[entry - 1];
    if (in_danger(batch, &found)) {
        const uint32_t page = give_pages(fetch, found.n_pages);
        memmove(fetch->buffer + (size_t)page * PAGE, fetch->buffer + (size_t)found.page * PAGE,
                (size_t)found.n_pages * PAGE);
        batch->n_pages += found.n_pages;
        remove_key(fetch, key);
        found = *keep(fetch, key, page, found.n_pages, found.skip_bytes);
        fetch->table[find_place(fetch, key)] = (uint32_t)((fetch->n_in - 1) % fetch->n_pages) + 1;
    }
    want->rows = fetch->buffer + (size_t)found.page * PAGE + found.skip_bytes;
    fetch->n_hits++;
    return true;
}

// False when the buffer holds no more.
static bool resolve(struct batch *batch, const struct segments *segments,
                    const struct selector_ops *selector_ops, uint32_t layer_head, struct want *want)
{
    struct fetch *fetch = batch->fetch;
    const uint32_t head = layer_head + want->kv_head;
    const struct segment_class *class = segment_class(segments, want->segment);
    const uint32_t *begins =
        selector_ops->unit_begins(segment_index(segments, want->segment, head));
    const size_t row_bytes = class->k_row_bytes + class->v_row_bytes;
    const size_t first = begins[want->unit] * row_bytes, end = begins[want->unit_end] * row_bytes;
    const uint32_t page = (uint32_t)(first / PAGE);
    const uint32_t n_pages = (uint32_t)((end + PAGE - 1) / PAGE) - page;
    const bool stays = want->run != want->run_end;
    const uint64_t key = unit_key(segments, want->segment, head, want->unit);
    if (n_pages > pages_left(batch)) return false;
    if (stays && find_kept(batch, want, key)) return true;

    const uint32_t to = give_pages(fetch, n_pages);
    const uint32_t skip_bytes = (uint32_t)(first % PAGE);
    batch->n_pages += n_pages;
    keep(fetch, key, to, n_pages, skip_bytes);
    if (stays)
        fetch->table[find_place(fetch, key)] = (uint32_t)((fetch->n_in - 1) % fetch->n_pages) + 1;
    want->rows = fetch->buffer + (size_t)to * PAGE + skip_bytes;
    fetch->reads[batch->n_reads++] = (struct store_read){
        .extent = want->segment->extents[head],
        .page = page,
        .n_pages = n_pages,
        .at = fetch->buffer + (size_t)to * PAGE,
    };
    return true;
}

// What a failed batch left in the buffer must not be found.
static void forget_all(struct fetch *fetch)
{
    memset(fetch->table, 0, fetch->n_table * sizeof *fetch->table);
    fetch->n_out = fetch->n_in;
}

fathom_status fetch_begin(struct fetch *fetch, const struct segments *segments,
                          const struct selector_ops *selector_ops, uint32_t layer_head,
                          uint32_t first, uint32_t *n)
{
    struct batch batch = {.fetch = fetch};
    uint32_t i = first;
    while (i < fetch->n_wants &&
           resolve(&batch, segments, selector_ops, layer_head, &fetch->wants[i]))
        i++;
    *n = i - first;
    if (*n == 0)
        return status_set(FATHOM_ENOMEM,
                          "a unit does not fit into %u pages of RAM for units from "
                          "disk: raise kv.host_bytes",
                          fetch->n_pages);
    fathom_status status =
        segments->store_ops->submit(segments->store, fetch->reads, batch.n_reads);
    if (status < 0) forget_all(fetch);
    return status;
}

fathom_status fetch_wait(struct fetch *fetch, const struct segments *segments)
{
    const fathom_status status = segments->store_ops->wait(segments->store, INT64_MAX);
    if (status < 0) forget_all(fetch);
    return status;
}
