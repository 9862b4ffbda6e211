// One engine of `fathom bench attend`: filled from a source of rows, then asked step by step.

#ifndef FATHOM_TOOLS_ATTEND_RUN_H
#define FATHOM_TOOLS_ATTEND_RUN_H

#include "fathom/fathom.h"
#include "tools/attend_coverage.h"
#include "tools/kv_source.h"

struct attend_plan {
    fathom_device *device;
    const struct kv_source *source;
    uint32_t n_layers; // of the source's, the first
    uint32_t n_tokens; // less than the source's first place: a shorter context stands for it
    int32_t kv_type;
    struct fathom_kv_params kv;
    bool prefill;      // measure chunks of a prompt too
    const char *label; // of the progress line
};

struct attend_run {
    struct attend_plan plan;
    fathom_engine *engine;
    struct fathom_seq seq;
    uint32_t n_step_max; // tokens
    float *k, *v, *q, *chunk_out;
    float *out; // [n_steps, n_layers, n_heads, d_v]
    double *us; // [n_steps] of attention per token and layer, ascending in the end
    struct attend_coverage coverage;
    double fill_s;     // making rows, appending and sealing
    double seal_us;    // of it sealing and merging, per token and layer
    double prefill_us; // attention per token and layer, mean over the depth
};

// Fills and asks. *run need not be initialised and may be closed after a failure; the engine stays
// open for its statistics.
int attend_run_open(struct attend_run *run, const struct attend_plan *plan);
void attend_run_close(struct attend_run *run);

#endif
