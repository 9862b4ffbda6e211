// The selectors: flat, chunk, cluster and block, behind the contract of src/iface/selector.h.
//
// They share one index layout and one search, and differ in how they group rows and in what
// represents a unit; selector_params.kind chooses.

#ifndef FATHOM_INDEX_SELECTORS_H
#define FATHOM_INDEX_SELECTORS_H

#include "src/iface/selector.h"

extern const struct selector_ops selector_ops;

#endif
