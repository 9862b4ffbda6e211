// Attention and its gradient for training: blocks of queries against blocks of keys, so that no
// matrix of scores is ever whole. For train.py alone, which builds it for the machine it runs on
// and checks it against plain torch; no part of the library.
//
// Built with -DLANES=N, the floats of a vector register. Arrays are row-major and contiguous. All
// sums are taken in an order that threads do not change, so that a seed gives the same model again.
// Wide loops are left to the compiler's vectoriser; only products of tiles say how they use the
// registers.

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/needle/train_math.h"

enum {
    TILE = 64, // queries or keys; contexts are multiples of it
    D_HEAD_MAX = 128,
    ROWS = 4, // of a block of sums in registers
    VECS_MAX = LANES == 16 ? 4 : 2,
};

#define MASKED (-1e30f)

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// ---- Products of tiles --------------------------------------------------------------------------

// A matrix whose entry (row, k) is at data[row * row_step + k * k_step].
struct left {
    const float *data;
    long row_step, k_step;
};

// How the sums of a product begin.
struct start {
    const float *rows; // [n_rows] the value of each row; NULL: 0
    bool add;          // to what is there
};

INLINE void multiply_block(float *out, long out_step, struct left a, const float *b, long b_step,
                           long n_k, struct start start, const int n_vecs)
{
    vec sums[ROWS][VECS_MAX];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < n_vecs; v++) {
            sums[r][v] = (start.rows != NULL ? start.rows[r] : 0) - (vec){0};
            if (start.add) sums[r][v] = *(const loose_vec *)(out + r * out_step + v * LANES);
        }
    for (long k = 0; k < n_k; k++) {
        vec right[VECS_MAX];
        for (int v = 0; v < n_vecs; v++)
            right[v] = *(const loose_vec *)(b + k * b_step + v * LANES);
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < n_vecs; v++)
                sums[r][v] += a.data[r * a.row_step + k * a.k_step] * right[v];
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < n_vecs; v++)
            *(loose_vec *)(out + r * out_step + v * LANES) = sums[r][v];
}

// out [n_rows, n_cols] = a [n_rows, n_k] * b [n_k, n_cols]. Rows in fours, columns in 2 * LANES.
INLINE void multiply(float *out, long out_step, long n_rows, long n_cols, struct left a,
                     const float *b, long b_step, long n_k, struct start start)
{
    int n_vecs = n_cols % (VECS_MAX * LANES) == 0 ? VECS_MAX : 2;
    for (long r = 0; r < n_rows; r += ROWS) {
        struct left rows = {a.data + r * a.row_step, a.row_step, a.k_step};
        struct start begin = {start.rows != NULL ? start.rows + r : NULL, start.add};
        for (long c = 0; c < n_cols; c += n_vecs * LANES) {
            if (n_vecs == VECS_MAX)
                multiply_block(out + r * out_step + c, out_step, rows, b + c, b_step, n_k, begin,
                               VECS_MAX);
            else
                multiply_block(out + r * out_step + c, out_step, rows, b + c, b_step, n_k, begin,
                               2);
        }
    }
}

// ---- Attention ----------------------------------------------------------------------------------

// Causal, with grouped queries. A key that stands more than `near` tokens back has its bias added
// to its score, as if it stood there e^bias times.
struct attention {
    const float *q;    // [n_seqs, n_tokens, n_heads, d_head], rotated
    const float *k;    // [n_seqs, n_tokens, n_kv_heads, d_head], rotated
    const float *v;    // as k
    const float *bias; // [n_seqs, n_tokens]
    float *out;        // as q
    float *lse;        // [n_seqs, n_heads, n_tokens] log of the sum of exponentials
    int32_t n_seqs, n_tokens, n_heads, n_kv_heads, d_head, near;
};

// [TILE, d] rows to [d, TILE], scaled.
static void transpose(float *to, const float *from, long step, long d, float scale)
{
    for (long i = 0; i < TILE; i++)
        for (long x = 0; x < d; x++)
            to[x * TILE + i] = from[i * step + x] * scale;
}

// Scores of a tile of keys (from key0) and queries (from query0), [key, query].
static void score_tile(const struct attention *a, const float *k, const float *q_t,
                       const float *bias, long query0, long key0, float *scores)
{
    long all_far = query0 - (key0 + TILE - 1) > a->near;
    struct start start = {all_far ? bias : NULL, false};
    multiply(scores, TILE, TILE, TILE, (struct left){k, a->n_kv_heads * a->d_head, 1}, q_t, TILE,
             a->d_head, start);
    if (!all_far && query0 + TILE - 1 - key0 > a->near)
        for (long j = 0; j < TILE; j++)
            for (long i = 0; i < TILE; i++)
                scores[j * TILE + i] += query0 + i - (key0 + j) > a->near ? bias[j] : 0;
    if (query0 == key0)
        for (long j = 0; j < TILE; j++)
            for (long i = 0; i < j; i++)
                scores[j * TILE + i] = MASKED;
}

// Turns scores into weights and scales what was summed before to the new maxima.
static void soften_tile(float *scores, float *max, float *sum, float *out_t, long d)
{
    _Alignas(64) float now[TILE], shrink[TILE];
    memcpy(now, max, sizeof now);
    for (long j = 0; j < TILE; j++)
        for (long i = 0; i < TILE; i++)
            now[i] = now[i] > scores[j * TILE + i] ? now[i] : scores[j * TILE + i];
    bool grew = memcmp(now, max, sizeof now) != 0;
    for (long i = 0; i < TILE; i++) {
        shrink[i] = exp_fast(max[i] - now[i]);
        sum[i] *= shrink[i];
        max[i] = now[i];
    }
    for (long x = 0; grew && x < d; x++)
        for (long i = 0; i < TILE; i++)
            out_t[x * TILE + i] *= shrink[i];
    for (long j = 0; j < TILE; j++)
        for (long i = 0; i < TILE; i++) {
            float p = exp_fast(scores[j * TILE + i] - now[i]);
            sum[i] += p;
            scores[j * TILE + i] = p;
        }
}

static void attend_tile(const struct attention *a, long seq, long head, long query0)
{
    long d = a->d_head, q_step = a->n_heads * d, kv_step = a->n_kv_heads * d;
    long kv0 = seq * a->n_tokens * kv_step + head / (a->n_heads / a->n_kv_heads) * d;
    long q0 = (seq * a->n_tokens + query0) * q_step + head * d;
    _Alignas(64) float q_t[D_HEAD_MAX * TILE], out_t[D_HEAD_MAX * TILE], scores[TILE * TILE];
    _Alignas(64) float max[TILE], sum[TILE];
    transpose(q_t, a->q + q0, q_step, d, 1 / sqrtf((float)d));
    memset(out_t, 0, (size_t)(d * TILE) * sizeof *out_t);
    for (long i = 0; i < TILE; i++)
        max[i] = MASKED, sum[i] = 0;
    for (long key0 = 0; key0 <= query0; key0 += TILE) {
        score_tile(a, a->k + kv0 + key0 * kv_step, q_t, a->bias + seq * a->n_tokens + key0, query0,
                   key0, scores);
        soften_tile(scores, max, sum, out_t, d);
        multiply(out_t, TILE, d, TILE, (struct left){a->v + kv0 + key0 * kv_step, 1, kv_step},
                 scores, TILE, TILE, (struct start){.add = true});
    }
    float *lse = a->lse + (seq * a->n_heads + head) * a->n_tokens + query0;
    for (long i = 0; i < TILE; i++) {
        lse[i] = max[i] + logf(sum[i]);
        for (long x = 0; x < d; x++)
            a->out[q0 + i * q_step + x] = out_t[x * TILE + i] / sum[i];
    }
}

void attend(const struct attention *a)
{
    long n_tiles = a->n_tokens / TILE, n_jobs = n_tiles * a->n_seqs * a->n_heads;
    // Longest first: the last tile of queries sees all keys.
#pragma omp parallel for schedule(dynamic, 1)
    for (long job = n_jobs - 1; job >= 0; job--) {
        long head = job % a->n_heads, seq = job / a->n_heads % a->n_seqs;
        attend_tile(a, seq, head, job / a->n_heads / a->n_seqs * TILE);
    }
}

struct attention_gradient {
    const float *d_out; // as q
    float *d_q, *d_k, *d_v;
};

// What one key-value head's share of the gradient keeps: for each of its query heads and tiles of
// queries, q and the output's gradient transposed, the gradient of q transposed, and
// delta = sum of out * d_out.
struct gradient_scratch {
    float *q_t, *d_out_t, *d_q_t; // [group, n_tiles, d_head, TILE]
    float *delta;                 // [group, n_tokens]
};

static void prepare_gradient(const struct attention *a, const struct attention_gradient *gradient,
                             long seq, long head0, struct gradient_scratch *scratch)
{
    long d = a->d_head, step = a->n_heads * d, group = a->n_heads / a->n_kv_heads;
    for (long h = 0; h < group; h++) {
        for (long i = 0; i < a->n_tokens; i += TILE) {
            long from = (seq * a->n_tokens + i) * step + (head0 + h) * d;
            long to = (h * a->n_tokens + i) * d;
            transpose(scratch->q_t + to, a->q + from, step, d, 1 / sqrtf((float)d));
            transpose(scratch->d_out_t + to, gradient->d_out + from, step, d, 1);
            memset(scratch->d_q_t + to, 0, (size_t)(d * TILE) * sizeof(float));
            for (long t = 0; t < TILE; t++) {
                float sum = 0;
                for (long x = 0; x < d; x++)
                    sum += a->out[from + t * step + x] * gradient->d_out[from + t * step + x];
                scratch->delta[h * a->n_tokens + i + t] = sum;
            }
        }
    }
}

// Weights p of a tile, and the gradient of its scores: p * (v . d_out - delta).
static void differentiate_tile(const float *lse, const float *delta, float *p, float *d_scores)
{
    for (long j = 0; j < TILE; j++)
        for (long i = 0; i < TILE; i++) {
            float weight = exp_fast(p[j * TILE + i] - lse[i]);
            p[j * TILE + i] = weight;
            d_scores[j * TILE + i] = weight * (d_scores[j * TILE + i] - delta[i]);
        }
}

// Gradients of one tile of keys and values, and its part of the queries'.
static void attend_back_tile(const struct attention *a, const struct attention_gradient *gradient,
                             long seq, long kv_head, long key0, struct gradient_scratch *scratch)
{
    long d = a->d_head, group = a->n_heads / a->n_kv_heads;
    long q_step = a->n_heads * d, kv_step = a->n_kv_heads * d;
    long at = (seq * a->n_tokens + key0) * kv_step + kv_head * d;
    _Alignas(64) float p[TILE * TILE], d_scores[TILE * TILE], d_k[TILE * D_HEAD_MAX],
        d_v[TILE * D_HEAD_MAX];
    const struct start more = {.add = true};
    memset(d_k, 0, sizeof d_k);
    memset(d_v, 0, sizeof d_v);
    for (long h = 0; h < group; h++)
        for (long i = key0; i < a->n_tokens; i += TILE) {
            long tile = (h * a->n_tokens + i) * d, head = kv_head * group + h;
            long q0 = (seq * a->n_tokens + i) * q_step + head * d;
            score_tile(a, a->k + at, scratch->q_t + tile, a->bias + seq * a->n_tokens + key0, i,
                       key0, p);
            multiply(d_scores, TILE, TILE, TILE, (struct left){a->v + at, kv_step, 1},
                     scratch->d_out_t + tile, TILE, d, (struct start){0});
            differentiate_tile(a->lse + (seq * a->n_heads + head) * a->n_tokens + i,
                               scratch->delta + h * a->n_tokens + i, p, d_scores);
            multiply(d_v, d, TILE, d, (struct left){p, TILE, 1}, gradient->d_out + q0, q_step, TILE,
                     more);
            multiply(d_k, d, TILE, d, (struct left){d_scores, TILE, 1}, a->q + q0, q_step, TILE,
                     more);
            multiply(scratch->d_q_t + tile, TILE, d, TILE, (struct left){a->k + at, 1, kv_step},
                     d_scores, TILE, TILE, more);
        }
    for (long j = 0; j < TILE; j++)
        for (long x = 0; x < d; x++) {
            gradient->d_k[at + j * kv_step + x] = d_k[j * d + x] / sqrtf((float)d);
            gradient->d_v[at + j * kv_step + x] = d_v[j * d + x];
        }
}

static void finish_gradient(const struct attention *a, const struct attention_gradient *gradient,
                            long seq, long head0, const struct gradient_scratch *scratch)
{
    long d = a->d_head, step = a->n_heads * d, group = a->n_heads / a->n_kv_heads;
    for (long h = 0; h < group; h++)
        for (long i = 0; i < a->n_tokens; i++) {
            const float *d_q_t = scratch->d_q_t + (h * a->n_tokens + i / TILE * TILE) * d;
            float *to = gradient->d_q + (seq * a->n_tokens + i) * step + (head0 + h) * d;
            for (long x = 0; x < d; x++)
                to[x] = d_q_t[x * TILE + i % TILE] / sqrtf((float)d);
        }
}

// Returns 0, or 1 where memory ran out.
int attend_back(const struct attention *a, const struct attention_gradient *gradient)
{
    long group = a->n_heads / a->n_kv_heads, n_jobs = (long)a->n_seqs * a->n_kv_heads;
    size_t n = (size_t)(group * a->n_tokens * a->d_head), n_delta = (size_t)(group * a->n_tokens);
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 1) reduction(| : failed)
    for (long job = 0; job < n_jobs; job++) {
        long seq = job / a->n_kv_heads, kv_head = job % a->n_kv_heads;
        float *data = aligned_alloc(64, (3 * n + n_delta) * sizeof *data);
        if (data == NULL) {
            failed = 1;
            continue;
        }
        struct gradient_scratch scratch = {data, data + n, data + 2 * n, data + 3 * n};
        prepare_gradient(a, gradient, seq, kv_head * group, &scratch);
        for (long key0 = 0; key0 < a->n_tokens; key0 += TILE)
            attend_back_tile(a, gradient, seq, kv_head, key0, &scratch);
        finish_gradient(a, gradient, seq, kv_head * group, &scratch);
        free(data);
    }
    return failed;
}
