// The threshold of Squeezed Attention (arXiv 2411.09688): one share of the mass for all layers and
// heads, calibrated on the sequence's own late queries, so that together they pick their budgets,
// but each head of each query as much as its own mass asks for.
//
// Every sample is searched for once, and surveyed on a grid of thresholds. So it costs as much as
// picking in as many steps as there are samples.

#include "src/kv/engine.h"

#include <math.h>

#include "src/base/clock.h"

enum { CEILING = 4 };

// What lies in units of less than e^-64 of the mass is not worth reading.
static const struct threshold_grid grid = {
    .from = -64.0f, .step = 64.0f / CALIBRATE_GRID, .n = CALIBRATE_GRID};

uint64_t calibrate_ceiling(uint64_t budget, uint64_t n_sealed_rows)
{
    if (budget >= n_sealed_rows) return UINT64_MAX;
    return budget < n_sealed_rows / CEILING ? CEILING * budget : n_sealed_rows;
}

// Rows that the samples pick by each threshold of the grid, and what they are to pick.
struct tally {
    uint64_t n_sealed_rows;
    double rows[CALIBRATE_GRID];
    double wanted;
};

static void tally_head(const fathom_engine *engine, uint32_t layer, uint32_t kv_head,
                       struct tally *tally)
{
    const uint64_t *surveyed = engine->surveyed + (size_t)kv_head * CALIBRATE_GRID;
    const uint64_t budget =
        attend_budget(engine, layer * engine->params.n_kv_heads + kv_head, tally->n_sealed_rows);
    const uint64_t most = engine->budgets[kv_head], least = most / CALIBRATE_FLOOR_PARTS;
    if (budget >= tally->n_sealed_rows) return; // reads all, whatever the threshold
    tally->wanted += (double)budget;
    for (uint32_t i = 0; i < CALIBRATE_GRID; i++) {
        const uint64_t rows = surveyed[i];
        tally->rows[i] += (double)(rows > most ? most : rows < least ? least : rows);
    }
}

static void tally_layer(fathom_engine *engine, const struct slot *slot, uint32_t layer,
                        struct tally *tally)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t n_samples = slot->n_samples < SAMPLES ? slot->n_samples : SAMPLES;
    const size_t n_values = (size_t)p->n_heads * p->d_k;
    struct search_args args = {
        .views = engine->views, .n_segments = slot->n_sealed, .skip_rest = true, .threshold = 1.0f};
    attend_views(engine, slot, layer);
    for (uint32_t h = 0; h < p->n_kv_heads; h++) {
        const uint64_t budget =
            attend_budget(engine, layer * p->n_kv_heads + h, tally->n_sealed_rows);
        const uint64_t most = calibrate_ceiling(budget, tally->n_sealed_rows);
        engine->budgets[h] = most == UINT64_MAX ? tally->n_sealed_rows : most;
    }
    for (uint32_t i = 0; i < n_samples; i++) {
        args.q = slot->samples + ((size_t)layer * SAMPLES + i) * n_values;
        engine->selector_ops->begin(engine->search, &args);
        engine->selector_ops->survey(engine->search, engine->budgets, &grid, engine->surveyed);
        for (uint32_t h = 0; h < p->n_kv_heads; h++)
            tally_head(engine, layer, h, tally);
    }
}

// Where the tally, which falls along the grid, comes to what is wanted.
static float find_threshold(fathom_engine *engine, const struct slot *slot)
{
    const struct fathom_engine_params *p = &engine->params;
    struct tally tally = {.n_sealed_rows = attend_sealed_rows(slot)};
    uint32_t at = 0;
    for (uint32_t layer = p->kv.n_dense_layers; layer < p->n_layers; layer++)
        tally_layer(engine, slot, layer, &tally);
    while (at + 2 < grid.n && tally.rows[at + 1] >= tally.wanted)
        at++;
    const double fall = tally.rows[at] - tally.rows[at + 1];
    const double past = fall > 0.0 ? (tally.rows[at] - tally.wanted) / fall : 0.0;
    return expf(grid.from + grid.step * ((float)at + fminf(1.0f, fmaxf(0.0f, (float)past))));
}

static bool is_due(const fathom_engine *engine, const struct slot *slot)
{
    const struct calibration *c = &slot->calibration;
    if (!engine->picks || !engine->params.kv.threshold_auto || slot->n_samples == 0) return false;
    const uint64_t n_rows = attend_sealed_rows(slot);
    if (n_rows == 0) return false;
    return (c->n_samples < SAMPLES && slot->n_samples >= SAMPLES) ||
           (c->prefilled && n_rows != c->n_rows) || 2 * n_rows >= 3 * c->n_rows ||
           3 * n_rows <= 2 * c->n_rows;
}

void calibrate(fathom_engine *engine, struct slot *slot)
{
    const uint64_t start_ns = clock_ns();
    if (!engine->tiered || !is_due(engine, slot)) return;
    slot->calibration = (struct calibration){
        .threshold = find_threshold(engine, slot),
        .n_rows = attend_sealed_rows(slot),
        .n_samples = slot->n_samples,
    };
    engine->stats.n_calibrations++;
    engine->stats.threshold = (double)slot->calibration.threshold;
    engine->stats.calibrate_s += (double)(clock_ns() - start_ns) * 1e-9;
}
