// What the questions of one length gave, and how it is printed.

#ifndef FATHOM_TOOLS_NEEDLE_SCORE_H
#define FATHOM_TOOLS_NEEDLE_SCORE_H

#include <jansson.h>

#include "tools/needle_kl.h"
#include "tools/needle_task.h"
#include "tools/stats.h"

struct share {
    size_t n, n_right;
};

struct needle_score {
    const struct needle_task *task;
    const struct needle_options *options;
    struct needle_score *dense; // of the same questions with everything read; NULL: not asked so
    uint32_t n_tokens;          // asked for
    size_t n_questions, n_exact;
    struct judgement parts;
    struct needle_kl kl;
    struct share *depths;      // [options->n_depths] facts asked for, by their part of the text
    size_t n_texts, n_prefill; // texts, and their tokens
    double prefill_ms;
    double *decode_ms; // of each decoded token
    size_t n_decoded, n_decoded_max;
    uint64_t n_layer_steps, read_bytes; // of decoded tokens in tiered layers, and what they read
    struct stats decode;
};

// Whether this is the second of two, where everything was read.
static inline bool needle_score_is_dense(const struct needle_score *score)
{
    return score->options->dense_too && score->dense == NULL;
}

int needle_score_open(struct needle_score *score, const struct needle_task *task,
                      const struct needle_options *options, uint32_t n_tokens);
void needle_score_free(struct needle_score *score);

int needle_score_add_decode(struct needle_score *score, double ms);

// Adds what the cache did between the two.
void needle_score_add_reads(struct needle_score *score, const struct fathom_kv_stats *before,
                            const struct fathom_kv_stats *after);

// Judges the answers to a question and counts them, and the divergence that it came with; prints a
// line if the format is jsonl.
int needle_score_add(struct needle_score *score, struct puzzle *puzzle,
                     const struct question *question, const struct needle_kl *kl);

// Prints a line for each of the objects.
int needle_score_print_heads(const struct needle_score *score, json_t *heads);

// Share of exact answers, or of right parts where the task is judged by them.
double needle_score_share(const struct needle_score *score);

void needle_score_print_header(const struct needle_score *score);
int needle_score_print_row(const struct needle_score *score);
// Prints where the KV cache lies and what it picked: kv, as for needle_score_json.
int needle_score_print_cache(const json_t *kv);
// Takes what the KV cache did meanwhile, which may be null.
json_t *needle_score_json(const struct needle_score *score, json_t *kv);

// Prints a text with its first n questions and their answers, as a line of JSON.
int needle_score_show(const struct needle_score *score, const struct puzzle *puzzle,
                      const char *text, size_t n);

#endif
