// Filling an engine without attending, then timing fathom_attend alone: appending and sealing are
// measured apart.

#include "tools/attend_run.h"

#include <string.h>

#include "tools/block.h"
#include "tools/interrupt.h"
#include "tools/progress.h"
#include "tools/say.h"
#include "tools/stats.h"
#include "tools/timer.h"

enum { CHUNK_TOKENS = 512, N_DEPTHS = 3 };

// Tokens that the engine will hold.
static uint32_t count_tokens(const struct attend_plan *plan)
{
    const struct kv_source *source = plan->source;
    return plan->n_tokens + source->places[source->n_steps - 1] - source->places[0] + 1;
}

static int open_engine(struct attend_run *run)
{
    const struct kv_shape *shape = &run->plan.source->shape;
    const uint32_t n_tokens = count_tokens(&run->plan);
    struct fathom_engine_params params;
    fathom_engine_params_init(&params);
    run->n_step_max = n_tokens < CHUNK_TOKENS ? n_tokens : CHUNK_TOKENS;
    params.n_layers = run->plan.n_layers;
    params.n_heads = shape->n_heads;
    params.n_kv_heads = shape->n_kv_heads;
    params.d_k = shape->d_k;
    params.d_v = shape->d_v;
    params.n_tokens_max = n_tokens;
    params.n_step_max = run->n_step_max;
    params.kv_type = run->plan.kv_type;
    params.kv = run->plan.kv;
    SAY_TRY(say_status(fathom_engine_open(run->plan.device, &params, &run->engine)));
    return say_status(fathom_seq_create(run->engine, &run->seq));
}

static int open_buffers(struct attend_run *run)
{
    const struct kv_shape *shape = &run->plan.source->shape;
    const size_t q_values = (size_t)shape->n_heads * shape->d_k;
    const size_t out_values = (size_t)shape->n_heads * shape->d_v;
    const size_t n_steps = run->plan.source->n_steps;
    run->k = block_new((size_t)run->n_step_max * shape->n_kv_heads, shape->d_k * sizeof(float));
    run->v = block_new((size_t)run->n_step_max * shape->n_kv_heads, shape->d_v * sizeof(float));
    run->q = block_new(run->n_step_max, q_values * sizeof(float));
    run->chunk_out = block_new(run->n_step_max, out_values * sizeof(float));
    run->out = block_new(n_steps * run->plan.n_layers, out_values * sizeof(float));
    run->us = block_new(n_steps, sizeof *run->us);
    SAY_TRY(attend_coverage_open(&run->coverage, n_steps * run->plan.n_layers));
    return run->k != NULL && run->v != NULL && run->q != NULL && run->chunk_out != NULL &&
                   run->out != NULL && run->us != NULL
               ? EXIT_GOOD
               : EXIT_BAD;
}

static int append(struct attend_run *run, uint32_t layer, uint32_t first, uint32_t n)
{
    const struct kv_source *source = run->plan.source;
    SAY_TRY(source->rows(source->self, layer, first, n, run->k, run->v));
    return say_status(fathom_append(run->engine, run->seq, layer, run->k, run->v));
}

// Attends to layer 0 with a chunk of the source's queries; they repeat where there are fewer.
static int time_chunk(struct attend_run *run, uint32_t n, double *us)
{
    const struct kv_source *source = run->plan.source;
    const size_t q_values = (size_t)source->shape.n_heads * source->shape.d_k;
    for (uint32_t i = 0; i < n; i++)
        SAY_TRY(source->queries(source->self, 0, i % source->n_steps, run->q + i * q_values));
    const double start_ms = timer_now_ms();
    SAY_TRY(say_status(fathom_attend(run->engine, run->seq, 0, run->q, run->chunk_out)));
    *us = (timer_now_ms() - start_ms) * 1e3 / n;
    return EXIT_GOOD;
}

// The cost of a token grows with its depth in a line; its mean over a prompt is the line's value
// half way, here by least squares.
static double value_half_way(const double *depths, const double *us, int n, double depth)
{
    double x = 0, y = 0, xx = 0, xy = 0;
    for (int i = 0; i < n; i++) {
        x += depths[i] / n;
        y += us[i] / n;
    }
    for (int i = 0; i < n; i++) {
        xx += (depths[i] - x) * (depths[i] - x);
        xy += (depths[i] - x) * (us[i] - y);
    }
    return y + (xx > 0 ? xy / xx * (depth - x) : 0);
}

static int append_chunk(struct attend_run *run, uint32_t first, uint32_t n, double *us)
{
    SAY_TRY(say_status(fathom_step_begin(run->engine, run->seq, n)));
    for (uint32_t layer = 0; layer < run->plan.n_layers; layer++) {
        SAY_TRY(append(run, layer, first, n));
        if (us != NULL && layer == 0) SAY_TRY(time_chunk(run, n, us));
    }
    SAY_TRY(say_status(fathom_step_end(run->engine, run->seq)));
    return interrupt_seen() ? EXIT_INTERRUPTED : EXIT_GOOD;
}

// Appends tokens first .. end - 1 in chunks.
static int fill(struct attend_run *run, uint32_t first, uint32_t end, struct progress *progress)
{
    while (first < end) {
        const uint32_t n = end - first < run->n_step_max ? end - first : run->n_step_max;
        SAY_TRY(append_chunk(run, first, n, NULL));
        first += n;
        progress_add(progress, n);
    }
    return EXIT_GOOD;
}

// Appends all tokens; the last chunk before each of some depths attends.
static int fill_asking(struct attend_run *run, struct progress *progress)
{
    const uint32_t n_all = run->plan.n_tokens;
    const uint32_t depths[N_DEPTHS] = {n_all / 8, n_all / 2, n_all};
    double at[N_DEPTHS], us[N_DEPTHS] = {0};
    uint32_t first = 0;
    int n_measured = 0;
    for (int i = 0; i < N_DEPTHS; i++) {
        const uint32_t left = depths[i] - first;
        const uint32_t n = left < run->n_step_max ? left : run->n_step_max;
        if (n == 0) continue;
        SAY_TRY(fill(run, first, depths[i] - n, progress));
        SAY_TRY(append_chunk(run, depths[i] - n, n, &us[n_measured]));
        progress_add(progress, n);
        at[n_measured++] = depths[i] - n * 0.5;
        first = depths[i];
    }
    run->prefill_us = value_half_way(at, us, n_measured, n_all * 0.5);
    return EXIT_GOOD;
}

static int measure_fill(struct attend_run *run)
{
    struct progress progress;
    struct fathom_kv_stats stats;
    const double start_ms = timer_now_ms();
    progress_begin(&progress, run->plan.label, "tokens", run->plan.n_tokens);
    const int code = run->plan.prefill ? fill_asking(run, &progress)
                                       : fill(run, 0, run->plan.n_tokens, &progress);
    progress_end(&progress);
    SAY_TRY(code);
    fathom_kv_stats_init(&stats);
    SAY_TRY(say_status(fathom_engine_stats(run->engine, &stats)));
    run->fill_s = (timer_now_ms() - start_ms) * 1e-3;
    run->seal_us =
        (stats.seal_s + stats.merge_s) * 1e6 / ((double)run->plan.n_tokens * run->plan.n_layers);
    return EXIT_GOOD;
}

// One token through all layers; only attention is timed.
static int ask(struct attend_run *run, uint32_t step, uint32_t token)
{
    const struct kv_source *source = run->plan.source;
    const size_t out_values = (size_t)source->shape.n_heads * source->shape.d_v;
    float *out = run->out + (size_t)step * run->plan.n_layers * out_values;
    double ms = 0;
    SAY_TRY(say_status(fathom_step_begin(run->engine, run->seq, 1)));
    for (uint32_t layer = 0; layer < run->plan.n_layers; layer++, out += out_values) {
        SAY_TRY(append(run, layer, token, 1));
        SAY_TRY(source->queries(source->self, layer, step, run->q));
        const double start_ms = timer_now_ms();
        SAY_TRY(say_status(fathom_attend(run->engine, run->seq, layer, run->q, out)));
        ms += timer_now_ms() - start_ms;
        SAY_TRY(attend_coverage_note(&run->coverage, run->engine));
    }
    run->us[step] = ms * 1e3 / run->plan.n_layers;
    SAY_TRY(say_status(fathom_step_end(run->engine, run->seq)));
    return interrupt_seen() ? EXIT_INTERRUPTED : EXIT_GOOD;
}

int attend_run_open(struct attend_run *run, const struct attend_plan *plan)
{
    const struct kv_source *source = plan->source;
    *run = (struct attend_run){.plan = *plan};
    SAY_TRY(open_engine(run));
    SAY_TRY(open_buffers(run));
    SAY_TRY(measure_fill(run));
    for (uint32_t step = 0, next = source->places[0]; step < source->n_steps; step++) {
        const uint32_t place = source->places[step];
        SAY_TRY(fill(run, next, place, NULL));
        SAY_TRY(ask(run, step, place));
        next = place + 1;
    }
    stats_sort(run->us, source->n_steps);
    return EXIT_GOOD;
}

void attend_run_close(struct attend_run *run)
{
    fathom_engine_close(&run->engine);
    block_free(run->k);
    block_free(run->v);
    block_free(run->q);
    block_free(run->chunk_out);
    block_free(run->out);
    block_free(run->us);
    attend_coverage_close(&run->coverage);
    *run = (struct attend_run){0};
}
