// Rotary frequencies by scaling method.

#ifndef FATHOM_SRC_KV_ROPE_H
#define FATHOM_SRC_KV_ROPE_H

#include "fathom/fathom.h"

// Fills frequencies [n_rot / 2] (radians a token) and the factor of cos and sin. rope->n_rot must
// be even and above 0, the other fields as rope_check wants them.
void rope_frequencies(const struct fathom_rope *rope, double *frequencies, float *magnitude);

// EINVAL names the field that is out of range; d is the head size. n_rot must not stand for "the
// whole head" any more.
FATHOM_MUST_USE fathom_status rope_check(const struct fathom_rope *rope, uint32_t d);

// cos and sin of n_tokens positions from `first` on: cos_sin [n_tokens, n_rot / 2, 2].
void rope_table(const double *frequencies, float magnitude, uint32_t n_rot, uint32_t first,
                uint32_t n_tokens, float *cos_sin);

#endif
