// Scores of spans of representatives, and what else their slots hold.

#include "index/search.h"

#include <string.h>

#include "index/fetch_ahead.h"

enum { FETCH_BYTES = 4096 }; // of representatives: more would displace what is being scored
static const float ROUND_UP = 1.0f + 0x1p-18f;

uint32_t search_count_visible(const struct search *s, const struct head *head, uint32_t segment,
                              uint32_t begin, uint32_t end)
{
    const struct index_view *view = &head->views[segment];
    const uint16_t *positions = index_at(view->index, s->layouts[segment].positions);
    uint32_t n = 0;
    if (!is_masked(s, head, segment)) return end - begin;
    for (uint32_t row = begin; row < end; row++)
        n += positions[row] < view->n_visible;
    return n;
}

// Scores one span from blocks of representatives, with a query packed as they are.
static void score_blocks(const struct search *s, const void *packed_q, const void *blocks,
                         const struct span *span, float *out, size_t stride)
{
    const struct selector_params *p = &s->selector->params;
    const struct score_reps_args args = {
        .q = packed_q,
        .group = s->n_heads,
        .d = p->d_k,
        .q8 = p->index_q8,
        .blocks = blocks,
        .begin = span->first,
        .end = span->first + round_to_lanes(span->n),
        .out = out + span->slot,
        .out_stride = stride,
    };
    p->kernels->kv.score_reps(&args);
}

// tops: <q, centre> + <|q|, half> + all that either may be off by. The scores' place serves for the
// halves, so this comes before the scores.
static void score_boxes(const struct search *s, struct head *head, const struct span *span)
{
    const struct index_layout *layout = &s->layouts[span->segment];
    const struct index_head *index = view_head(head, span->segment);
    const float *box_rest = index_at(index, layout->box_rest);
    struct level *level = &head->fine;
    score_blocks(s, head->packed_abs, index_at(index, layout->half), span, level->scores,
                 level->stride);
    score_blocks(s, head->packed_q, index_at(index, layout->mid), span, level->tops, level->stride);
    for (uint32_t g = 0; g < s->n_heads; g++) {
        const float *half = level->scores + (size_t)g * level->stride + span->slot;
        float *top = level->tops + (size_t)g * level->stride + span->slot;
        const float error = score_error(head, span->segment, g) +
                            head->slack_abs[g] * index->half_norm +
                            0x1p-20f * head->norm[g] * index->half_norm;
        for (uint32_t i = 0; i < span->n; i++)
            top[i] += half[i] + head->norm[g] * ROUND_UP * box_rest[span->first + i] + error;
    }
}

static bool wants_spread(const struct search *s)
{
    return !s->args.skip_rest || s->selector->params.estimate;
}

// Visible rows of the units or groups of a span.
static void weigh_span(const struct search *s, const struct head *head, bool coarse,
                       const struct span *span, float *weight)
{
    const struct index_head *index = view_head(head, span->segment);
    const uint32_t *begin = index_at(index, s->layouts[span->segment].unit_begin);
    const bool masked = is_masked(s, head, span->segment);
    for (uint32_t i = 0; i < span->n && !coarse; i++)
        weight[i] = (float)(int32_t)(begin[span->first + i + 1] - begin[span->first + i]);
    for (uint32_t i = 0; i < span->n && (coarse || masked); i++) {
        const uint32_t step = coarse ? COARSE_UNITS : 1;
        const uint32_t unit = (span->first + i) * step;
        const uint32_t next = unit + step < index->n_units ? unit + step : index->n_units;
        weight[i] = (float)search_count_visible(s, head, span->segment, begin[unit], begin[next]);
    }
}

// What the level's slots of a span hold besides scores.
static void fill_slots(const struct search *s, struct head *head, bool coarse,
                       const struct span *span)
{
    struct level *level = coarse ? &head->coarse : &head->fine;
    const bool masked = is_masked(s, head, span->segment);
    const struct index_layout *layout = &s->layouts[span->segment];
    const struct index_head *index = view_head(head, span->segment);
    const float *radius = index_at(index, coarse ? layout->coarse_radius : layout->radius);
    const float *spread = index_at(index, coarse ? layout->coarse_spread : layout->spread);
    const uint32_t n_slots = round_to_lanes(span->n);
    float *weight = level->weight + span->slot;
    memcpy(level->radius + span->slot, radius + span->first, span->n * sizeof *radius);
    if (wants_spread(s))
        memcpy(level->spread + span->slot, spread + span->first, span->n * sizeof *spread);
    weigh_span(s, head, coarse, span, weight);
    for (uint32_t i = span->n; i < n_slots; i++)
        level->radius[span->slot + i] = level->spread[span->slot + i] = weight[i] = 0;
    for (uint32_t i = 0; i < n_slots && !coarse && s->selector->params.estimate; i++)
        head->whole[span->slot + i] = masked ? 0 : weight[i];
}

void search_score_span(const struct search *s, struct head *head, bool coarse,
                       const struct span *span)
{
    struct level *level = coarse ? &head->coarse : &head->fine;
    const struct index_layout *layout = &s->layouts[span->segment];
    const struct index_head *index = view_head(head, span->segment);
    if (!coarse && level->tops != NULL) score_boxes(s, head, span);
    score_blocks(s, head->packed_q, index_at(index, coarse ? layout->coarse_reps : layout->reps),
                 span, level->scores, level->stride);
    fill_slots(s, head, coarse, span);
}

// The processor sees no further than the end of a group by itself.
void search_fetch_span(const struct search *s, const struct head *head, bool coarse,
                       const struct span *span)
{
    const struct selector_params *p = &s->selector->params;
    const struct index_layout *layout = &s->layouts[span->segment];
    const struct index_head *index = view_head(head, span->segment);
    const size_t block = rep_block_bytes(p->index_q8, p->d_k);
    const char *reps = index_at(index, (coarse ? layout->coarse_reps : layout->reps) +
                                           span->first / REP_LANES * block);
    const float *radius = index_at(index, coarse ? layout->coarse_radius : layout->radius);
    const uint32_t *begin = index_at(index, layout->unit_begin);
    const size_t bytes = reps_bytes(p->index_q8, p->d_k, span->n);
    fetch_ahead(reps, bytes < FETCH_BYTES ? bytes : FETCH_BYTES);
    const uint32_t n = span->n < COARSE_UNITS ? span->n : COARSE_UNITS;
    fetch_ahead(radius + span->first, n * sizeof *radius);
    for (uint32_t i = span->first; i < span->first + n && coarse; i++)
        fetch_ahead(begin + COARSE_UNITS * i, 1);
    if (!coarse) fetch_ahead(begin + span->first, (n + 1) * sizeof *begin);
}
