// See naive.h.

#include "tests/kv/naive.h"

#include <math.h>
#include <string.h>

#include "src/base/half.h"
#include "src/base/mem.h"
#include "tests/kv/kv_rig.h"

// ---- The pool -----------------------------------------------------------------------------------

static float stored(int32_t type, float x)
{
    if (type == FATHOM_TYPE_F16) return half_to_float(half_from_float(x));
    if (type == FATHOM_TYPE_BF16) return bf16_to_float(bf16_from_float(x));
    return x;
}

static double rounding_of(int32_t type)
{
    return type == FATHOM_TYPE_F16 ? 0x1p-11 : type == FATHOM_TYPE_BF16 ? 0x1p-8 : 0x1p-24;
}

static float *new_values(size_t n)
{
    float *x;
    check_ok(mem_new(n, sizeof *x, "values", &x));
    return x;
}

// A code's number, in -1 .. 1.
static float grid_value(struct rng *rng, int32_t bits)
{
    const uint32_t top = (1u << bits) - 1;
    return 2.0f * (float)rng_below(rng, top + 1) / (float)top - 1.0f;
}

// Of K, min and max of every channel are -1 and 1 (or the channel is constant), so codes hold it to
// rounding. Of V, the first two values of a row are, and the step is off by rounding to f16.
static void fill_grid(struct naive *naive, size_t n_k, size_t n_v)
{
    const uint32_t d_v = naive->params.d_v;
    for (size_t i = 0; i < n_k; i++)
        naive->k[i] = rng_below(&naive->rng, 2) == 0 ? -1.0f : 1.0f;
    for (size_t i = 0; i < n_v; i++)
        naive->v[i] = i % d_v < 2 ? 2.0f * (float)(i % d_v) - 1.0f
                                  : grid_value(&naive->rng, naive->params.kv.codec);
}

void naive_init(struct naive *naive, const struct fathom_engine_params *params, uint64_t seed)
{
    const struct fathom_engine_params *p = params;
    const size_t n_k = (size_t)NAIVE_ROWS * p->n_kv_heads * p->d_k;
    const size_t n_v = (size_t)NAIVE_ROWS * p->n_kv_heads * p->d_v;
    const size_t n_q = (size_t)NAIVE_ROWS * p->n_heads * p->d_k;
    memset(naive, 0, sizeof *naive);
    naive->params = *p;
    rng_init(&naive->rng, seed);
    naive->k = new_values(n_k);
    naive->v = new_values(n_v);
    naive->q = new_values(n_q);
    naive->k_stored = new_values(n_k);
    naive->v_stored = new_values(n_v);
    naive->step_k = new_values((size_t)p->n_step_max * p->n_kv_heads * p->d_k);
    naive->step_v = new_values((size_t)p->n_step_max * p->n_kv_heads * p->d_v);
    naive->step_q = new_values((size_t)p->n_step_max * p->n_heads * p->d_k);
    naive->out = new_values((size_t)p->n_step_max * p->n_heads * p->d_v);
    check_ok(mem_new(p->n_tokens_max, sizeof *naive->weights, "weights", &naive->weights));
    for (size_t i = 0; i < n_k; i++)
        naive->k[i] = rng_normal(&naive->rng);
    for (size_t i = 0; i < n_v; i++)
        naive->v[i] = rng_normal(&naive->rng);
    for (size_t i = 0; i < n_q; i++)
        naive->q[i] = 2.0f * rng_normal(&naive->rng);
    // Float sums of up to some thousand weights and values below 5: as in t_tiers.c.
    naive->tolerance = 5e-5;
    if (p->kv.codec != FATHOM_CODEC_PLAIN) {
        fill_grid(naive, n_k, n_v);
        // A step of V is up to 2^-10 of itself too large, over a range of 2; and rounding in the
        // tail may move a value, by which its code is still the nearest.
        naive->tolerance += 0x1p-9 + rounding_of(p->kv_type);
    }
    for (size_t i = 0; i < n_k; i++)
        naive->k_stored[i] = stored(p->kv_type, naive->k[i]);
    for (size_t i = 0; i < n_v; i++) {
        naive->v_stored[i] = stored(p->kv_type, naive->v[i]);
        naive->v_max = fmax(naive->v_max, fabs((double)naive->v_stored[i]));
    }
}

void naive_fini(struct naive *naive)
{
    float *blocks[] = {naive->k,        naive->v,        naive->q,
                       naive->k_stored, naive->v_stored, naive->step_k,
                       naive->step_v,   naive->step_q,   naive->out};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        mem_free(blocks[i]);
    mem_free(naive->weights);
}

void naive_seq_init(const struct naive *naive, struct naive_seq *seq)
{
    *seq = (struct naive_seq){0};
    check_ok(mem_new(naive->params.n_tokens_max, sizeof *seq->tokens, "tokens", &seq->tokens));
}

void naive_seq_fini(struct naive_seq *seq)
{
    mem_free(seq->tokens);
}

// ---- What happened ------------------------------------------------------------------------------

void naive_note(struct naive *naive, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(naive->ops[naive->n_ops++ % NAIVE_OPS], NAIVE_OP_BYTES, format, args);
    va_end(args);
}

static void print_ops(const struct naive *naive, const fathom_engine *engine)
{
    const size_t first = naive->n_ops > NAIVE_OPS ? naive->n_ops - NAIVE_OPS : 0;
    printf("%s\n%s\n", naive->title, fathom_engine_plan(engine));
    for (size_t i = first; i < naive->n_ops; i++)
        printf("%6zu %s\n", i, naive->ops[i % NAIVE_OPS]);
}

// ---- Attention ----------------------------------------------------------------------------------

// The pool's row of a token in a layer.
static size_t row_of(uint32_t token, uint32_t layer)
{
    return (token + layer * 7) % NAIVE_ROWS;
}

// One query head of the token at `position`, over it and all before it.
static void attend(const struct naive *naive, const struct naive_seq *seq, uint32_t layer,
                   uint32_t head, uint32_t position, double *out)
{
    const struct fathom_engine_params *p = &naive->params;
    const uint32_t kv_head = head / (p->n_heads / p->n_kv_heads), d_k = p->d_k, d_v = p->d_v;
    const float *q = naive->q + (row_of(seq->tokens[position], layer) * p->n_heads + head) * d_k;
    double most = -INFINITY, sum = 0.0;
    for (uint32_t j = 0; j <= position; j++) {
        const float *k =
            naive->k_stored + (row_of(seq->tokens[j], layer) * p->n_kv_heads + kv_head) * d_k;
        double score = 0.0;
        for (uint32_t c = 0; c < d_k; c++)
            score += (double)q[c] * (double)k[c];
        naive->weights[j] = score / sqrt(d_k);
        most = fmax(most, naive->weights[j]);
    }
    for (uint32_t c = 0; c < d_v; c++)
        out[c] = 0.0;
    for (uint32_t j = 0; j <= position; j++) {
        const float *v =
            naive->v_stored + (row_of(seq->tokens[j], layer) * p->n_kv_heads + kv_head) * d_v;
        const double weight = exp(naive->weights[j] - most);
        sum += weight;
        for (uint32_t c = 0; c < d_v; c++)
            out[c] += weight * (double)v[c];
    }
    for (uint32_t c = 0; c < d_v; c++)
        out[c] /= sum;
}

static void compare(struct naive *naive, const fathom_engine *engine, const struct naive_seq *seq,
                    uint32_t layer, uint32_t head, uint32_t t, double slack)
{
    const struct fathom_engine_params *p = &naive->params;
    const float *got = naive->out + ((size_t)t * p->n_heads + head) * p->d_v;
    double want[256];
    attend(naive, seq, layer, head, seq->n + t, want);
    naive->n_compared++;
    for (uint32_t c = 0; c < p->d_v; c++) {
        if (fabs((double)got[c] - want[c]) <= naive->tolerance + slack) continue;
        print_ops(naive, engine);
        fail_msg("layer %u, head %u, token %u of %u: value %u is %g, not %g (within %g)", layer,
                 head, t, seq->n, c, (double)got[c], want[c], naive->tolerance + slack);
    }
}

// ---- Steps --------------------------------------------------------------------------------------

static void fill_step(struct naive *naive, const struct naive_seq *seq, uint32_t layer, uint32_t n)
{
    const struct fathom_engine_params *p = &naive->params;
    const size_t k = (size_t)p->n_kv_heads * p->d_k, v = (size_t)p->n_kv_heads * p->d_v;
    const size_t q = (size_t)p->n_heads * p->d_k;
    for (uint32_t t = 0; t < n; t++) {
        const size_t row = row_of(seq->tokens[seq->n + t], layer);
        memcpy(naive->step_k + t * k, naive->k + row * k, k * sizeof(float));
        memcpy(naive->step_v + t * v, naive->v + row * v, v * sizeof(float));
        memcpy(naive->step_q + t * q, naive->q + row * q, q * sizeof(float));
    }
}

// With share s of the mass read, o and the exact output are off by (1 - s) times the difference of
// two means of values. The bound of s is a mean over the heads, each at most 1.
static double slack_since(const struct naive *naive, const fathom_engine *engine,
                          const struct fathom_kv_stats *before)
{
    const struct fathom_kv_stats now = rig_stats(engine);
    if (now.n_covered == before->n_covered) return 0.0;
    const double bound = now.coverage_bound * (double)now.n_covered -
                         before->coverage_bound * (double)before->n_covered;
    return 2.0 * naive->v_max * fmin(1.0, naive->params.n_heads * (1.0 - bound) + 1e-9);
}

static fathom_status step_layer(struct naive *naive, fathom_engine *engine, struct naive_seq *seq,
                                uint32_t layer, uint32_t n)
{
    enum { SOME = 3 };
    const uint32_t n_heads = naive->params.n_heads;
    const struct fathom_kv_stats before = rig_stats(engine);
    fill_step(naive, seq, layer, n);
    fathom_status status = fathom_append(engine, seq->seq, layer, naive->step_k, naive->step_v);
    if (status < 0) return status;
    status = fathom_attend(engine, seq->seq, layer, naive->step_q, naive->out);
    if (status < 0) return status;
    const double slack = naive->partial && n == 1 ? slack_since(naive, engine, &before) : 0.0;
    for (uint32_t i = 0; n == 1 && i < n_heads; i++)
        compare(naive, engine, seq, layer, i, 0, slack);
    for (uint32_t i = 0; n > 1 && i < SOME; i++)
        compare(naive, engine, seq, layer, rng_below(&naive->rng, n_heads),
                i == 0 ? n - 1 : rng_below(&naive->rng, n), 0.0);
    return FATHOM_OK;
}

fathom_status naive_step(struct naive *naive, fathom_engine *engine, struct naive_seq *seq,
                         uint32_t n)
{
    fathom_status status = fathom_step_begin(engine, seq->seq, n);
    if (status < 0) return status;
    for (uint32_t t = 0; t < n; t++)
        seq->tokens[seq->n + t] = (uint16_t)rng_below(&naive->rng, NAIVE_ROWS);
    for (uint32_t layer = 0; layer < naive->params.n_layers && status >= 0; layer++)
        status = step_layer(naive, engine, seq, layer, n);
    if (status >= 0) status = fathom_step_end(engine, seq->seq);
    if (status >= 0)
        seq->n += n;
    else
        fathom_step_cancel(engine, seq->seq);
    return status;
}
