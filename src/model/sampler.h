// What the runner needs of a sampler: its pick from the best logits alone, so that a device need
// not hand out all of them.

#ifndef FATHOM_SRC_MODEL_SAMPLER_H
#define FATHOM_SRC_MODEL_SAMPLER_H

#include "fathom/model.h"
#include "src/iface/linear.h"

// How many of the largest logits give the pick that all would give; 0: none but all.
uint32_t sampler_n_best(const fathom_sampler *sampler);

// fathom_sampler_pick from the sampler_n_best largest logits, as linear_ops.best_logits gives them.
FATHOM_MUST_USE fathom_status sampler_pick_best(fathom_sampler *sampler, const struct logit *best,
                                                uint32_t n_best, int32_t *id);

uint32_t sampler_n_vocab(const fathom_sampler *sampler);

#endif
