// What an engine's cache did, as JSON.

#ifndef FATHOM_TOOLS_KV_REPORT_H
#define FATHOM_TOOLS_KV_REPORT_H

#include <jansson.h>

#include "fathom/fathom.h"

// The statistics as they are now.
int kv_report_take(const fathom_engine *engine, struct fathom_kv_stats *stats);

// Every field of fathom_kv_stats, the plan, and what follows from them; of what was done since
// then, or NULL: since the engine was opened. NULL after saying so.
json_t *kv_report_json(const fathom_engine *engine, const struct fathom_kv_stats *since);

// The mean over what came after the first n_before of n; 0 where nothing did.
double kv_report_mean_since(double mean, uint64_t n, double mean_before, uint64_t n_before);

// Says what --kv-verify found, and what --kv-deadline left out.
int kv_report_say(const fathom_engine *engine);

// Writes that object to a file; "-": standard output. path NULL: does nothing.
int kv_report_write(const fathom_engine *engine, const char *path);

#endif
