// What stands for the rows of units and groups: representatives, how far keys are from them, boxes,
// values, and the keys of the second stage.

#ifndef FATHOM_INDEX_REPRESENT_H
#define FATHOM_INDEX_REPRESENT_H

#include "index/index_layout.h"

// As in selector_ops.represent; needs no scratch.
void represent_rows(const struct selector_params *params, const float *k, const float *v,
                    uint32_t n_rows, void *index);

#endif
