// Two models' next-token distributions side by side: the file that keeps the base's, and the
// statistics of the difference. File layout and wording are llama.cpp's, so that its scripts work.

#ifndef FATHOM_TOOLS_DIVERGENCE_H
#define FATHOM_TOOLS_DIVERGENCE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "tools/ids.h"

// The file, all little-endian: "_logits_"; uint32 n_ctx, n_vocab, n_chunks; int32 ids
// [n_chunks, n_ctx]; then for each chunk n_ctx - 1 - n_ctx/2 rows. A row is two float32, scale and
// least, and n_vocab uint16 q (one more if n_vocab is odd): log p = scale * q + least.
struct divergence_base {
    FILE *file;
    bool is_new; // being written
    const char *path;
    uint32_t n_ctx;
    uint32_t n_vocab;
    uint32_t n_chunks;
    struct ids ids;
    uint16_t *row;
};

// Begins a new file.
int divergence_create(struct divergence_base *base, const char *path, uint32_t n_ctx,
                      uint32_t n_vocab, uint32_t n_chunks, const int32_t *ids);

// Opens a file and reads all but the rows.
int divergence_open(struct divergence_base *base, const char *path);

// Appends the next row, from logits [n_vocab].
int divergence_write(struct divergence_base *base, const float *logits);

// Reads the next row into base->row.
int divergence_read(struct divergence_base *base);

// Says so if something written was lost. A file that was begun stays only if `keep`, for a part of
// one is of no use. The base may be zeroed or half open.
int divergence_close(struct divergence_base *base, bool keep);

// Sums over scored tokens. p is of the model under test, nll its -ln p of the right token; *_base
// are of the base.
struct divergence_sums {
    double *kld;    // [n_max] of each token
    double *p_diff; // [n_max] p - p_base of the right token
    size_t n;
    double nll, nll_2, nll_base, nll_base_2, nll_nll_base;
    double p_diff_4;
    uint64_t n_same_top;
};

int divergence_sums_init(struct divergence_sums *sums, size_t n_max);
void divergence_sums_free(struct divergence_sums *sums);

// Adds one token: the logits under test against base->row.
void divergence_add(struct divergence_sums *sums, const struct divergence_base *base,
                    const float *logits, int32_t id);

// One line after each chunk, and the closing tables (which sort the values).
void divergence_print_chunk(const struct divergence_sums *sums, uint32_t chunk);
void divergence_print(struct divergence_sums *sums);

// ln of the sum of exp of logits [n]; *top is where the largest is.
double divergence_log_sum(const float *logits, uint32_t n, uint32_t *top);

#endif
