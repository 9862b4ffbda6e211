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

size_t fetch_table_bytes(size_t bytes, uint32_t n_wants_max)
{
    const size_t n_pages = bytes / PAGE;
    return n_pages * (sizeof(struct kept) + sizeof(struct store_read)) +
           table_size((uint32_t)n_pages) * sizeof(uint32_t) +
           n_wants_max * (sizeof(struct want) + sizeof(struct left_unit));
}

fathom_status fetch_open(struct fetch *fetch, size_t bytes, uint32_t n_wants_max)
{
    void *buffer, *wants, *left;
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
    FATHOM_TRY(
        mem_reserve(n_wants_max * sizeof *fetch->left, MEM_PAGES_SMALL, "late units", &left));
    fetch->left = left;
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
    if (fetch->left != NULL) mem_unreserve(fetch->left, fetch->n_wants_max * sizeof *fetch->left);
    *fetch = (struct fetch){0};
}

void fetch_reset(struct fetch *fetch)
{
    fetch->n_wants = fetch->n_begun = fetch->n_used = fetch->n_left = 0;
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

static bool is_under_way(const struct kept *kept)
{
    return kept->read != NULL && kept->read->status == FATHOM_IN_PROGRESS;
}

static void drop_oldest(struct fetch *fetch)
{
    const struct kept *oldest = &fetch->kept[fetch->n_out % fetch->n_pages];
    const uint32_t at = find_place(fetch, oldest->key);
    if (fetch->table[at] == fetch->n_out % fetch->n_pages + 1) remove_key(fetch, oldest->key);
    fetch->n_out++;
}

// Pages for a unit, in one piece; what lay there is forgotten. False if something is still being
// read to there.
static bool give_pages(struct fetch *fetch, uint32_t n_pages, uint32_t *page)
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
        if (is_under_way(oldest)) return false;
        drop_oldest(fetch);
    }
    fetch->head = first + n_pages;
    *page = first;
    return true;
}

// Puts an entry into the ring; one that stays can be found.
static const struct kept *keep(struct fetch *fetch, const struct kept *kept, bool stays)
{
    const uint32_t entry = (uint32_t)(fetch->n_in++ % fetch->n_pages);
    fetch->kept[entry] = *kept;
    if (stays) fetch->table[find_place(fetch, kept->key)] = entry + 1;
    return &fetch->kept[entry];
}

// The entry of a unit that was read, or is being read; NULL: there is none.
static const struct kept *find_kept(struct fetch *fetch, uint64_t key)
{
    const uint32_t entry = fetch->table[find_place(fetch, key)];
    if (entry == 0) return NULL;
    const struct kept *kept = &fetch->kept[entry - 1];
    if (kept->read == NULL || kept->read->status >= 0) return kept;
    remove_key(fetch, key); // it was left behind, and failed
    return NULL;
}

// ---- Resolving wants ----------------------------------------------------------------------------

// Pages that may still be given out in this batch: half the buffer is for it, so that what it found
// in the other half stays.
static uint32_t pages_left(const struct fetch *fetch)
{
    return fetch->n_pages / 2 - fetch->n_batch_pages;
}

// Whether giving out the rest of the batch's pages may overwrite the entry.
static bool in_danger(const struct fetch *fetch, const struct kept *kept)
{
    const uint32_t ahead = kept->page >= fetch->head ? kept->page - fetch->head
                                                     : kept->page + fetch->n_pages - fetch->head;
    // Skipping the buffer's end costs pages too: at most those of the longest unit.
    return ahead <= pages_left(fetch) + fetch->n_pages / 8;
}

static bool take_pages(struct fetch *fetch, uint32_t n_pages, uint32_t *page)
{
    fetch->blocked = !give_pages(fetch, n_pages, page);
    if (!fetch->blocked) fetch->n_batch_pages += n_pages;
    return !fetch->blocked;
}

// What was found stays for the batch: moved to the front if it must be. What is still being read
// stays where it is, as its pages are given to nobody. NULL: there is no room.
static const struct kept *hold(struct fetch *fetch, const struct kept *found)
{
    if (is_under_way(found)) return found;
    struct kept moved = *found;
    const bool moves = in_danger(fetch, found);
    if (moves && !take_pages(fetch, moved.n_pages, &moved.page)) return NULL;
    fetch->n_hits++;
    if (!moves) return found;
    memmove(fetch->buffer + (size_t)moved.page * PAGE, fetch->buffer + (size_t)found->page * PAGE,
            (size_t)moved.n_pages * PAGE);
    remove_key(fetch, moved.key);
    moved.read = NULL;
    return keep(fetch, &moved, true);
}

// Begins to read pages of an extent, from page `first` on, to where there is room; NULL: nowhere.
static const struct kept *begin_read(struct fetch *fetch, struct store_extent extent,
                                     uint32_t first, struct kept *kept, bool stays)
{
    if (!take_pages(fetch, kept->n_pages, &kept->page)) return NULL;
    kept->read = &fetch->reads[fetch->n_reads++ % fetch->n_pages];
    *kept->read = (struct store_read){
        .extent = extent,
        .page = first,
        .n_pages = kept->n_pages,
        .at = fetch->buffer + (size_t)kept->page * PAGE,
    };
    return keep(fetch, kept, stays);
}

// False when the buffer holds no more.
static bool resolve(struct fetch *fetch, const struct segments *segments,
                    const struct selector_ops *selector_ops, uint32_t layer_head, struct want *want)
{
    const uint32_t head = layer_head + want->kv_head;
    const struct segment_class *class = segment_class(segments, want->segment);
    const uint32_t *begins =
        selector_ops->unit_begins(segment_index(segments, want->segment, head));
    const size_t row_bytes = class->k_row_bytes + class->v_row_bytes;
    const size_t begin = begins[want->unit] * row_bytes, end = begins[want->unit_end] * row_bytes;
    const uint32_t first = (uint32_t)(begin / PAGE);
    const bool stays = want->run != want->run_end;
    struct kept kept = {
        .key = unit_key(segments, want->segment, head, want->unit),
        .n_pages = (uint32_t)((end + PAGE - 1) / PAGE) - first,
        .skip_bytes = (uint32_t)(begin % PAGE),
    };
    fetch->blocked = false;
    if (kept.n_pages > pages_left(fetch)) return false;
    const struct kept *found = stays ? find_kept(fetch, kept.key) : NULL;
    found = found != NULL ? hold(fetch, found)
                          : begin_read(fetch, want->segment->extents[head], first, &kept, stays);
    if (found == NULL) return false;
    want->rows = fetch->buffer + (size_t)found->page * PAGE + found->skip_bytes;
    want->read = found->read;
    return true;
}

// What a failed batch left in the buffer must not be found.
static void forget_all(struct fetch *fetch)
{
    memset(fetch->table, 0, fetch->n_table * sizeof *fetch->table);
}

// The latest n reads in their ring, whose end may lie between them.
static fathom_status submit(struct fetch *fetch, const struct segments *segments, uint32_t n)
{
    const struct store_ops *ops = segments->store_ops;
    const uint32_t first = (uint32_t)((fetch->n_reads - n) % fetch->n_pages);
    const uint32_t n_first = n < fetch->n_pages - first ? n : fetch->n_pages - first;
    fathom_status status = ops->submit(segments->store, fetch->reads + first, n_first);
    if (status >= 0 && n > n_first)
        status = ops->submit(segments->store, fetch->reads, n - n_first);
    if (status < 0) forget_all(fetch);
    return status;
}

fathom_status fetch_begin(struct fetch *fetch, const struct segments *segments,
                          const struct selector_ops *selector_ops, uint32_t layer_head,
                          int64_t deadline_ns)
{
    const struct store_ops *ops = segments->store_ops;
    if (fetch->n_begun == fetch->n_wants) return FATHOM_OK;
    if (fetch->n_begun == fetch->n_used) {
        // What was left behind may have come by now. Whoever wants it will see if it failed.
        (void)ops->wait(segments->store, 0);
        fetch->n_batch_pages = 0;
    }
    for (;;) {
        const uint64_t n_reads = fetch->n_reads;
        while (fetch->n_begun < fetch->n_wants &&
               resolve(fetch, segments, selector_ops, layer_head, &fetch->wants[fetch->n_begun]))
            fetch->n_begun++;
        if (fetch->n_begun > fetch->n_used)
            return submit(fetch, segments, (uint32_t)(fetch->n_reads - n_reads));
        if (!fetch->blocked) break;
        if (ops->wait(segments->store, deadline_ns) == FATHOM_IN_PROGRESS) return FATHOM_OK;
    }
    return status_set(FATHOM_ENOMEM,
                      "a unit does not fit into %u pages of RAM for units from "
                      "disk: raise kv.host_bytes (--kv-ram)",
                      fetch->n_pages);
}

fathom_status fetch_wait(struct fetch *fetch, const struct segments *segments, uint32_t n,
                         int64_t deadline_ns)
{
    const struct store_ops *ops = segments->store_ops;
    bool failed = false;
    for (uint32_t i = fetch->n_used; i < fetch->n_used + n; i++) {
        const struct store_read *read = fetch->wants[i].read;
        if (read == NULL) continue;
        ops->await(segments->store, read, deadline_ns);
        failed = failed || read->status < 0;
    }
    if (!failed) return FATHOM_OK;
    forget_all(fetch);
    return ops->wait(segments->store, INT64_MAX);
}
