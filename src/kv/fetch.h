// Rows of spilled segments on their way back: what a step wants of them, the reads, and the RAM in
// which units stay for the next steps (first in, first out; what is used again when its turn comes
// is kept by moving it to the front). A step that has a deadline may leave reads behind: they go
// on, and their pages are given to nobody else until they are done.

#ifndef FATHOM_SRC_KV_FETCH_H
#define FATHOM_SRC_KV_FETCH_H

#include "src/kv/segment.h"

// Units unit .. unit_end - 1 of a spilled segment. Runs run .. run_end - 1 of the KV head's
// selection lie in them; with run == run_end all rows are wanted, and they are not kept.
struct want {
    const struct segment *segment;
    uint32_t sealed; // index of the segment in the sequence
    uint32_t kv_head;
    uint32_t unit;
    uint32_t unit_end;
    uint32_t run;
    uint32_t run_end;
    const uint8_t *rows;           // of `unit`, once resolved
    const struct store_read *read; // that brings them; NULL: they are there
};

struct kept {
    uint64_t key;
    uint32_t page; // first, in the buffer
    uint32_t n_pages;
    uint32_t skip_bytes;     // rows begin that far into the first page
    struct store_read *read; // that brought it, or is to; NULL: it was moved
};

struct fetch {
    uint8_t *buffer; // [n_pages]; the store reads into it
    uint32_t n_pages;
    uint32_t head;            // next page to be given out
    struct kept *kept;        // [n_pages], a ring: oldest first
    uint64_t n_in;            // entries put into the ring so far
    uint64_t n_out;           // and taken from it
    uint32_t *table;          // [n_table] hash of keys: entry % n_pages + 1; 0: empty
    uint32_t n_table;         // a power of two
    struct store_read *reads; // [n_pages], a ring: a place is used again after its entry
    uint64_t n_reads;         // put into that ring so far
    struct want *wants;       // [n_wants_max]
    uint32_t n_wants;
    uint32_t n_wants_max;
    uint32_t n_begun;       // of wants: resolved, and being read
    uint32_t n_used;        // of these: the step is done with them
    uint32_t n_batch_pages; // given out since the step was done with all that had been begun
    bool blocked;           // the last want that was not begun: by a read that was left behind
    struct left_unit *left; // [n_wants_max] of the step, in the order of wants: not there in time
    uint32_t n_left;
    uint64_t n_hits;
};

// n_wants_max: most units that a layer's step can want at once; takes memory as they are wanted.
FATHOM_MUST_USE fathom_status fetch_open(struct fetch *fetch, size_t bytes, uint32_t n_wants_max);
void fetch_close(struct fetch *fetch);
// Bytes that fetch_open takes beside a buffer of that many.
size_t fetch_table_bytes(size_t bytes, uint32_t n_wants_max);

// Nothing is wanted.
void fetch_reset(struct fetch *fetch);
// Resolves wants from n_begun on, as many as the buffer holds beside those that are not used yet,
// and begins to read what is not there. Where all that was begun is used, and reads that were left
// behind are in the way of more, waits for these up to the deadline: nothing is begun if it passes.
// layer_head: KV head 0 of the layer.
FATHOM_MUST_USE fathom_status fetch_begin(struct fetch *fetch, const struct segments *segments,
                                          const struct selector_ops *selector_ops,
                                          uint32_t layer_head, int64_t deadline_ns);
// Waits for the rows of n begun wants from n_used on, up to the deadline; fetch_has says which are
// there.
FATHOM_MUST_USE fathom_status fetch_wait(struct fetch *fetch, const struct segments *segments,
                                         uint32_t n, int64_t deadline_ns);
static inline bool fetch_has(const struct want *want)
{
    return want->rows != NULL && (want->read == NULL || want->read->status == FATHOM_OK);
}

#endif
