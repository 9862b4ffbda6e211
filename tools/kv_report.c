// Statistics of the KV cache for `--kv-stats`.

#include "tools/kv_report.h"

#include <errno.h>
#include <string.h>

#include "tools/report.h"
#include "tools/say.h"

#define COUNT(member)                                                                              \
    {                                                                                              \
#        member, offsetof(struct fathom_kv_stats, member), false                                   \
    }
#define REAL(member)                                                                               \
    {                                                                                              \
#        member, offsetof(struct fathom_kv_stats, member), true                                    \
    }

static const struct {
    const char *name;
    size_t offset;
    bool real; // double; else uint64_t
} fields[] = {
    COUNT(device_bytes),
    COUNT(host_bytes),
    COUNT(index_bytes),
    COUNT(disk_bytes),
    COUNT(disk_bytes_written),
    COUNT(disk_bytes_read),
    COUNT(n_segments),
    COUNT(n_steps),
    COUNT(n_steps_picked),
    COUNT(tail_keys),
    COUNT(sealed_keys),
    COUNT(picked_keys),
    COUNT(scanned_keys),
    COUNT(scanned_bytes),
    COUNT(host_hits),
    COUNT(disk_reads),
    COUNT(late_units),
    COUNT(n_stalls),
    COUNT(n_rounds),
    REAL(select_s),
    REAL(attend_s),
    REAL(disk_wait_s),
    REAL(seal_s),
    REAL(merge_s),
    COUNT(n_calibrations),
    REAL(calibrate_s),
    REAL(threshold),
    COUNT(n_covered),
    REAL(coverage_bound),
    REAL(coverage_estimate),
    COUNT(n_verified),
    REAL(verified_coverage),
    REAL(verified_error),
};

// Means over nothing: everything was read, or no step was verified.
static void drop_means(json_t *json, const struct fathom_kv_stats *s)
{
    static const char *const covered[] = {"coverage_bound", "coverage_estimate"};
    static const char *const verified[] = {"verified_coverage", "verified_error"};
    for (int i = 0; i < 2; i++) {
        if (s->n_covered == 0) json_object_set_new(json, covered[i], json_null());
        if (s->n_verified == 0) json_object_set_new(json, verified[i], json_null());
    }
}

// a / b, or null where there is nothing to divide by.
static json_t *ratio(double a, double b)
{
    return b > 0 ? json_real(a / b) : json_null();
}

static json_t *fields_json(const struct fathom_kv_stats *stats)
{
    json_t *json = json_object();
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const char *member = (const char *)stats + fields[i].offset;
        uint64_t count;
        double real;
        memcpy(&count, member, sizeof count);
        memcpy(&real, member, sizeof real);
        json_object_set_new(json, fields[i].name,
                            fields[i].real ? json_real(real) : json_integer((json_int_t)count));
    }
    return json;
}

static void add_derived(json_t *json, const struct fathom_kv_stats *s)
{
    const double picked = (double)s->n_steps_picked, sealed = (double)s->sealed_keys;
    const double hits = (double)s->host_hits;
    json_object_set_new(json, "host_hit_rate", ratio(hits, hits + (double)s->disk_reads));
    json_object_set_new(json, "picked_share", ratio((double)s->picked_keys, sealed));
    json_object_set_new(json, "scanned_share", ratio((double)s->scanned_keys, sealed));
    json_object_set_new(json, "rounds_per_selection", ratio((double)s->n_rounds, picked));
    json_object_set_new(json, "select_us_per_token_layer", ratio(s->select_s * 1e6, picked));
    json_object_set_new(json, "attend_us_per_token_layer", ratio(s->attend_s * 1e6, picked));
    json_object_set_new(json, "disk_wait_us_per_token_layer", ratio(s->disk_wait_s * 1e6, picked));
}

json_t *kv_report_json(const fathom_engine *engine)
{
    struct fathom_kv_stats stats;
    fathom_kv_stats_init(&stats);
    if (say_status(fathom_engine_stats(engine, &stats)) != EXIT_GOOD) return NULL;
    json_t *json = fields_json(&stats);
    drop_means(json, &stats);
    add_derived(json, &stats);
    json_object_set_new(json, "plan", json_string(fathom_engine_plan(engine)));
    return json;
}

int kv_report_write(const fathom_engine *engine, const char *path)
{
    if (path == NULL) return EXIT_GOOD;
    json_t *json = kv_report_json(engine);
    if (json == NULL) return EXIT_BAD;
    if (strcmp(path, "-") == 0) return report_print_json(json);
    errno = 0;
    int failed = json_dump_file(json, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(json);
    if (!failed) return EXIT_GOOD;
    return say_error("cannot write --kv-stats %s: %s", path,
                     errno != 0 ? strerror(errno) : "the file is incomplete");
}
