// `fathom bench attend`. The dense run comes first and is freed before the other begins, so that
// both need not fit side by side; its outputs stay, to compare with.

#include "tools/bench_attend.h"

#include <math.h>
#include <string.h>

#include "tools/attend_report.h"
#include "tools/block.h"
#include "tools/kv_record.h"
#include "tools/kv_report.h"
#include "tools/output.h"
#include "tools/rig.h"
#include "tools/say.h"
#include "tools/stats.h"
#include "tools/synthetic_kv.h"

struct attend_options {
    const char *shape;
    uint32_t n_layers; // 0: the shape's
    uint32_t n_ctx;
    uint32_t n_steps;
    int64_t seed;
    bool dense;
    const char *record;
    const char *format;
};

#define OPTION(member) offsetof(struct attend_options, member)

static const struct flag attend_flags[] = {
    {"--shape", FLAG_TEXT, OPTION(shape), "llama-3.2-1b|llama-3.1-8b|qwen2.5-7b|qwen3-0.6b",
     "heads and sizes"},
    {"--layers", FLAG_COUNT, OPTION(n_layers), "0..128", "0: the shape's, or the record's"},
    {"-c, --ctx", FLAG_COUNT, OPTION(n_ctx), "1..128M", "tokens before the first step"},
    {"-n, --steps", FLAG_COUNT, OPTION(n_steps), "1..64k", "decoded tokens"},
    {"-s, --seed", FLAG_INT, OPTION(seed), "N", "of the synthetic rows"},
    {"--no-dense", FLAG_OFF, OPTION(dense), NULL, "leave out the dense run"},
    {"--record", FLAG_TEXT, OPTION(record), "DIR",
     "rows of fathom run --kv-record in place of synthetic ones"},
    {"-o, --output", FLAG_TEXT, OPTION(format), "md|json", "form of the result"},
};

static const struct {
    const char *name;
    struct kv_shape shape;
} shapes[] = {
    {"llama-3.2-1b", {16, 32, 8, 64, 64}},
    {"llama-3.1-8b", {32, 32, 8, 128, 128}},
    {"qwen2.5-7b", {28, 28, 4, 128, 128}},
    {"qwen3-0.6b", {28, 16, 8, 128, 128}},
};

struct bench {
    struct attend_options options;
    struct rig_options device;
    struct rig rig; // the device alone
    struct team *team;
    struct synthetic_kv *synth;
    struct kv_replay *replay;
    struct kv_source source;
    struct attend_plan plan;
    struct attend_run dense, run;
};

// ---- Before -------------------------------------------------------------------------------------

// What can be told before rows are made or read.
static int read_flags(struct bench *bench)
{
    struct attend_plan *plan = &bench->plan;
    plan->kv_type = FATHOM_TYPE_F16;
    if (strcmp(bench->device.device, "cpu") != 0)
        return say_error("--device %s: rows of bench attend lie in the host's memory; leave it out",
                         bench->device.device);
    SAY_TRY(kv_flags_read(&bench->device.kv, &plan->kv, &plan->kv_type));
    if (plan->kv.positions != FATHOM_POSITIONS_TRUE)
        return say_error("--kv-positions collapsed: rows of bench attend have no positions");
    SAY_TRY(kv_flags_check_stats(&bench->device.kv, bench->options.format));
    return output_try_file(bench->device.kv.stats);
}

static int open_source(struct bench *bench)
{
    const struct attend_options *options = &bench->options;
    uint32_t n_recorded = UINT32_MAX;
    if (options->record != NULL) {
        SAY_TRY(kv_replay_open(options->record, &bench->replay));
        bench->source = kv_replay_source(bench->replay);
        n_recorded = bench->source.shape.n_layers;
        if (options->n_layers > n_recorded)
            return say_error("--layers %u: the record has %u", options->n_layers, n_recorded);
    } else {
        size_t i = 0;
        while (strcmp(shapes[i].name, options->shape) != 0)
            i++;
        SAY_TRY(synthetic_kv_open(&shapes[i].shape, options->n_ctx, options->n_steps,
                                  (uint64_t)options->seed, bench->team, &bench->synth));
        bench->source = synthetic_kv_source(bench->synth);
    }
    if (options->n_layers > 0) bench->source.shape.n_layers = options->n_layers;
    if (bench->source.places[0] == 0)
        return say_error("--record %s: no token comes before the first step", options->record);
    return kv_flags_check_layers(&bench->device.kv, bench->source.shape.n_layers);
}

static void choose_plan(struct bench *bench)
{
    struct attend_plan *plan = &bench->plan;
    plan->device = bench->rig.device;
    plan->source = &bench->source;
    plan->n_layers = bench->source.shape.n_layers;
    plan->n_tokens = bench->source.places[0];
    plan->label = "filling";
}

// Bytes of a row of K and one of V in codes of `bits`: pieces of 16 bytes, and for V 4 bytes more
// for each 64 values.
static double coded_row_bytes(const struct kv_shape *shape, uint32_t bits)
{
    const uint32_t k = (shape->d_k * bits + 127) / 128 * 16;
    const uint32_t v = (shape->d_v * bits + 127) / 128 * 16 + (shape->d_v + 63) / 64 * 4;
    return k + v;
}

// Rows alone, so that nothing is refused that would do: index and search come on top.
static int check_memory(const struct bench *bench)
{
    const struct kv_shape *shape = &bench->source.shape;
    const struct fathom_kv_params *kv = &bench->plan.kv;
    const bool seals = kv->mode != FATHOM_KV_DENSE;
    const double row_bytes = seals && kv->codec > 0 ? coded_row_bytes(shape, (uint32_t)kv->codec)
                                                    : 2.0 * (shape->d_k + shape->d_v);
    const double mib = 1 << 20, free_bytes = (double)block_free_bytes();
    double bytes = row_bytes * shape->n_kv_heads * bench->plan.n_layers * bench->plan.n_tokens;
    if (seals && kv->disk_bytes > 0 && kv->host_bytes > 0)
        bytes = fmin(bytes, (double)kv->host_bytes);
    if (bytes <= free_bytes) return EXIT_GOOD;
    return say_error("%u layers of %u tokens take %.0f MiB of RAM, and %.0f are free: give fewer "
                     "--layers or --ctx, fewer bits (--kv-type), or --kv-ram and --kv-disk",
                     bench->plan.n_layers, bench->plan.n_tokens, bytes / mib, free_bytes / mib);
}

// ---- The dense run ------------------------------------------------------------------------------

// Rows of all layers and tokens if they fit; else fewer layers, and fewer tokens at last. A limit
// on RAM is meant for the tiers, so this run stays well below it.
static void choose_dense_size(const struct bench *bench, struct attend_plan *plan)
{
    const struct kv_shape *shape = &bench->source.shape;
    const uint64_t token_bytes = 2 * (uint64_t)shape->n_kv_heads * (shape->d_k + shape->d_v);
    const uint64_t n_steps =
        bench->source.places[bench->source.n_steps - 1] - bench->source.places[0] + 1;
    uint64_t bytes = block_machine_bytes() / 2;
    const uint64_t free_bytes = block_free_bytes();
    if (free_bytes / 4 * 3 < bytes) bytes = free_bytes / 4 * 3;
    if (bench->plan.kv.host_bytes > 0 && bench->plan.kv.host_bytes / 4 * 3 < bytes)
        bytes = bench->plan.kv.host_bytes / 4 * 3;
    const uint64_t n_fit = bytes / token_bytes; // of one layer
    const uint64_t n_layers = n_fit / (plan->n_tokens + n_steps);
    if (n_layers >= plan->n_layers) return;
    plan->n_layers = n_layers > 0 ? (uint32_t)n_layers : 1;
    if (n_layers == 0) plan->n_tokens = n_fit > 2 * n_steps ? (uint32_t)(n_fit - n_steps) : 1;
}

static int run_dense(struct bench *bench, struct attend_result *result)
{
    struct attend_plan plan = bench->plan;
    fathom_kv_params_init(&plan.kv);
    plan.kv.mode = FATHOM_KV_DENSE;
    plan.kv_type = FATHOM_TYPE_F16;
    plan.prefill = true;
    plan.label = "filling, dense";
    choose_dense_size(bench, &plan);
    struct attend_run *run = &bench->dense;
    const struct kv_shape *shape = &bench->source.shape;
    SAY_TRY(attend_run_open(run, &plan));
    fathom_engine_close(&run->engine);
    const size_t n_steps = bench->source.n_steps;
    result->has_dense = true;
    result->dense_layers = plan.n_layers;
    result->dense_tokens = plan.n_tokens;
    result->dense_scale = (double)result->n_tokens / plan.n_tokens;
    result->dense_bytes = 2.0 * (shape->d_k + shape->d_v) * shape->n_kv_heads * plan.n_tokens;
    result->dense_p10 = stats_quantile(run->us, n_steps, 0.1) * result->dense_scale;
    result->dense_median = stats_quantile(run->us, n_steps, 0.5) * result->dense_scale;
    result->dense_p90 = stats_quantile(run->us, n_steps, 0.9) * result->dense_scale;
    result->prefill_us = run->prefill_us * result->dense_scale;
    return EXIT_GOOD;
}

// ---- The run asked for --------------------------------------------------------------------------

// By one token in one layer.
static double bytes_read(const struct bench *bench, const struct fathom_kv_stats *stats)
{
    const struct kv_shape *shape = &bench->source.shape;
    if (stats->n_steps > 0) return (double)stats->read_bytes / (double)stats->n_steps;
    // Dense engines do not count.
    return 2.0 * (shape->d_k + shape->d_v) * shape->n_kv_heads * bench->plan.n_tokens;
}

static int run_asked(struct bench *bench, struct attend_result *result)
{
    struct attend_run *run = &bench->run;
    struct fathom_kv_stats stats;
    block_forget_peak(); // what came before tells nothing of the cache
    SAY_TRY(attend_run_open(run, &bench->plan));
    if (bench->device.log_level >= FATHOM_LOG_WARN) {
        say_note("KV cache %s", fathom_engine_plan(run->engine));
        kv_flags_say_idle(&bench->device.kv, run->engine, bench->source.shape.n_layers);
    }
    fathom_kv_stats_init(&stats);
    SAY_TRY(say_status(fathom_engine_stats(run->engine, &stats)));
    const size_t n_steps = bench->source.n_steps;
    result->run = run;
    result->read_bytes = bytes_read(bench, &stats);
    result->disk_bytes =
        stats.n_steps > 0 ? (double)stats.disk_bytes_read / (double)stats.n_steps : 0;
    result->p10 = stats_quantile(run->us, n_steps, 0.1);
    result->median = stats_quantile(run->us, n_steps, 0.5);
    result->p90 = stats_quantile(run->us, n_steps, 0.9);
    result->coverage = attend_coverage_sum_up(&run->coverage);
    return EXIT_GOOD;
}

static double head_error(const float *out, const float *exact, uint32_t d)
{
    double off = 0, norm = 0;
    for (uint32_t i = 0; i < d; i++) {
        const double want = (double)exact[i], by = (double)out[i] - want;
        off += by * by;
        norm += want * want;
    }
    return norm > 0 ? sqrt(off / norm) : 0;
}

static void compare(const struct bench *bench, struct attend_result *result)
{
    const struct kv_shape *shape = &bench->source.shape;
    const struct attend_run *dense = &bench->dense, *run = &bench->run;
    const size_t layer_values = (size_t)shape->n_heads * shape->d_v;
    const uint32_t n_layers = result->dense_layers;
    result->has_error = result->has_dense && result->dense_tokens == result->n_tokens;
    if (!result->has_error) return;
    double sum = 0;
    for (uint32_t step = 0; step < bench->source.n_steps; step++)
        for (uint32_t i = 0; i < n_layers * shape->n_heads; i++) {
            const size_t at = (size_t)i * shape->d_v;
            const double error =
                head_error(run->out + (size_t)step * run->plan.n_layers * layer_values + at,
                           dense->out + (size_t)step * n_layers * layer_values + at, shape->d_v);
            sum += error;
            if (error > result->error_max) result->error_max = error;
        }
    result->error_mean = sum / ((double)bench->source.n_steps * n_layers * shape->n_heads);
}

static int measure(struct bench *bench)
{
    const struct attend_options *options = &bench->options;
    struct attend_result result = {0};
    SAY_TRY(read_flags(bench));
    SAY_TRY(rig_open_device(&bench->rig, &bench->device));
    SAY_TRY(team_open(bench->device.n_threads, &bench->team));
    SAY_TRY(open_source(bench));
    choose_plan(bench);
    SAY_TRY(check_memory(bench));
    SAY_TRY(memory_speed_measure(bench->team, &result.speed));
    result.source = options->record != NULL ? options->record : options->shape;
    result.device = fathom_device_text(bench->rig.device);
    result.n_layers = bench->plan.n_layers;
    result.n_tokens = bench->plan.n_tokens;
    result.n_steps = bench->source.n_steps;
    result.seed = options->seed;
    if (options->dense) SAY_TRY(run_dense(bench, &result));
    // Again, since a machine is not the same at all times.
    SAY_TRY(memory_speed_measure(bench->team, &result.speed));
    SAY_TRY(run_asked(bench, &result));
    compare(bench, &result);
    SAY_TRY(attend_report_print(&result, strcmp(options->format, "json") == 0));
    return kv_report_write(bench->run.engine, bench->device.kv.stats);
}

static const char about[] =
    "Attention alone, over a cache that is filled without a model: with synthetic keys and values\n"
    "(topics that return, needles, queries unlike keys), or with recorded ones. Times are in\n"
    "microseconds for one token in one layer. A dense run over the same rows in f16 comes first,\n"
    "of fewer layers or tokens where memory holds no more. An error is the length of the\n"
    "difference to its output over the length of that, for one query head: mean and largest.\n"
    "Peak memory is that of the process from when the dense run has ended. The share of a read is\n"
    "of a read of 512 MiB: rows that fit the processor's cache are read faster than that.\n"
    "Rows have no positions here, so --kv-positions collapsed is not taken.";

int bench_attend(int argc, char **argv)
{
    struct bench bench = {
        .options = {.shape = "llama-3.2-1b",
                    .n_ctx = 131072,
                    .n_steps = 32,
                    .seed = 1,
                    .dense = true,
                    .format = "md"},
        .device = rig_defaults,
    };
    bench.device.device = "cpu";
    bench.device.kv.mode = "sparse";
    const struct flag_group groups[] = {
        {"Attend", attend_flags, sizeof attend_flags / sizeof attend_flags[0], &bench.options},
        rig_device_flags(&bench.device),
        kv_flags(&bench.device.kv),
    };
    const struct flag_page page = {
        .command = "bench attend",
        .use = "[--shape NAME | --record DIR] [--layers N] [--ctx N] [-o md|json]",
        .about = about,
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    if (bench.options.record != NULL) {
        const char *unused =
            flags_given(&page, argc, argv, "--shape, -c, --ctx, -n, --steps, -s, --seed");
        if (unused != NULL) return say_error("%s: with --record, the record says that", unused);
    }
    int code = measure(&bench);
    attend_run_close(&bench.run);
    attend_run_close(&bench.dense);
    synthetic_kv_close(&bench.synth);
    kv_replay_close(&bench.replay);
    team_close(&bench.team);
    rig_close(&bench.rig);
    return code;
}
