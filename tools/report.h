// Result tables and JSON on standard output.

#ifndef FATHOM_TOOLS_REPORT_H
#define FATHOM_TOOLS_REPORT_H

#include <jansson.h>

#include "tools/rig.h"

// Prints and releases a JSON value. NULL, which is what jansson makes of a failure, is an error.
int report_print_json(json_t *json);

// "755.33 K", "1.24 B".
void report_count(char *text, size_t capacity, uint64_t n);

#endif
