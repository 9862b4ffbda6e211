// The figures of `fathom bench attend`. Times are microseconds for one token in one layer.

#include "tools/attend_report.h"

#include <stdio.h>

#include "tools/block.h"
#include "tools/kv_report.h"
#include "tools/report.h"
#include "tools/say.h"

// Share of the memory's bandwidth that reading so many bytes in so many microseconds comes to.
static double fraction(const struct attend_result *r, double bytes, double us)
{
    return bytes / us * 1e-3 / r->speed.read_gbs;
}

static void set(json_t *json, const char *name, double value)
{
    json_object_set_new(json, name, json_real(value));
}

// Times of verified steps are of exact attention too, so they tell nothing about speed.
static bool is_verified(const struct attend_result *r)
{
    return r->run->plan.kv.verify_share > 0;
}

static void add_dense(json_t *json, const struct attend_result *r)
{
    set(json, "dense_us_per_token_layer", r->dense_median);
    set(json, "dense_us_per_token_layer_p10", r->dense_p10);
    set(json, "dense_us_per_token_layer_p90", r->dense_p90);
    json_object_set_new(json, "dense_measured_layers", json_integer(r->dense_layers));
    json_object_set_new(json, "dense_measured_tokens", json_integer(r->dense_tokens));
    set(json, "dense_bytes_per_token_layer", r->dense_bytes * r->dense_scale);
    set(json, "dense_read_fraction", fraction(r, r->dense_bytes * r->dense_scale, r->dense_median));
    if (!is_verified(r)) set(json, "speedup", r->dense_median / r->median);
    set(json, "prefill_us_per_token_layer", r->prefill_us);
    set(json, "seal_share_of_prefill", r->run->seal_us / r->prefill_us);
    if (!r->has_error) return;
    set(json, "output_error_mean", r->error_mean);
    set(json, "output_error_max", r->error_max);
}

static void add_coverage(json_t *json, const struct attend_coverage_summary *coverage)
{
    json_object_set_new(json, "coverage_steps", json_integer((json_int_t)coverage->n));
    if (coverage->n == 0) return;
    json_object_set_new(json, "coverage_bound_above", json_integer((json_int_t)coverage->n_above));
    set(json, "coverage_median", coverage->verified);
    set(json, "coverage_bound_median", coverage->bound);
    set(json, "coverage_estimate_median", coverage->estimate);
    set(json, "coverage_estimate_error_median", coverage->error);
}

static json_t *build_json(const struct attend_result *r)
{
    json_t *stats = kv_report_json(r->run->engine, NULL);
    if (stats == NULL) return NULL;
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:I}", "build_version", fathom_version(),
                  "device", r->device, "source", r->source, "n_layers", (int)r->n_layers, "n_ctx",
                  (int)r->n_tokens, "n_steps", (int)r->n_steps, "seed", (json_int_t)r->seed);
    set(json, "us_per_token_layer", r->median);
    set(json, "us_per_token_layer_p10", r->p10);
    set(json, "us_per_token_layer_p90", r->p90);
    set(json, "seal_us_per_token_layer", r->run->seal_us);
    set(json, "read_bytes_per_token_layer", r->read_bytes);
    set(json, "disk_bytes_per_token_layer", r->disk_bytes);
    set(json, "read_fraction", fraction(r, r->read_bytes, r->median));
    set(json, "memory_read_gbs", r->speed.read_gbs);
    set(json, "memory_gather_gbs", r->speed.gather_gbs);
    set(json, "fill_s", r->run->fill_s);
    set(json, "peak_rss_bytes", (double)block_peak_bytes());
    add_coverage(json, &r->coverage);
    if (r->has_dense) add_dense(json, r);
    json_object_set_new(json, "kv_stats", stats);
    return json;
}

static void print_row(const char *what, const char *value)
{
    printf("| %-36s | %34s |\n", what, value);
}

static void print_real(const char *what, const char *unit, int decimals, double value)
{
    char text[64];
    snprintf(text, sizeof text, "%.*f%s", decimals, value, unit);
    print_row(what, text);
}

static void print_times(const char *what, double median, double p10, double p90)
{
    char text[64];
    snprintf(text, sizeof text, "%.1f (%.1f to %.1f)", median, p10, p90);
    print_row(what, text);
}

static void print_dense(const struct attend_result *r)
{
    char text[64];
    print_times("dense, us/token/layer (p10-p90)", r->dense_median, r->dense_p10, r->dense_p90);
    if (r->dense_layers < r->n_layers || r->dense_tokens < r->n_tokens) {
        snprintf(text, sizeof text, "%u layers, %u tokens", r->dense_layers, r->dense_tokens);
        print_row("dense was measured with", text);
    }
    print_real("dense, of the memory's bandwidth", " %", 1,
               100 * fraction(r, r->dense_bytes * r->dense_scale, r->dense_median));
    if (is_verified(r))
        print_row("faster than dense", "unknown: --kv-verify takes time");
    else
        print_real("faster than dense", " x", 2, r->dense_median / r->median);
    print_real("dense prefill, us/token/layer", "", 1, r->prefill_us);
    print_real("sealing, of a dense prefill", " %", 1, 100 * r->run->seal_us / r->prefill_us);
    if (!r->has_error) return;
    snprintf(text, sizeof text, "%.4f, at most %.4f", r->error_mean, r->error_max);
    print_row("error / dense output, by query head", text);
}

static void print_coverage(const struct attend_coverage_summary *coverage)
{
    if (coverage->n == 0) return;
    print_real("coverage of verified steps, median", "", 4, coverage->verified);
    print_real("of the bound", "", 4, coverage->bound);
    print_real("steps whose bound is above it", "", 0, (double)coverage->n_above);
    print_real("of the estimate", "", 4, coverage->estimate);
    print_real("of what the estimate is off by", "", 4, coverage->error);
}

// Where all is read there is nothing to tell.
static void print_picked(const struct fathom_kv_stats *stats)
{
    if (stats->n_steps_picked == 0) return;
    const double sealed = (double)stats->sealed_keys;
    print_real("keys picked, of the sealed", " %", 2, 100 * (double)stats->picked_keys / sealed);
    print_real("scores of the search, by sealed key", "", 4, (double)stats->scanned_keys / sealed);
    print_real("index scanned", " KiB", 1,
               (double)stats->scanned_bytes / (double)stats->n_steps / 1024);
    if (stats->n_covered == 0) return;
    print_real("coverage, estimate", "", 4, stats->coverage_estimate);
    print_real("coverage, bound", "", 4, stats->coverage_bound);
}

static int print_table(const struct attend_result *r)
{
    struct fathom_kv_stats stats;
    fathom_kv_stats_init(&stats);
    SAY_TRY(say_status(fathom_engine_stats(r->run->engine, &stats)));
    const double mib = 1 << 20;
    char text[64];
    snprintf(text, sizeof text, "%u layers, %u tokens", r->n_layers, r->n_tokens);
    print_row(r->source, text);
    printf("| %.36s | %.33s: |\n", "------------------------------------",
           "----------------------------------");
    print_times("attention, us/token/layer (p10-p90)", r->median, r->p10, r->p90);
    if (r->has_dense) print_dense(r);
    print_real("sealing, us/token/layer", "", 2, r->run->seal_us);
    print_real("read by a token in a layer", " MiB", 3, r->read_bytes / mib);
    print_real("of it from disk", " MiB", 3, r->disk_bytes / mib);
    print_real("of the memory's bandwidth", " %", 1, 100 * fraction(r, r->read_bytes, r->median));
    print_picked(&stats);
    print_coverage(&r->coverage);
    print_real("hot rows", " MiB", 1, (double)stats.device_bytes / mib);
    print_real("RAM", " MiB", 1, (double)stats.host_bytes / mib);
    print_real("index, of it", " MiB", 1, (double)stats.index_bytes / mib);
    print_real("disk", " MiB", 1, (double)stats.disk_bytes / mib);
    print_real("memory read", " GB/s", 2, r->speed.read_gbs);
    print_real("memory gathered by 4 KiB", " GB/s", 2, r->speed.gather_gbs);
    print_real("peak memory of the run", " MiB", 1, (double)block_peak_bytes() / mib);
    printf("\n%s, fathom %s\n", r->device, fathom_version());
    return EXIT_GOOD;
}

int attend_report_print(const struct attend_result *result, bool json)
{
    return json ? report_print_json(build_json(result)) : print_table(result);
}
