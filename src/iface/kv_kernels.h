// Contract: host kernels over the sealed part of a KV cache. Stateless, run by one thread over its
// share; same rules as src/iface/kernels.h, of whose table they are a part.
//
// Row formats. A sealed row of K and one of V of a KV head are stored plain (f32, f16, bf16: the
// element type) or in codes of b = 8, 4 or 2 bits (KIVI, Liu et al. 2024, arXiv 2402.02750):
//     K by channel: k[j, c] = k_min[c] + k_step[c] * code[j, c], shared by the rows of a segment
//     V by token:   v[j, c] = min[j, g] + step[j, g] * code[j, c], g = c / KV_GROUP
// Codes are packed in pieces of 16 bytes, 128 / b channels each: byte i of a piece has channel i in
// its lowest b bits, channel 16 + i in the next, and so on; channels past d are code 0. A row of V
// begins with its n_groups pairs (step, min) in f16; the codes follow. Rows need no alignment.

#ifndef FATHOM_SRC_IFACE_KV_KERNELS_H
#define FATHOM_SRC_IFACE_KV_KERNELS_H

#include "fathom/types.h"

enum { KV_GROUP = 64, KV_PIECE_BYTES = 16 };

// Bits of a code, or 0: plain rows of `type`.
struct kv_format {
    uint32_t bits; // 0, 8, 4 or 2
    int32_t type;  // F32, F16 or BF16; of plain rows
    uint32_t d_k;  // 1 .. 256
    uint32_t d_v;  // 1 .. 256
};

static inline size_t kv_code_bytes(uint32_t bits, uint32_t d)
{
    const uint32_t piece = 128 / bits;
    return (size_t)((d + piece - 1) / piece) * KV_PIECE_BYTES;
}

static inline size_t kv_k_row_bytes(const struct kv_format *f)
{
    const size_t value_bytes = f->type == FATHOM_TYPE_F32 ? 4 : 2;
    return f->bits == 0 ? f->d_k * value_bytes : kv_code_bytes(f->bits, f->d_k);
}

static inline size_t kv_v_row_bytes(const struct kv_format *f)
{
    const size_t value_bytes = f->type == FATHOM_TYPE_F32 ? 4 : 2;
    if (f->bits == 0) return f->d_v * value_bytes;
    return (size_t)((f->d_v + KV_GROUP - 1) / KV_GROUP) * 4 + kv_code_bytes(f->bits, f->d_v);
}

// Rows that lie together: K rows at k, V rows at v.
struct kv_run {
    const void *k;
    const void *v;
    uint32_t n_rows;
};

// Attention of every token and query head of a group over all rows of all runs, no masks; o and lse
// as in attend_args. Quantised rows need the segment's k_min and k_step, so all runs of one call
// come from one segment then; plain rows may come from anywhere. With keys in codes, scale * q[c] *
// k_step[c] may be rounded to 16 bits of the greatest of a query, and a query that is not finite
// makes all its scores NaN.
struct attend_runs_args {
    const float *q; // [n_tokens, group, d_k] with q_stride from token to token
    size_t q_stride;
    uint32_t n_tokens;
    uint32_t group; // 1 .. 256
    struct kv_format format;
    const float *k_min;        // [d_k], or NULL: plain rows
    const float *k_step;       // likewise
    const struct kv_run *runs; // [n_runs + n_next]
    uint32_t n_runs;
    uint32_t n_next; // runs of the calls to come, of the same format, that are only fetched
    float scale;
    bool accumulate; // merge with the partial that o and lse hold already
    float *o;        // [n_tokens, group, d_v] with o_stride from token to token
    size_t o_stride;
    float *lse; // [n_tokens, group] with lse_stride from token to token
    size_t lse_stride;
    void *scratch; // ATTEND_SCRATCH_BYTES, 64-byte aligned, private to the thread
};

// ---- Representatives ----------------------------------------------------------------------------
//
// Vectors of d values in blocks of REP_LANES, lane by lane, so that one register holds one channel
// (or four) of all. Lanes past the last vector are zeros. All variants pack into the same bytes.
// A vector with NaN or infinity in it has a step of NaN (q8) or keeps them (f16); one of less than
// 2^-100 in all channels becomes zeros (q8).
//     f16: [d][REP_LANES] half floats
//     q8:  [REP_LANES] f32 steps, then [ceil(d / 4)][REP_LANES][4] codes + 128 as bytes;
//          value = step[lane] * (code - 128); channels past d are 128
enum { REP_LANES = 16 };

static inline size_t rep_block_bytes(bool q8, uint32_t d)
{
    if (!q8) return (size_t)d * REP_LANES * 2;
    return REP_LANES * sizeof(float) + (size_t)((d + 3) / 4) * REP_LANES * 4;
}

// out[g * out_stride + i] = <q[g], vector i> for vectors begin .. end - 1 (multiples of REP_LANES)
// from `blocks` on; out is indexed from begin. A packed query also knows `slack[g]`: for a vector
// that is r long as unpacked the result is off by at most slack[g] * r, as long as nothing
// overflows or falls below the normal numbers. A head with NaN or infinity in q gets no finite
// score and no finite slack; the others do not notice. A score depends on its head and
// vector alone, not on what else is scored in the call.
struct score_reps_args {
    const void *q; // packed by pack_rep_query of the same table
    uint32_t group;
    uint32_t d;
    bool q8;
    const void *blocks;
    uint32_t begin;
    uint32_t end;
    float *out;
    size_t out_stride;
};

// Bytes of a packed query, for either use below; enough for any d <= 256 and 4-byte values twice.
// The memory is 64-byte aligned.
static inline size_t packed_query_bytes(uint32_t group)
{
    return (size_t)group * 256 * 8 + 64 * (size_t)group + 64;
}

// ---- Token scores from quantised keys (the second stage) ----------------------------------------
//
// out[g * out_stride + j] = <q[g], row j> for n_rows K rows in codes of 8 or 4 bits, wherever they
// lie. The query is packed once for a segment, with its k_min and k_step folded in. slack[g]
// is the absolute error that any score may have, under the same conditions as above; NaN and
// infinity in q, and the rest of the call, likewise. Rows of the call to come are asked of the
// memory meanwhile.
struct score_rows_args {
    const void *q; // packed by pack_row_query of the same table
    uint32_t group;
    uint32_t d;
    uint32_t bits;              // 8 or 4
    const uint8_t *const *rows; // [n_rows] codes
    uint32_t n_rows;
    float *out;
    size_t out_stride;
    const uint8_t *const *next; // [n_next] rows that are only fetched
    uint32_t n_next;
};

// ---- Ranks over the heads of a group ------------------------------------------------------------
//
// value[g] = scores[g * stride + i] + reach[g] * radius[i] - mass[g]; out[i] is the greatest of
// them, or the logarithm of the sum of their exponentials. A value of NaN takes no part; without
// any, out[i] is -infinity.
struct rank_args {
    const float *scores; // [group, n] with `stride` from head to head
    size_t stride;
    const float *radius; // [n], or NULL: none, and reach is not read
    const float *reach;  // [group]
    const float *mass;   // [group]
    const float *weight; // [n], or NULL: where it is not above 0, out[i] is -infinity
    uint32_t group;
    bool sum;
    size_t n;
    float *out; // [n]
};

// ---- Places of values ---------------------------------------------------------------------------
//
// The places, ascending, of those of x[n] from `least` to `most`; and what those above `most`
// weigh. NaN is neither.
struct find_args {
    const float *x;
    const float *weight; // [n] whole numbers below 2^17, or NULL: ones
    size_t n;
    float least;
    float most;
    uint32_t *at; // [n]; past the places, garbage
};

struct found {
    size_t n;
    uint64_t above;
};

struct kv_kernels {
    void (*attend_runs)(const struct attend_runs_args *args);

    // Range of each channel over n_rows rows of x [n_rows, d] as the K code wants it: steps are
    // >= 0, 0 where all values are equal.
    void (*k_range)(uint32_t bits, const float *x, size_t n_rows, uint32_t d, float *k_min,
                    float *k_step);
    // One row each, nearest code. Codes clamp to their range; the caller keeps NaN out.
    void (*k_encode)(uint32_t bits, const float *x, const float *k_min, const float *k_step,
                     uint32_t d, void *row);
    void (*v_encode)(uint32_t bits, const float *x, uint32_t d, void *row);
    void (*k_decode)(uint32_t bits, const void *row, const float *k_min, const float *k_step,
                     uint32_t d, float *x);
    void (*v_decode)(uint32_t bits, const void *row, uint32_t d, float *x);

    // Packs n (1 .. REP_LANES) vectors x [n, d] into a block; `unpacked` [n, d] gets the values
    // that the block stands for, and may be NULL or x itself.
    void (*pack_reps)(bool q8, const float *x, uint32_t n, uint32_t d, void *block,
                      float *unpacked);
    // q [group, d], already times the logits' scale; packed: packed_query_bytes(group).
    void (*pack_rep_query)(bool q8, const float *q, uint32_t group, uint32_t d, void *packed,
                           float *slack);
    void (*score_reps)(const struct score_reps_args *args);

    void (*pack_row_query)(uint32_t bits, const float *q, uint32_t group, uint32_t d,
                           const float *k_min, const float *k_step, void *packed, float *slack);
    void (*score_rows)(const struct score_rows_args *args);

    // o[g * d + c] += sum_i weight[g * stride + i] * rows[i, c] over n rows [n, d] of half floats.
    void (*blend_rows)(const float *weight, size_t stride, uint32_t group, const uint16_t *rows,
                       size_t n, uint32_t d, float *o);
    // log sum_i weight[i] * exp(x[i]), stable; weight NULL: all 1. -infinity for n = 0. Weights are
    // >= 0; where one is 0, x takes no part, whatever it is.
    float (*log_sum_exp)(const float *x, const float *weight, size_t n);

    void (*rank_scores)(const struct rank_args *args);
    struct found (*find_within)(const struct find_args *args);
};

#endif
