// `fathom bench`: tokens per second of prefill and decode, at given depths, in llama-bench's
// grammar and row names.

#include <stdio.h>
#include <string.h>

#include "tools/bench_attend.h"
#include "tools/block.h"
#include "tools/cmd.h"
#include "tools/random.h"
#include "tools/report.h"
#include "tools/say.h"
#include "tools/stats.h"
#include "tools/timer.h"

enum { BENCH_SEED = 1 };

struct bench_options {
    struct flag_counts n_prompt, n_gen, n_depth;
    uint32_t n_repeat;
    const char *format;
};

// One row of the table: n tokens fed in batches (pp) or one by one (tg) behind a depth.
struct bench_test {
    char name[48];
    uint32_t n_prompt, n_gen, n_depth;
    double *rates; // [n_repeat], tokens per second
    struct stats stats;
};

struct bench {
    struct rig rig;
    const struct bench_options *options;
    int32_t *ids; // [n_ctx], random
    struct bench_test *tests;
    size_t n_tests;
    size_t n_done; // of them, all their repetitions
};

#define OPTION(member) offsetof(struct bench_options, member)

static const struct flag bench_flags[] = {
    {"-p, --n-prompt", FLAG_COUNTS, OPTION(n_prompt), "N,...", "tokens of prefill; 0: none"},
    {"-n, --n-gen", FLAG_COUNTS, OPTION(n_gen), "N,...", "tokens of decode; 0: none"},
    {"-d, --n-depth", FLAG_COUNTS, OPTION(n_depth), "N,...", "tokens already in the context"},
    {"-r, --repetitions", FLAG_COUNT, OPTION(n_repeat), "1..1M", "times that each test runs"},
    {"-o, --output", FLAG_TEXT, OPTION(format), "md|json", "form of the result"},
};

static uint32_t largest(const struct flag_counts *list)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < list->n; i++)
        if (list->items[i] > n) n = list->items[i];
    return n;
}

static int add_test(struct bench *bench, uint32_t n_prompt, uint32_t n_gen, uint32_t n_depth)
{
    struct bench_test *test = &bench->tests[bench->n_tests];
    *test = (struct bench_test){.n_prompt = n_prompt, .n_gen = n_gen, .n_depth = n_depth};
    int n = snprintf(test->name, sizeof test->name, "%s%u", n_prompt > 0 ? "pp" : "tg",
                     n_prompt + n_gen);
    if (n_depth > 0) snprintf(test->name + n, sizeof test->name - (size_t)n, " @ d%u", n_depth);
    test->rates = block_new(bench->options->n_repeat, sizeof *test->rates);
    if (test->rates == NULL) return EXIT_BAD;
    bench->n_tests++;
    return EXIT_GOOD;
}

// Ordered by depth, so that a deeper test goes on from the filling of the one before.
static int list_tests(struct bench *bench)
{
    const struct bench_options *options = bench->options;
    size_t n_max = (size_t)options->n_depth.n * (options->n_prompt.n + options->n_gen.n);
    bench->tests = block_new(n_max, sizeof *bench->tests);
    if (bench->tests == NULL) return EXIT_BAD;
    for (uint32_t d = 0; d < options->n_depth.n; d++) {
        for (uint32_t i = 0; i < options->n_prompt.n; i++)
            if (options->n_prompt.items[i] > 0)
                SAY_TRY(add_test(bench, options->n_prompt.items[i], 0, options->n_depth.items[d]));
        for (uint32_t i = 0; i < options->n_gen.n; i++)
            if (options->n_gen.items[i] > 0)
                SAY_TRY(add_test(bench, 0, options->n_gen.items[i], options->n_depth.items[d]));
    }
    return bench->n_tests > 0 ? EXIT_GOOD
                              : say_error("nothing to measure: -p or -n must be above 0");
}

static int choose_ids(struct bench *bench)
{
    struct random random;
    random_init(&random, BENCH_SEED);
    bench->ids = block_new(bench->rig.n_ctx, sizeof *bench->ids);
    if (bench->ids == NULL) return EXIT_BAD;
    for (uint32_t i = 0; i < bench->rig.n_ctx; i++)
        bench->ids[i] = (int32_t)random_below(&random, bench->rig.info->n_vocab);
    return EXIT_GOOD;
}

// Brings the sequence to the first n of bench->ids.
static int fill(struct bench *bench, uint32_t n, uint32_t *n_filled)
{
    if (n < *n_filled) *n_filled = n;
    SAY_TRY(rig_truncate(&bench->rig, *n_filled));
    struct progress progress;
    progress_begin(&progress, "filling the context", "tokens", n - *n_filled);
    int code = rig_feed(&bench->rig, bench->ids + *n_filled, n - *n_filled, &progress);
    progress_end(&progress);
    *n_filled = n;
    return code;
}

static int run_once(struct bench *bench, const struct bench_test *test)
{
    const int32_t *ids = bench->ids + test->n_depth;
    if (test->n_prompt > 0) return rig_feed(&bench->rig, ids, test->n_prompt, NULL);
    for (uint32_t i = 0; i < test->n_gen; i++)
        SAY_TRY(rig_feed(&bench->rig, ids + i, 1, NULL));
    return EXIT_GOOD;
}

static int run_tests(struct bench *bench)
{
    uint32_t n_filled = 0;
    struct progress progress;
    progress_begin(&progress, "bench", "runs", bench->n_tests * bench->options->n_repeat);
    int code = EXIT_GOOD;
    for (size_t t = 0; t < bench->n_tests && code == EXIT_GOOD; t++) {
        struct bench_test *test = &bench->tests[t];
        SAY_CHECK(fill(bench, test->n_depth, &n_filled), out);
        // The first run warms up: page faults, clocks, caches.
        for (uint32_t r = 0; r <= bench->options->n_repeat; r++) {
            double start_ms = timer_now_ms();
            SAY_CHECK(run_once(bench, test), out);
            double ms = timer_now_ms() - start_ms;
            SAY_CHECK(rig_truncate(&bench->rig, test->n_depth), out);
            if (r == 0) continue;
            test->rates[r - 1] = (test->n_prompt + test->n_gen) * 1e3 / ms;
            progress_add(&progress, 1);
        }
        test->stats = stats_of(test->rates, bench->options->n_repeat);
        bench->n_done++;
    }
out:
    progress_end(&progress);
    return code;
}

static void print_table(const struct bench *bench)
{
    const struct fathom_model_info *info = bench->rig.info;
    char count[32];
    report_count(count, sizeof count, info->n_parameters);
    printf("| %-30s | %10s | %10s | %16s | %20s |\n", "model", "size MiB", "params", "test", "t/s");
    printf("| %.30s | %.9s: | %.9s: | %.15s: | %.19s: |\n", "------------------------------",
           "----------", "----------", "----------------", "--------------------");
    for (size_t i = 0; i < bench->n_done; i++) {
        const struct bench_test *test = &bench->tests[i];
        char rate[48];
        snprintf(rate, sizeof rate, "%.2f ± %.2f", test->stats.mean, test->stats.sd);
        // One more column, since printf counts the bytes of the sign.
        printf("| %-30s | %10.2f | %10s | %16s | %21s |\n",
               info->name[0] != '\0' ? info->name : info->architecture,
               (double)info->weight_bytes / 1048576, count, test->name, rate);
    }
    printf("\n%s, fathom %s\n", fathom_device_text(bench->rig.device), fathom_version());
}

static json_t *build_json(const struct bench *bench, const struct rig_options *model)
{
    const struct fathom_model_info *info = bench->rig.info;
    json_t *rows = json_array();
    for (size_t i = 0; i < bench->n_done; i++) {
        const struct bench_test *test = &bench->tests[i];
        json_t *samples = json_array();
        for (uint32_t r = 0; r < bench->options->n_repeat; r++)
            json_array_append_new(samples, json_real(test->rates[r]));
        json_t *row = json_pack(
            "{s:s, s:s, s:s, s:s, s:I, s:I, s:s, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:o}",
            "build_version", fathom_version(), "model_filename", model->path, "model_type",
            info->architecture, "device", fathom_device_text(bench->rig.device), "model_size",
            (json_int_t)info->weight_bytes, "model_n_params", (json_int_t)info->n_parameters,
            "test", test->name, "n_batch", (int)bench->rig.n_batch, "n_ctx", (int)bench->rig.n_ctx,
            "n_prompt", (int)test->n_prompt, "n_gen", (int)test->n_gen, "n_depth",
            (int)test->n_depth, "avg_ts", test->stats.mean, "stddev_ts", test->stats.sd,
            "median_ts", test->stats.median, "samples_ts", samples);
        json_array_append_new(rows, row);
    }
    return rows;
}

// The context: as asked for, but at least what the longest test at the deepest place takes.
static int choose_context(const struct bench_options *options, uint32_t *n_ctx)
{
    uint32_t n_prompt = largest(&options->n_prompt), n_gen = largest(&options->n_gen);
    uint64_t n_needed =
        (uint64_t)largest(&options->n_depth) + (n_prompt > n_gen ? n_prompt : n_gen);
    if (n_needed > RIG_CTX_MAX)
        return say_error("the tests need a context of %llu tokens, and one has at most %d: give "
                         "smaller -p, -n and -d",
                         (unsigned long long)n_needed, RIG_CTX_MAX);
    if (*n_ctx != 0 && n_needed > *n_ctx)
        return say_error("the tests need a context of %llu tokens: give a larger -c or none, or "
                         "smaller -p, -n and -d",
                         (unsigned long long)n_needed);
    if (*n_ctx == 0) *n_ctx = (uint32_t)n_needed;
    return EXIT_GOOD;
}

static int measure(struct bench *bench, const struct rig_options *model, bool json)
{
    SAY_TRY(rig_open(&bench->rig, model));
    SAY_TRY(choose_ids(bench));
    SAY_TRY(list_tests(bench));
    int code = run_tests(bench), printed = EXIT_GOOD;
    if (code == EXIT_INTERRUPTED)
        say_note("%zu of %zu tests are done", bench->n_done, bench->n_tests);
    if (code == EXIT_GOOD || code == EXIT_INTERRUPTED) {
        if (json)
            printed = report_print_json(build_json(bench, model));
        else if (bench->n_done > 0)
            print_table(bench);
    }
    if (printed != EXIT_GOOD) code = printed;
    return rig_report(&bench->rig, model, code);
}

int cmd_bench(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "attend") == 0) return bench_attend(argc - 1, argv + 1);
    struct bench_options options = {
        .n_prompt = {{512}, 1},
        .n_gen = {{128}, 1},
        .n_depth = {{0}, 1},
        .n_repeat = 5,
        .format = "md",
    };
    struct rig_options model = rig_defaults;
    const struct flag_group groups[] = {
        {"Bench", bench_flags, sizeof bench_flags / sizeof bench_flags[0], &options},
        rig_file_flags(&model),
        rig_device_flags(&model),
        rig_context_flags(&model),
        kv_flags(&model.kv),
    };
    const struct flag_page page = {
        .command = "bench",
        .use = "-m FILE [-p 512] [-n 128] [-d 0,4096] [-r 5] [-o md|json]",
        .about =
            "Measures prefill (pp) and decode (tg) with random tokens, at each depth, after one\n"
            "run to warm up. The table gives mean and standard deviation of tokens per second;\n"
            "JSON also gives the median and every sample. fathom bench attend --help: attention "
            "alone.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    SAY_TRY(kv_flags_check_stats(&model.kv, options.format));
    bool json = strcmp(options.format, "json") == 0;
    SAY_TRY(choose_context(&options, &model.n_ctx));
    struct bench bench = {.options = &options};
    int code = measure(&bench, &model, json);
    for (size_t i = 0; i < bench.n_tests; i++)
        block_free(bench.tests[i].rates);
    block_free(bench.tests);
    block_free(bench.ids);
    rig_close(&bench.rig);
    return code;
}
