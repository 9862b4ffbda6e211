// What commands with tables share.

#include "tools/report.h"

#include <stdio.h>

#include "tools/say.h"

int report_print_json(json_t *json)
{
    if (json == NULL) return say_error("cannot build the JSON report");
    int failed = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(json);
    if (failed) return say_error("cannot write the JSON report");
    printf("\n");
    return EXIT_GOOD;
}

void report_count(char *text, size_t capacity, uint64_t n)
{
    static const char *const units[] = {"", " K", " M", " B", " T"};
    double value = (double)n;
    size_t i = 0;
    while (value >= 1000 && i + 1 < sizeof units / sizeof units[0]) {
        value /= 1000;
        i++;
    }
    snprintf(text, capacity, "%.*f%s", i > 0 ? 2 : 0, value, units[i]);
}
