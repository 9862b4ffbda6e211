// Statistics of the KV cache for `--kv-stats`.

#include "tools/kv_report.h"

#include <errno.h>
#include <string.h>

#include "tools/report.h"
#include "tools/say.h"

#define FIELD(kind, member)                                                                        \
    {                                                                                              \
#        member, offsetof(struct fathom_kv_stats, member), kind                                    \
    }
#define HELD(member)    FIELD(FIELD_HELD, member)
#define COUNT(member)   FIELD(FIELD_COUNT, member)
#define SECONDS(member) FIELD(FIELD_SECONDS, member)
#define REAL(member)    FIELD(FIELD_REAL, member)

enum field_kind {
    FIELD_HELD,    // uint64_t: as it is now
    FIELD_COUNT,   // uint64_t, which grows
    FIELD_SECONDS, // double, which grows
    FIELD_REAL,    // double: a mean, or as it is now
};

static const struct {
    const char *name;
    size_t offset;
    enum field_kind kind;
} fields[] = {
    HELD(device_bytes),        HELD(host_bytes),       HELD(index_bytes),       HELD(disk_bytes),
    COUNT(disk_bytes_written), COUNT(disk_bytes_read), HELD(n_segments),        COUNT(n_steps),
    COUNT(n_steps_picked),     COUNT(tail_keys),       COUNT(sealed_keys),      COUNT(picked_keys),
    COUNT(scanned_keys),       COUNT(scanned_bytes),   COUNT(read_bytes),       COUNT(host_hits),
    COUNT(disk_reads),         COUNT(late_units),      COUNT(n_stalls),         COUNT(n_rounds),
    SECONDS(select_s),         SECONDS(attend_s),      SECONDS(disk_wait_s),    SECONDS(seal_s),
    SECONDS(merge_s),          COUNT(n_calibrations),  SECONDS(calibrate_s),    REAL(threshold),
    COUNT(n_covered),          REAL(coverage_bound),   REAL(coverage_estimate), COUNT(n_verified),
    REAL(verified_coverage),   REAL(verified_error),
};

double kv_report_mean_since(double mean, uint64_t n, double mean_before, uint64_t n_before)
{
    if (n == n_before) return 0;
    return (mean * (double)n - mean_before * (double)n_before) / (double)(n - n_before);
}

// Takes off what was before.
static void subtract(struct fathom_kv_stats *s, const struct fathom_kv_stats *since)
{
#define MEAN(member, n) s->member = kv_report_mean_since(s->member, s->n, since->member, since->n)
    MEAN(coverage_bound, n_covered);
    MEAN(coverage_estimate, n_covered);
    MEAN(verified_coverage, n_verified);
    MEAN(verified_error, n_verified);
#undef MEAN
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        char *now = (char *)s + fields[i].offset;
        const char *before = (const char *)since + fields[i].offset;
        if (fields[i].kind == FIELD_COUNT) *(uint64_t *)now -= *(const uint64_t *)before;
        if (fields[i].kind == FIELD_SECONDS) *(double *)now -= *(const double *)before;
    }
}

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
        const bool whole = fields[i].kind == FIELD_HELD || fields[i].kind == FIELD_COUNT;
        json_object_set_new(json, fields[i].name,
                            whole ? json_integer((json_int_t)count) : json_real(real));
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

int kv_report_take(const fathom_engine *engine, struct fathom_kv_stats *stats)
{
    fathom_kv_stats_init(stats);
    return say_status(fathom_engine_stats(engine, stats));
}

json_t *kv_report_json(const fathom_engine *engine, const struct fathom_kv_stats *since)
{
    struct fathom_kv_stats stats;
    if (kv_report_take(engine, &stats) != EXIT_GOOD) return NULL;
    if (since != NULL) subtract(&stats, since);
    json_t *json = fields_json(&stats);
    drop_means(json, &stats);
    add_derived(json, &stats);
    json_object_set_new(json, "plan", json_string(fathom_engine_plan(engine)));
    return json;
}

int kv_report_say(const fathom_engine *engine)
{
    struct fathom_kv_stats stats;
    SAY_TRY(kv_report_take(engine, &stats));
    if (stats.n_verified > 0)
        say_note("KV cache: of %llu steps of a layer that were compared with exact attention, "
                 "coverage %.4f, error %.4f",
                 (unsigned long long)stats.n_verified, stats.verified_coverage,
                 stats.verified_error);
    if (stats.late_units > 0)
        say_note("KV cache: %llu units came after --kv-deadline, and were estimated",
                 (unsigned long long)stats.late_units);
    return EXIT_GOOD;
}

int kv_report_write(const fathom_engine *engine, const char *path)
{
    if (path == NULL) return EXIT_GOOD;
    json_t *json = kv_report_json(engine, NULL);
    if (json == NULL) return EXIT_BAD;
    if (strcmp(path, "-") == 0) return report_print_json(json);
    errno = 0;
    int failed = json_dump_file(json, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(json);
    if (!failed) return EXIT_GOOD;
    return say_error("cannot write --kv-stats %s: %s", path,
                     errno != 0 ? strerror(errno) : "the file is incomplete");
}
