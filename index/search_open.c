// The memory of a search: one reservation, of which only what is used becomes real.

#include "index/search.h"

#include "src/base/mem.h"
#include "src/base/status.h"

struct room {
    uint8_t *base; // NULL: only count
    size_t used;
};

static void *take(struct room *room, size_t count, size_t item_bytes)
{
    uint8_t *at = room->base != NULL ? room->base + room->used : NULL;
    room->used += size_round(count * item_bytes, MEM_ALIGN_BYTES);
    return at;
}

static void place_level(struct room *room, struct level *level, size_t stride, uint32_t group,
                        bool box)
{
    level->stride = (uint32_t)stride;
    level->spans = take(room, stride / REP_LANES, sizeof *level->spans);
    level->scores = take(room, group * stride, sizeof(float));
    level->tops = box ? take(room, group * stride, sizeof(float)) : NULL;
    level->radius = take(room, stride, sizeof(float));
    level->spread = take(room, stride, sizeof(float));
    level->weight = take(room, stride, sizeof(float));
    level->rank = take(room, stride, sizeof(float));
}

// Slots of either level that a sequence may need: units_max of all segments, each rounded up to
// lanes.
static size_t slots_max(const struct selector_params *p)
{
    const uint64_t split_rows = (uint64_t)UNIT_SPLIT * p->unit_tokens;
    const uint64_t n_splits = p->kind == FATHOM_SELECTOR_CLUSTER ? p->n_rows_max / split_rows : 0;
    const size_t n_units = (size_t)(p->n_rows_max / p->unit_tokens + n_splits);
    return size_round(n_units + (size_t)p->n_segments_max * (REP_LANES + 2), REP_LANES);
}

static uint32_t heads_max(const struct selector_params *p)
{
    return p->group * p->n_queries_max;
}

static void place_head(struct room *room, struct head *head, const struct selector_params *p)
{
    const size_t f32 = sizeof(float);
    const size_t n_slots = slots_max(p);
    const uint32_t n_heads = heads_max(p);
    const size_t n_rows = (size_t)p->n_rows_max;
    const size_t n_segments = p->n_segments_max;
    const bool two_level = p->kind == FATHOM_SELECTOR_CLUSTER;
    const bool box = p->rank_by == FATHOM_RANK_BOX;
    const bool tokens = p->stage2_bits > 0;
    const size_t n_coarse = n_slots / COARSE_UNITS + n_segments * (REP_LANES + 1);
    place_level(room, &head->coarse, two_level ? size_round(n_coarse, REP_LANES) : 0, n_heads,
                false);
    place_level(room, &head->fine, n_slots, n_heads, box);
    head->whole = take(room, n_slots, f32);
    head->n_units = take(room, n_segments, sizeof(uint32_t));
    head->q = take(room, (size_t)n_heads * p->d_k, f32);
    head->packed_q = take(room, packed_query_bytes(n_heads), 1);
    head->packed_abs = take(room, packed_query_bytes(n_heads), 1);
    head->slack = take(room, n_heads, f32);
    head->slack_abs = take(room, n_heads, f32);
    head->norm = take(room, n_heads, f32);
    head->reach = take(room, n_heads, f32);
    head->log_mass = take(room, n_heads, f32);
    head->parts = take(room, n_heads * n_slots / REP_LANES, f32);
    head->candidates = take(room, tokens ? n_slots : 0, sizeof *head->candidates);
    head->segment_candidates = take(room, n_segments + 1, sizeof(uint32_t));
    head->token_scores = take(room, tokens ? p->group * n_rows : 0, f32);
    head->token_rank = take(room, tokens ? n_rows : 0, f32);
    head->token_error = take(room, tokens ? n_segments * n_heads : 0, f32);
    head->places = take(room, tokens && n_rows > n_slots ? n_rows : n_slots, sizeof(uint32_t));
    head->runs = take(room, n_rows, sizeof *head->runs);
    head->picked = take(room, n_rows / 64 + 1, sizeof *head->picked);
    head->rest_bound = take(room, n_heads, f32);
    head->rest_estimate = take(room, n_heads, f32);
}

// Places all arrays in the room; returns the bytes they take.
static size_t place(struct search *s, void *base)
{
    const struct selector_params *p = &s->selector->params;
    struct room room = {.base = base};
    struct head unplaced;
    s->layouts = take(&room, p->n_segments_max, sizeof *s->layouts);
    s->first_row = take(&room, p->n_segments_max, sizeof *s->first_row);
    s->n_rows = take(&room, p->n_segments_max, sizeof *s->n_rows);
    s->heads = take(&room, p->n_kv_heads, sizeof *s->heads);
    s->row_query_bytes = size_round(packed_query_bytes(heads_max(p)), MEM_ALIGN_BYTES);
    s->row_queries = take(&room, pool_count(p->pool), s->row_query_bytes);
    s->row_scores =
        take(&room, pool_count(p->pool) * (size_t)heads_max(p) * SCORE_BATCH, sizeof(float));
    for (uint32_t h = 0; h < p->n_kv_heads; h++)
        place_head(&room, base != NULL ? &s->heads[h] : &unplaced, p);
    return room.used;
}

fathom_status search_open(const struct selector *selector, struct search **search)
{
    struct search *s = NULL;
    fathom_status status;
    FATHOM_TRY(mem_new(1, sizeof *s, "search", &s));
    s->selector = selector;
    s->bytes = place(s, NULL);
    FATHOM_CHECK(mem_reserve(s->bytes, MEM_PAGES_SMALL, "search", &s->memory), out);
    place(s, s->memory);
    *search = s;
    return FATHOM_OK;
out:
    search_close(&s);
    return status;
}

size_t search_bytes(const struct search *search)
{
    return search->bytes;
}

void search_close(struct search **search)
{
    if (search == NULL || *search == NULL) return;
    if ((*search)->memory != NULL) mem_unreserve((*search)->memory, (*search)->bytes);
    mem_free(*search);
    *search = NULL;
}
