// A linked list of symbols and a binary heap of the pairs that could merge.
//
// An entry of the heap is not removed when one of its symbols changes; it is known to be stale when
// it comes to the top: its left symbol is gone, or the pair is no longer as long as it was. (A
// symbol only grows, and grows only by its right neighbour, so equal length means the same pair.)

#include "src/model/merge.h"

#include "src/base/mem.h"
#include "src/base/status.h"

struct merge_entry {
    uint64_t order; // rank, then index of the left symbol
    uint32_t bytes; // of both symbols
    int32_t id;
};

void merge_fini(struct merger *merger)
{
    mem_free(merger->symbols);
    mem_free(merger->heap);
    merger->symbols = NULL;
    merger->heap = NULL;
    merger->n_symbols = merger->n_symbols_max = merger->n_entries = merger->n_entries_max = 0;
}

void merge_clear(struct merger *merger)
{
    merger->n_symbols = 0;
}

fathom_status merge_append(struct merger *merger, uint32_t bytes, int32_t id)
{
    if (merger->n_symbols == merger->n_symbols_max) {
        size_t n_max = merger->n_symbols_max == 0 ? 256 : 2 * merger->n_symbols_max;
        FATHOM_TRY(mem_grow(merger->n_symbols_max, n_max, sizeof *merger->symbols,
                            "symbols of a word", &merger->symbols));
        merger->n_symbols_max = n_max;
    }
    size_t n = merger->n_symbols++;
    struct merge_symbol *symbol = &merger->symbols[n];
    symbol->begin = n == 0 ? 0 : symbol[-1].begin + symbol[-1].bytes;
    symbol->bytes = bytes;
    symbol->id = id;
    return FATHOM_OK;
}

static void push_entry(struct merger *merger, struct merge_entry entry)
{
    struct merge_entry *heap = merger->heap;
    size_t at = merger->n_entries++;
    while (at > 0 && entry.order < heap[(at - 1) / 2].order) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = entry;
}

static struct merge_entry pop_entry(struct merger *merger)
{
    struct merge_entry *heap = merger->heap;
    struct merge_entry top = heap[0];
    struct merge_entry last = heap[--merger->n_entries];
    size_t n = merger->n_entries, at = 0;
    for (size_t child = 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1].order < heap[child].order) child++;
        if (last.order <= heap[child].order) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

static void consider_pair(struct merger *merger, const char *text, uint32_t left, uint32_t right)
{
    if (left == merger->n_symbols || right == merger->n_symbols) return;
    const struct merge_symbol *first = &merger->symbols[left], *second = &merger->symbols[right];
    struct merge_pair pair;
    if (!merger->find(merger->rules, text, first, second, &pair)) return;
    push_entry(merger, (struct merge_entry){.order = (uint64_t)pair.rank << 32 | left,
                                            .bytes = first->bytes + second->bytes,
                                            .id = pair.id});
}

fathom_status merge_run(struct merger *merger, const char *text)
{
    // Each of the n - 1 merges takes one entry away and adds two at most.
    if (merger->n_entries_max < 2 * merger->n_symbols) {
        size_t n_max = 2 * merger->n_symbols_max;
        FATHOM_TRY(mem_grow(0, n_max, sizeof *merger->heap, "pairs of a word", &merger->heap));
        merger->n_entries_max = n_max;
    }
    merger->n_entries = 0;

    struct merge_symbol *symbols = merger->symbols;
    uint32_t none = (uint32_t)merger->n_symbols;
    for (uint32_t i = 0; i < none; i++) {
        symbols[i].prev = i == 0 ? none : i - 1;
        symbols[i].next = i + 1;
    }
    for (uint32_t i = 0; i + 1 < none; i++)
        consider_pair(merger, text, i, i + 1);

    while (merger->n_entries > 0) {
        struct merge_entry entry = pop_entry(merger);
        uint32_t left = (uint32_t)entry.order;
        struct merge_symbol *symbol = &symbols[left];
        if (symbol->bytes == 0 || symbol->next == none) continue;
        struct merge_symbol *eaten = &symbols[symbol->next];
        if (symbol->bytes + eaten->bytes != entry.bytes) continue;

        symbol->bytes = entry.bytes;
        symbol->id = entry.id;
        symbol->next = eaten->next;
        eaten->bytes = 0;
        if (symbol->next != none) symbols[symbol->next].prev = left;
        consider_pair(merger, text, symbol->prev, left);
        consider_pair(merger, text, left, symbol->next);
    }
    return FATHOM_OK;
}
