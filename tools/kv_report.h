// What an engine's cache did, as JSON.

#ifndef FATHOM_TOOLS_KV_REPORT_H
#define FATHOM_TOOLS_KV_REPORT_H

#include <jansson.h>

#include "fathom/fathom.h"

// Every field of fathom_kv_stats, the plan, and what follows from them; NULL after saying so.
json_t *kv_report_json(const fathom_engine *engine);

// Writes that object to a file; "-": standard output. path NULL: does nothing.
int kv_report_write(const fathom_engine *engine, const char *path);

#endif
