// The figures of `fathom bench attend`, as a table and as JSON.

#ifndef FATHOM_TOOLS_ATTEND_REPORT_H
#define FATHOM_TOOLS_ATTEND_REPORT_H

#include "tools/attend_run.h"
#include "tools/memory_speed.h"

struct attend_result {
    const char *source; // shape's name, or the record's folder
    const char *device; // fathom_device_text
    uint32_t n_layers, n_tokens, n_steps;
    int64_t seed;
    struct memory_speed speed;
    const struct attend_run *run;
    double read_bytes; // by one token in one layer: rows and index, from RAM
    double disk_bytes; // from disk
    double p10, median, p90;
    struct attend_coverage_summary coverage; // of verified steps

    bool has_dense; // else what follows is void
    uint32_t dense_layers, dense_tokens;
    double dense_scale; // n_tokens / dense_tokens, which the times are multiplied with
    double dense_bytes; // as read_bytes, of dense_tokens
    double dense_p10, dense_median, dense_p90;
    double prefill_us;
    bool has_error;               // both attended to the same tokens
    double error_mean, error_max; // |o - o_dense| / |o_dense| by query head
};

int attend_report_print(const struct attend_result *result, bool json);

#endif
