// Builds segments for the tests of selectors, and computes the truth about them.

#include "tests/index/index_rig.h"

#include <math.h>
#include <string.h>

#include "cpu/cpu_kernels.h"
#include "index/index_layout.h"
#include "src/base/mem.h"
#include "src/base/pool.h"

struct selector_params rig_params(uint32_t n_kv_heads, uint32_t group, uint32_t d)
{
    const struct selector_params params = {
        .kind = FATHOM_SELECTOR_CLUSTER,
        .d_k = d,
        .d_v = d,
        .n_kv_heads = n_kv_heads,
        .group = group,
        .scale = 1.0f / sqrtf((float)d),
        .index_q8 = true,
        .rank_by = FATHOM_RANK_BALL,
        .n_segments_max = RIG_SEGMENTS,
        .segment_tokens_max = 8192,
        .n_rows_max = 1 << 17,
    };
    return params;
}

void rig_open(struct rig *rig, const struct selector_params *params, uint32_t isa,
              uint32_t n_threads)
{
    const struct pool_params pool = {.n_threads = n_threads};
    memset(rig, 0, sizeof *rig);
    cpu_kernels_init(&rig->kernels, isa);
    check_ok(pool_open(&pool, &rig->pool));
    rig->params = *params;
    rig->params.kernels = &rig->kernels;
    rig->params.pool = rig->pool;
    if (params->stage2_bits > 0) rig->row_bytes = kv_code_bytes(params->stage2_bits, params->d_k);
    check_ok(selector_ops.open(&rig->params, &rig->selector));
    check_ok(selector_ops.search_open(rig->selector, &rig->search));
    const size_t n_queries = params->n_queries_max > 0 ? params->n_queries_max : 1;
    check_ok(mem_new(n_queries * params->n_kv_heads * params->group * params->d_k, sizeof *rig->q,
                     "q", &rig->q));
}

void rig_close(struct rig *rig)
{
    for (uint32_t h = 0; h < rig->params.n_kv_heads; h++)
        for (uint32_t s = 0; s < rig->n_segments; s++) {
            struct rig_segment *segment = &rig->segments[h][s];
            void *blocks[] = {segment->given, segment->k,     segment->v,    segment->range,
                              segment->codes, segment->order, segment->index};
            for (uint32_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
                mem_free(blocks[i]);
        }
    mem_free(rig->q);
    selector_ops.search_close(&rig->search);
    selector_ops.close(&rig->selector);
    pool_close(&rig->pool);
}

void rig_fill_keys(struct rng *rng, enum rig_keys kind, float *k, uint32_t n_rows, uint32_t d)
{
    enum { CENTRES = 24 };
    float centres[CENTRES][256];
    const float spread = kind == RIG_TIGHT ? 0.02f : 0.5f;
    for (uint32_t i = 0; i < CENTRES; i++)
        for (uint32_t c = 0; c < d; c++)
            centres[i][c] = rng_normal(rng) + (kind == RIG_SHIFTED ? 4.0f : 0.0f);
    for (uint32_t row = 0; row < n_rows; row++) {
        const float *centre = centres[rng_below(rng, CENTRES)];
        const bool odd = rng_below(rng, kind == RIG_HUGE ? 20 : 50) == 0;
        const float length = kind == RIG_HUGE && odd ? 100.0f : 1.0f;
        for (uint32_t c = 0; c < d; c++) {
            float x = rng_normal(rng);
            if (kind == RIG_SAME) x = centres[0][c];
            if (kind == RIG_TIGHT || ((kind == RIG_LOOSE || kind == RIG_SHIFTED) && !odd))
                x = centre[c] + spread * x;
            k[(size_t)row * d + c] = x * length;
        }
    }
}

// Rows as attention reads them: through the codes when those serve as the second stage.
static void encode_rows(const struct rig *rig, struct rig_segment *segment)
{
    const struct kv_kernels *kv = &rig->kernels.kv;
    const uint32_t d = rig->params.d_k, bits = rig->params.stage2_bits;
    float *k_min = segment->range, *k_step = segment->range + d;
    if (!rig->params.stage2_in_rows || bits == 0) return;
    check_ok(mem_new(segment->n_rows, rig->row_bytes, "codes", &segment->codes));
    kv->k_range(bits, segment->k, segment->n_rows, d, k_min, k_step);
    for (uint32_t row = 0; row < segment->n_rows; row++) {
        float *key = segment->k + (size_t)row * d;
        uint8_t *codes = segment->codes + row * rig->row_bytes;
        kv->k_encode(bits, key, k_min, k_step, d, codes);
        kv->k_decode(bits, codes, k_min, k_step, d, key);
    }
}

static void build_segment(struct rig *rig, struct rng *rng, struct rig_segment *segment,
                          const float *received, bool merged)
{
    const struct selector_params *p = &rig->params;
    const struct selector_rows rows = {
        .k = segment->given, .n_rows = segment->n_rows, .merged = merged, .received = received};
    void *scratch;
    const size_t n = segment->n_rows;
    check_ok(mem_new(n * p->d_k, sizeof(float), "k", &segment->k));
    check_ok(mem_new(n * p->d_v, sizeof(float), "v", &segment->v));
    check_ok(mem_new(2 * (size_t)p->d_k, sizeof(float), "range", &segment->range));
    check_ok(mem_new(n, sizeof *segment->order, "order", &segment->order));
    check_ok(mem_new(selector_ops.index_bytes(rig->selector, segment->n_rows), 1, "index",
                     &segment->index));
    check_ok(mem_new(selector_ops.scratch_bytes(rig->selector, segment->n_rows), 1, "scratch",
                     &scratch));
    selector_ops.group(rig->selector, &rows, segment->index, segment->order, scratch);
    for (size_t i = 0; i < n; i++)
        memcpy(segment->k + i * p->d_k, segment->given + (size_t)segment->order[i] * p->d_k,
               p->d_k * sizeof(float));
    for (size_t i = 0; i < n * p->d_v; i++)
        segment->v[i] = rng_normal(rng);
    encode_rows(rig, segment);
    selector_ops.represent(rig->selector, segment->k, segment->v, segment->n_rows, segment->index,
                           scratch);
    mem_free(scratch);
}

void rig_add_keys(struct rig *rig, struct rng *rng, const float *k, const float *received,
                  uint32_t n_rows, bool merged)
{
    const size_t count = (size_t)n_rows * rig->params.d_k;
    assert_true(rig->n_segments < RIG_SEGMENTS);
    for (uint32_t h = 0; h < rig->params.n_kv_heads; h++) {
        struct rig_segment *segment = &rig->segments[h][rig->n_segments];
        segment->n_rows = segment->n_visible = n_rows;
        check_ok(mem_new(count, sizeof(float), "given", &segment->given));
        memcpy(segment->given, k + h * count, count * sizeof *k);
        build_segment(rig, rng, segment, received, merged);
    }
    rig->n_segments++;
}

void rig_add(struct rig *rig, struct rng *rng, enum rig_keys kind, uint32_t n_rows, bool merged)
{
    const size_t count = (size_t)n_rows * rig->params.d_k;
    float *k;
    check_ok(mem_new(rig->params.n_kv_heads * count, sizeof *k, "keys", &k));
    for (uint32_t h = 0; h < rig->params.n_kv_heads; h++)
        rig_fill_keys(rng, kind, k + h * count, n_rows, rig->params.d_k);
    rig_add_keys(rig, rng, k, NULL, n_rows, merged);
    mem_free(k);
}

void rig_begin(struct rig *rig, const float *q)
{
    const struct selector_params *p = &rig->params;
    for (uint32_t h = 0; h < p->n_kv_heads; h++)
        for (uint32_t s = 0; s < rig->n_segments; s++) {
            const struct rig_segment *segment = &rig->segments[h][s];
            rig->views[h * rig->n_segments + s] = (struct index_view){
                .index = segment->index,
                .n_rows = segment->n_rows,
                .keys = segment->codes,
                .keys_row_bytes = rig->row_bytes,
                .k_min = segment->range,
                .k_step = segment->range + p->d_k,
                .n_visible = segment->n_visible,
            };
        }
    const uint32_t n_queries = rig->n_queries > 0 ? rig->n_queries : 1;
    memcpy(rig->q, q, (size_t)n_queries * p->n_kv_heads * p->group * p->d_k * sizeof *q);
    const struct search_args args = {
        .q = rig->q,
        .n_queries = rig->n_queries,
        .skip_rest = n_queries > 1,
        .views = rig->views,
        .n_segments = rig->n_segments,
        .threshold = rig->threshold,
        .floor_share = rig->floor_share,
    };
    selector_ops.begin(rig->search, &args);
}

static void pick_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    struct rig *rig = arg;
    for (size_t h = begin; h < end; h++)
        selector_ops.pick_head(rig->search, (uint32_t)h, thread, rig->budgets[h], &rig->picked[h]);
}

void rig_pick(struct rig *rig, uint64_t budget)
{
    for (uint32_t h = 0; h < RIG_HEADS; h++)
        rig->budgets[h] = budget;
    if (rig->by_heads)
        pool_for(rig->pool, rig->params.n_kv_heads, 1, pick_range, rig);
    else
        selector_ops.pick(rig->search, rig->budgets, rig->picked);
}

// ---- The truth ----------------------------------------------------------------------------------

double rig_score(const struct rig *rig, uint32_t head, uint32_t g, uint32_t segment, uint32_t row)
{
    const struct selector_params *p = &rig->params;
    const float *key = rig->segments[head][segment].k + (size_t)row * p->d_k;
    const float *q = rig->q + ((size_t)head * p->group + g) * p->d_k;
    double sum = 0;
    for (uint32_t c = 0; c < p->d_k; c++)
        sum += (double)q[c] * (double)key[c];
    return sum * (double)p->scale;
}

bool rig_visible(const struct rig *rig, uint32_t head, uint32_t segment, uint32_t row)
{
    const struct rig_segment *s = &rig->segments[head][segment];
    return s->order[row] < s->n_visible;
}

uint64_t rig_count_visible(const struct rig *rig, uint32_t head)
{
    uint64_t n = 0;
    for (uint32_t s = 0; s < rig->n_segments; s++)
        n += rig->segments[head][s].n_visible;
    return n;
}

uint64_t rig_count_rows(const struct rig *rig)
{
    uint64_t n = 0;
    for (uint32_t s = 0; s < rig->n_segments; s++)
        n += rig->segments[0][s].n_rows;
    return n;
}

static size_t first_of(const struct rig *rig, uint32_t segment)
{
    size_t first = 0;
    for (uint32_t s = 0; s < segment; s++)
        first += rig->segments[0][s].n_rows;
    return first;
}

uint64_t rig_mark(const struct rig *rig, uint32_t head, uint8_t *seen)
{
    const struct selection *picked = &rig->picked[head];
    uint64_t n = 0;
    for (uint32_t i = 0; i < picked->n_runs; i++) {
        const struct picked_run *run = &picked->runs[i];
        assert_true(run->segment < rig->n_segments && run->n_rows > 0);
        const void *index = rig->segments[head][run->segment].index;
        assert_true(run->unit < selector_ops.n_units(index));
        const uint32_t *begin = selector_ops.unit_begins(index) + run->unit;
        assert_true(run->row >= begin[0] && run->row + run->n_rows <= begin[1]);
        if (i > 0 && run->segment == run[-1].segment)
            assert_true(run->row >= run[-1].row + run[-1].n_rows);
        else if (i > 0)
            assert_true(run->segment > run[-1].segment);
        for (uint32_t row = run->row; row < run->row + run->n_rows; row++) {
            uint8_t *at = seen + first_of(rig, run->segment) + row;
            assert_true(rig_visible(rig, head, run->segment, row));
            assert_int_equal(*at, 0);
            *at = 1;
            n++;
        }
    }
    return n;
}

static double add_log(double a, double b)
{
    const double most = fmax(a, b);
    return most == -INFINITY ? most : most + log(exp(a - most) + exp(b - most));
}

void rig_masses(const struct rig *rig, uint32_t head, uint32_t g, const uint8_t *seen, double *rest,
                double *all)
{
    *rest = *all = -INFINITY;
    for (uint32_t s = 0; s < rig->n_segments; s++)
        for (uint32_t row = 0; row < rig->segments[head][s].n_rows; row++, seen++) {
            if (!rig_visible(rig, head, s, row)) continue;
            const double score = rig_score(rig, head, g, s, row);
            *all = add_log(*all, score);
            if (*seen == 0) *rest = add_log(*rest, score);
        }
}
