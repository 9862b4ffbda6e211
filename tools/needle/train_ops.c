// What training does row by row between matrix products: sums with norms, rotation, SwiGLU and the
// loss, each with its gradient and in one pass over the memory. For train.py alone, as
// train_attend.c.
//
// "Elements" are the operands and results of matrix products (train_math.h), all else is float.
// Arrays are row-major and contiguous; threads take contiguous shares of the rows.

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <string.h>

#include "tools/needle/train_math.h"

// sum = x + y, out = sum / rms(sum) * weight, inverse = 1 / rms. y and out are elements; without y
// (NULL) nothing is added and sum is not written.
void add_norm(const float *x, const void *y, const float *weight, float *sum, void *out,
              float *inverse, long n_rows, long d, float epsilon)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < n_rows; row++) {
        long at = row * d;
        const float *from = y != NULL ? sum : x;
        if (y != NULL)
            for (long i = 0; i < d; i++)
                sum[at + i] = x[at + i] + get(y, at + i);
        float squares = 0;
        for (long i = 0; i < d; i++)
            squares += from[at + i] * from[at + i];
        float scale = 1 / sqrtf(squares / (float)d + epsilon);
        inverse[row] = scale;
        for (long i = 0; i < d; i++)
            put(out, at + i, from[at + i] * scale * weight[i]);
    }
}

// From the gradients of out (elements) and of sum (d_sum, NULL: none) those of x and, as elements,
// y (NULL: not wanted). d_weight [threads, d] takes each thread's part.
void add_norm_back(const float *sum, const float *weight, const float *inverse, const void *d_out,
                   const float *d_sum, float *d_x, void *d_y, float *d_weight, long n_rows, long d)
{
    memset(d_weight, 0, (size_t)(omp_get_max_threads() * d) * sizeof *d_weight);
#pragma omp parallel for schedule(static)
    for (long row = 0; row < n_rows; row++) {
        long at = row * d;
        float *part = d_weight + omp_get_thread_num() * d;
        float scale = inverse[row], dot = 0;
        for (long i = 0; i < d; i++) {
            float g = get(d_out, at + i);
            dot += g * weight[i] * sum[at + i];
            part[i] += g * sum[at + i] * scale;
        }
        float along = dot / (float)d * scale * scale * scale;
        for (long i = 0; i < d; i++)
            d_x[at + i] = get(d_out, at + i) * weight[i] * scale - along * sum[at + i];
        if (d_sum != NULL)
            for (long i = 0; i < d; i++)
                d_x[at + i] += d_sum[at + i];
        if (d_y != NULL)
            for (long i = 0; i < d; i++)
                put(d_y, at + i, d_x[at + i]);
    }
}

// The angles of neighbouring pairs, as GGUF's `llama` architecture turns them.
// cosines and sines [n, d_head / 2].
void make_angles(const int64_t *positions, double base, float *cosines, float *sines, long n,
                 long d_head)
{
    long n_pairs = d_head / 2;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++)
        for (long p = 0; p < n_pairs; p++) {
            double angle = (double)positions[i] * pow(base, -2.0 * (double)p / (double)d_head);
            cosines[i * n_pairs + p] = (float)cos(angle);
            sines[i * n_pairs + p] = (float)sin(angle);
        }
}

// Splits elements [n, (n_heads + 2 * n_kv_heads) * d_head] into q, k and v, q and k rotated.
void split_rotate(const void *qkv, const float *cosines, const float *sines, float *q, float *k,
                  float *v, long n, long n_heads, long n_kv_heads, long d_head)
{
    long n_pairs = d_head / 2, d_kv = n_kv_heads * d_head;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) {
        long from = i * (n_heads + 2 * n_kv_heads) * d_head;
        const float *cosine = cosines + i * n_pairs, *sine = sines + i * n_pairs;
        for (long h = 0; h < n_heads + n_kv_heads; h++, from += d_head) {
            float *to = h < n_heads ? q + (i * n_heads + h) * d_head
                                    : k + (i * n_kv_heads + h - n_heads) * d_head;
            for (long p = 0; p < n_pairs; p++) {
                float x = get(qkv, from + 2 * p), y = get(qkv, from + 2 * p + 1);
                to[2 * p] = x * cosine[p] - y * sine[p];
                to[2 * p + 1] = x * sine[p] + y * cosine[p];
            }
        }
        for (long j = 0; j < d_kv; j++)
            v[i * d_kv + j] = get(qkv, from + j);
    }
}

void split_rotate_back(const float *d_q, const float *d_k, const float *d_v, const float *cosines,
                       const float *sines, void *d_qkv, long n, long n_heads, long n_kv_heads,
                       long d_head)
{
    long n_pairs = d_head / 2, d_kv = n_kv_heads * d_head;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) {
        long to = i * (n_heads + 2 * n_kv_heads) * d_head;
        const float *cosine = cosines + i * n_pairs, *sine = sines + i * n_pairs;
        for (long h = 0; h < n_heads + n_kv_heads; h++, to += d_head) {
            const float *from = h < n_heads ? d_q + (i * n_heads + h) * d_head
                                            : d_k + (i * n_kv_heads + h - n_heads) * d_head;
            for (long p = 0; p < n_pairs; p++) {
                float x = from[2 * p], y = from[2 * p + 1];
                put(d_qkv, to + 2 * p, x * cosine[p] + y * sine[p]);
                put(d_qkv, to + 2 * p + 1, y * cosine[p] - x * sine[p]);
            }
        }
        for (long j = 0; j < d_kv; j++)
            put(d_qkv, to + j, d_v[i * d_kv + j]);
    }
}

// out [n, d] = silu(gate) * up of gate_up [n, 2 * d]; all elements.
void swiglu(const void *gate_up, void *out, long n, long d)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < n; row++)
        for (long i = 0; i < d; i++) {
            float gate = get(gate_up, row * 2 * d + i), up = get(gate_up, row * 2 * d + d + i);
            put(out, row * d + i, gate / (1 + exp_fast(-gate)) * up);
        }
}

void swiglu_back(const void *gate_up, const void *d_out, void *d_gate_up, long n, long d)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < n; row++)
        for (long i = 0; i < d; i++) {
            long at = row * 2 * d + i;
            float gate = get(gate_up, at), up = get(gate_up, at + d), g = get(d_out, row * d + i);
            float share = 1 / (1 + exp_fast(-gate));
            put(d_gate_up, at, g * up * share * (1 + gate * (1 - share)));
            put(d_gate_up, at + d, g * gate * share);
        }
}

// The loss -log softmax(logits)[target] of each row and the gradient of sum(loss * weight); logits
// and d_logits are elements [n, n_vocab]. Rows of weight 0 are passed over. right: whether the
// target is the largest logit.
void cross_entropy(const void *logits, const int64_t *targets, const float *weights, float *losses,
                   uint8_t *right, void *d_logits, long n, long n_vocab)
{
#pragma omp parallel for schedule(static)
    for (long row = 0; row < n; row++) {
        long at = row * n_vocab;
        float most = -1e30f, sum = 0, wanted = get(logits, at + targets[row]);
        float weight = weights[row];
        losses[row] = 0, right[row] = 0;
        if (weight == 0) {
            for (long i = 0; i < n_vocab; i++)
                put(d_logits, at + i, 0);
            continue;
        }
        for (long i = 0; i < n_vocab; i++)
            most = fmaxf(most, get(logits, at + i));
        for (long i = 0; i < n_vocab; i++)
            sum += exp_fast(get(logits, at + i) - most);
        for (long i = 0; i < n_vocab; i++)
            put(d_logits, at + i, weight * exp_fast(get(logits, at + i) - most) / sum);
        float p = exp_fast(wanted - most) / sum;
        put(d_logits, at + targets[row], weight * (p - 1));
        losses[row] = logf(sum) + most - wanted;
        right[row] = wanted == most;
    }
}
