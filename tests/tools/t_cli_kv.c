// The KV cache as a user of the command meets it: flags, statistics, `bench attend`, records. Run
// on the needle model; argv[1] is the command.

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/tools/cli.h"

// Small enough to seal and merge within a short prompt.
#define SMALL "--kv-segment 32,64 --kv-sink 4 --kv-window 32 "

static double number(const json_t *json, const char *name)
{
    const json_t *value = json_object_get(json, name);
    if (!json_is_number(value)) fail_msg("no number \"%s\"", name);
    return json_number_value(value);
}

static void t_errors(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"--kv-mode fast", "--kv-mode fast"},
        {"--kv-prefill none", "--kv-prefill none"},
        {"--kv-selector tree", "--kv-selector tree"},
        {"--kv-budget 101%", "--kv-budget 101%"},
        {"--kv-budget 0", "--kv-budget 0"},
        {"--kv-budget 0%",
         "--kv-budget 0%: must be a number of tokens above 0, or a share above 0%"},
        {"--kv-budget some", "--kv-budget some"},
        {"--kv-sink 2M", "--kv-sink 2M"},
        {"--kv-window -1", "--kv-window"},
        {"--kv-segment 1000,1500", "--kv-segment 1000,1500"},
        {"--kv-segment 8", "--kv-segment 8: must be 16 to 8192"},
        {"--kv-segment 0", "--kv-segment 0: must be 16 to 8192"},
        {"--kv-segment 64,128,256", "--kv-segment"},
        {"--kv-unit 1G", "--kv-unit 1G"},
        {"--kv-unit 129 --kv-segment 64,128", "--kv-unit 129: a unit lies in one segment"},
        {"--kv-type q3", "--kv-type q3"},
        {"--kv-index-type q4", "--kv-index-type q4"},
        {"--kv-rank-by max", "--kv-rank-by max"},
        {"--kv-positions none", "--kv-positions none"},
        {"--kv-positions collapsed --kv-mode dense",
         "fathom: --kv-positions collapsed: only sealed keys collapse: choose --kv-mode stream or"},
        {"--kv-positions collapsed --kv-mode stream --kv-sink 10000",
         "--kv-sink=10000: with collapsed positions at most --kv-window + 2 * --kv-segment = 2560"},
        {"--kv-stage2 on", "--kv-stage2 on"},
        {"--kv-candidates 0.5", "--kv-candidates 0.5"},
        {"--kv-coverage 1.5", "--kv-coverage 1.5"},
        {"--kv-coverage 0.9,sure", "--kv-coverage 0.9,sure"},
        {"--kv-threshold 1.5", "--kv-threshold 1.5"},
        {"--kv-threshold most", "--kv-threshold most"},
        {"--kv-estimate maybe", "--kv-estimate maybe"},
        {"--kv-vram lots", "--kv-vram"},
        {"--kv-ram 6GB",
         "for --kv-ram SIZE: must be a whole number below 2^64, with or without K, M, G or T"},
        {"--kv-disk 16777216T", "\"16777216T\" for --kv-disk SIZE: must be a whole number below"},
        {"--kv-disk -1", "--kv-disk"},
        {"--kv-disk-path /tmp", "--kv-disk-path /tmp"},
        {"--kv-disk-writes-per-day x", "--kv-disk-writes-per-day"},
        {"--kv-deadline -1", "--kv-deadline -1"},
        {"--kv-deadline 1 --deterministic", "--deterministic"},
        {"--kv-mode sparse --kv-deadline 1", "--kv-deadline needs --kv-estimate on,"},
        {"--kv-verify 2", "--kv-verify 2: must be from 0% to 100%, with the % sign"},
        {"--kv-dense-layers 1M", "--kv-dense-layers 1M"},
        {"--kv-dense-layers 5", "--kv-dense-layers 5: must be 0 to 4"},
        {"--kv-mode sparse --kv-vram 64K", "fathom: --kv-vram of"},
        {"--kv-mode sparse --kv-ram 64K", "fathom: --kv-ram of"},
        {"--kv-stats /nonexistent/x", "/nonexistent/x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cli cli = cli_run("run -m $M -p x -lv 0 %s >%s", cases[i][0], cli_path("ignored"));
        cli.out_bytes = 0;
        cli_expect_error(cli, cases[i][1]);
    }
    cli_expect_error(cli_run("bench attend --kv-positions collapsed --kv-mode sparse --ctx 64"),
                     "--kv-positions collapsed");
    cli_expect_error(cli_run("bench attend --ctx 64 -o json --kv-stats -"), "--kv-stats -: ");
    cli_expect_error(cli_run("bench -m $M -o json --kv-stats -"), "--kv-stats -: ");
    cli_expect_error(cli_run("eval niah -m $M -o jsonl --kv-stats -"), "--kv-stats -: ");
    cli_expect_error(cli_run("bench attend --ctx 64 --layers 2 --kv-dense-layers 3"),
                     "--kv-dense-layers 3: must be 0 to 2");
    static const char *const commands[] = {"bench", "perplexity", "eval niah", "eval logits"};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        assert_non_null(strstr(cli_run("%s --help", commands[i]).out, "--kv-mode dense|stream|"));
}

static void t_plan_and_stats(void **state)
{
    (void)state;
    struct cli cli = cli_run("run -m $M -f %s -n 8 --temp 0 --kv-mode sparse --kv-budget 50%% "
                             "--kv-verify 100%% --kv-stats %s " SMALL,
                             cli_prompt_file(), cli_path("stats"));
    cli_expect_good(cli);
    assert_non_null(strstr(cli.err, "KV cache sparse: 4 sinks, window 32, segments of 32 and 64"));
    size_t bytes;
    char *text = cli_read_file(cli_path("stats"), &bytes);
    json_t *json = cli_parse(text);
    // 8 tokens, the last of which is not fed, through 4 layers.
    const double n = number(json, "n_steps");
    assert_true(n >= 7 * 4 && fmod(n, 4) == 0);
    assert_true(number(json, "n_steps_picked") == n && number(json, "n_verified") == n);
    assert_true(number(json, "n_segments") >= 1 && number(json, "host_bytes") > 0);
    assert_in_range(100 * number(json, "picked_share"), 40, 75);
    assert_true(number(json, "verified_coverage") > 0.4);
    assert_true(number(json, "select_us_per_token_layer") > 0);
    assert_true(json_is_null(json_object_get(json, "host_hit_rate")));
    assert_non_null(json_string_value(json_object_get(json, "plan")));
    json_decref(json);
    free(text);
    // Times are of decode steps, and one token needs none but those of the prompt.
    cli = cli_run("run -m $M -f %s -n 1 --kv-mode sparse --kv-prefill sparse --kv-stats %s " SMALL,
                  cli_prompt_file(), cli_path("stats"));
    cli_expect_good(cli);
    text = cli_read_file(cli_path("stats"), &bytes);
    json = cli_parse(text);
    assert_true(number(json, "n_segments") >= 1 && number(json, "n_steps") == 0);
    assert_true(number(json, "select_s") == 0 && number(json, "attend_s") == 0);
    json_decref(json);
    free(text);
    // Behind the text it begins on a line of its own.
    cli = cli_run("run -m $M -f %s -n 4 --temp 0 --kv-stats -", cli_prompt_file());
    cli_expect_good(cli);
    assert_int_equal(strncmp(cli.out, "4821\n{\n", 7), 0);
    json_decref(cli_parse(strchr(cli.out, '{')));
    // The plan tells what was asked for.
    static const char *const asked[][2] = {
        {"--kv-threshold 0.01",
         "cluster picks 2 %, threshold 0.01, stage 2 q4; hot rows F16, up to "},
        {"--kv-threshold auto",
         "cluster picks 2 %, threshold auto, stage 2 q4; hot rows F16, up to "},
        {"--kv-positions collapsed",
         "cluster picks 2 %, stage 2 q4; positions collapsed; hot rows F16, up to "},
        {"--kv-stage2 off --kv-coverage 0.9,bound --kv-estimate on --kv-prefill sparse",
         "cluster picks 2 %, coverage 0.9 by the bound, estimate of the rest, for prompts too; "},
        {"-c 1k --kv-sink 1k --kv-ram 1G", "; sinks and window hold the whole context; "},
        {"--kv-selector flat", "flat picks 2 %; hot rows F16, up to "},
        {"--kv-ram 4G --kv-disk 1G --kv-deadline 5 --kv-estimate on",
         "; all 18 segments fit RAM\n"},
        {"--kv-ram 110M --kv-disk 1G --kv-deadline 0.5 --kv-estimate on",
         " segments fit RAM, the others: "},
        {"--kv-ram 110M --kv-disk 1G --kv-deadline 0.5 --kv-estimate on",
         " deep, at most 0.5 ms a layer\n"},
        {"-c 128K --kv-ram 110M --kv-disk 16M",
         "--kv-disk of 16.0 MiB is less than a sequence of 131072 tokens sends to disk, up to "},
    };
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        cli = cli_run("run -m $M -p x -n 1 --kv-mode sparse %s", asked[i][0]);
        cli_expect_good(cli);
        assert_non_null(strstr(cli.err, asked[i][1]));
    }
    // And what was asked for in vain; --kv-vram is not, and --kv-window 512 is the default.
    cli = cli_run("run -m $M -p x -n 1 --kv-mode dense --kv-vram 1G --kv-window 512 --kv-sink 8 "
                  "--kv-budget 5%% --kv-ram 1G --kv-segment 64 --kv-type q8");
    cli_expect_good(cli);
    assert_non_null(strstr(
        cli.err, "fathom: with these settings the KV cache (dense) makes no use of --kv-budget, "
                 "--kv-sink, --kv-segment, --kv-type, --kv-ram\n"));
    cli = cli_run("bench attend --ctx 64 --layers 1 --no-dense --kv-mode dense --kv-estimate on");
    assert_non_null(strstr(cli.err, "(dense) makes no use of --kv-estimate\n"));
    cli = cli_run("run -m $M -p x -n 1 --kv-mode stream --kv-budget 5%% --kv-stage2 off "
                  "--kv-candidates 3");
    assert_non_null(strstr(cli.err, "(stream) makes no use of --kv-budget, --kv-stage2, "
                                    "--kv-candidates\n"));
    cli = cli_run("run -m $M -p x -n 1 --kv-mode sparse --kv-budget 5%% --kv-stage2 off "
                  "--kv-candidates 3");
    assert_non_null(strstr(cli.err, "(sparse) makes no use of --kv-candidates\n"));
    cli = cli_run("run -m $M -p x -n 1 --kv-mode sparse --kv-selector flat --kv-unit 4 "
                  "--kv-index-type f16 --kv-rank-by mean --kv-stage2 q8 --kv-estimate on "
                  "--kv-disk 1G --kv-deadline 5");
    assert_non_null(strstr(cli.err, "(sparse) makes no use of --kv-unit, --kv-index-type, "
                                    "--kv-rank-by, --kv-stage2, --kv-disk, --kv-deadline\n"));
    // Steps of a batch pick nothing.
    static const char scored[] =
        "perplexity -m $M -f %s -c 64 --kv-mode sparse " SMALL "--kv-window 8 %s";
    cli = cli_run(scored, cli_prompt_file(), "");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.err, "steps of more than one token read all rows here"));
    cli = cli_run(scored, cli_prompt_file(), "-b 1");
    assert_null(strstr(cli.err, "read all rows here"));
    cli = cli_run(scored, cli_prompt_file(), "--kv-prefill sparse");
    assert_null(strstr(cli.err, "read all rows here"));
    // What was compared is told without statistics too.
    cli = cli_run("run -m $M -f %s -n 4 --temp 0 --kv-mode sparse --kv-verify 100%% " SMALL,
                  cli_prompt_file());
    cli_expect_good(cli);
    assert_non_null(strstr(cli.err, "KV cache: of 12 steps of a layer that were compared"));
    // Nothing is said of a cache that nobody asked about.
    cli = cli_run("run -m $M -f %s -n 2", cli_prompt_file());
    cli_expect_good(cli);
    assert_null(strstr(cli.err, "KV cache"));
}

// What an error asks for is enough, and less is not.
static void t_sizes_asked_for(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"needed, in ", "--kv-mode sparse --kv-vram"},
        {"needed, in ", "--kv-mode dense --kv-vram"},
        {" KiB: ", "--kv-mode sparse --kv-ram"},
        {" KiB: ", "--kv-mode sparse --kv-disk 1G --kv-ram"},
        {" KiB: ", "--kv-mode sparse --kv-selector flat --kv-disk 1G --kv-ram"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct cli cli = cli_run("run -m $M -p x -n 1 -lv 0 %s 1K", cases[i][1]);
        const char *needed = strstr(cli.err, cases[i][0]);
        cli_expect_error(cli, " MiB");
        assert_non_null(needed);
        const unsigned long n = strtoul(needed + strlen(cases[i][0]), NULL, 10);
        print_message("%s %luM\n", cases[i][1], n);
        assert_true(n > 1);
        cli_expect_good(cli_run("run -m $M -p x -n 1 -lv 0 %s %luM", cases[i][1], n));
        cli_expect_error(cli_run("run -m $M -p x -n 1 -lv 0 %s %luM", cases[i][1], n - 1), "MiB");
    }
}

static void t_exact_modes(void **state)
{
    (void)state;
    struct cli cli = cli_run("run -m $M -f %s -n 16 --temp 0 --kv-mode dense", cli_prompt_file());
    cli_expect_good(cli);
    char *dense = strdup(cli.out);
    static const char *const modes[] = {"stream", "sparse --kv-budget 100%"};
    for (size_t i = 0; i < 2; i++) {
        cli = cli_run("run -m $M -f %s -n 16 --temp 0 " SMALL "--kv-mode %s", cli_prompt_file(),
                      modes[i]);
        cli_expect_good(cli);
        assert_string_equal(cli.out, dense);
    }
    free(dense);
}

static void t_bench_attend(void **state)
{
    (void)state;
    struct cli cli = cli_run("bench attend --shape qwen3-0.6b --layers 1 --ctx 600 -n 4 -s 3 "
                             "--kv-segment 64,256 --kv-window 64 --kv-budget 10%% -o json");
    cli_expect_good(cli);
    json_t *json = cli_parse(cli.out);
    static const char *const positive[] = {"us_per_token_layer",      "dense_us_per_token_layer",
                                           "seal_us_per_token_layer", "prefill_us_per_token_layer",
                                           "memory_read_gbs",         "memory_gather_gbs",
                                           "read_fraction",           "dense_read_fraction",
                                           "output_error_mean",       "read_bytes_per_token_layer",
                                           "peak_rss_bytes",          "speedup"};
    for (size_t i = 0; i < sizeof positive / sizeof positive[0]; i++)
        assert_true(number(json, positive[i]) > 0);
    assert_true(number(json, "us_per_token_layer_p10") <= number(json, "us_per_token_layer"));
    assert_true(number(json, "us_per_token_layer_p90") >= number(json, "us_per_token_layer"));
    assert_true(number(json, "dense_bytes_per_token_layer") == 600.0 * 8 * 128 * 2 * 2);
    assert_true(number(json, "output_error_mean") <= number(json, "output_error_max"));
    // Of the cache, not of the buffer by which the memory was measured.
    if (access("/proc/self/clear_refs", W_OK) == 0)
        assert_true(number(json, "peak_rss_bytes") < 512 << 20);
    const json_t *stats = json_object_get(json, "kv_stats");
    assert_true(number(stats, "n_steps") == 4 && number(stats, "scanned_keys") > 0);
    assert_true(number(json, "coverage_steps") == 0);
    json_decref(json);
    // All rows: the dense outputs, but for the order of sums.
    cli = cli_run("bench attend --layers 1 --ctx 600 -n 4 --kv-mode stream --kv-segment 64,256 "
                  "--kv-window 64 -o json");
    cli_expect_good(cli);
    json = cli_parse(cli.out);
    assert_true(number(json, "output_error_max") < 1e-4);
    assert_true(
        json_is_null(json_object_get(json_object_get(json, "kv_stats"), "coverage_estimate")));
    json_decref(json);
    cli = cli_run("bench attend --layers 1 --ctx 600 -n 8 --no-dense --kv-mode stream " SMALL);
    assert_non_null(strstr(cli.out, "| hot rows "));
    assert_null(strstr(cli.out, "coverage"));
    cli = cli_run("bench attend --layers 1 --ctx 600 -n 8 --kv-verify 100%% " SMALL);
    assert_non_null(strstr(cli.out, "unknown: --kv-verify takes time |"));
    assert_non_null(strstr(cli.out, "| error / dense output, by query head "));
    assert_non_null(strstr(cli.out, "| coverage, estimate "));
    assert_non_null(strstr(cli.out, "| scores of the search, by sealed key "));
    cli = cli_run("bench attend --layers 1 --ctx 100 -n 2 --no-dense");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "| llama-3.2-1b "));
    assert_null(strstr(cli.out, "faster than dense"));
    cli_expect_error(cli_run("bench attend --shape gpt-9"), "--shape gpt-9");
    cli_expect_error(cli_run("bench attend --ctx 128M --kv-type q4"),
                     "16 layers of 134217728 tokens take 1114112 MiB of RAM");
    cli_expect_error(cli_run("bench attend --record /nonexistent"),
                     "fathom: --record: unable to open /nonexistent/index.json: No such file");
    cli_expect_error(cli_run("bench attend --record x --ctx 5"), "--ctx");
}

static void t_record(void **state)
{
    (void)state;
    char folder[512];
    snprintf(folder, sizeof folder, "%s", cli_path("record"));
    cli_expect_good(cli_run("run -m $M -f %s -n 12 --temp 0 --ignore-eos --kv-record %s "
                            "--kv-record-layers 3,1 --kv-record-steps 5,2",
                            cli_prompt_file(), folder));
    char path[4096];
    size_t bytes;
    snprintf(path, sizeof path, "%s/index.json", folder);
    char *text = cli_read_file(path, &bytes);
    json_t *json = cli_parse(text);
    const json_t *steps = json_object_get(json, "steps");
    const size_t n_prompt = strlen(cli_needle_text) + 1; // BOS
    assert_int_equal(json_array_size(steps), 5);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(json_integer_value(json_array_get(steps, i)), n_prompt + 2 + i);
    assert_true(number(json, "n_tokens") == (double)(n_prompt + 7));
    snprintf(path, sizeof path, "%s/layer-3.q.f16", folder);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, 5 * number(json, "n_heads") * number(json, "d_k") * 2);
    json_decref(json);
    free(text);
    // Replayed: the tiers, reading everything, against dense attention over the same rows.
    json = cli_parse(
        cli_run("bench attend --record %s --kv-budget 100%% " SMALL "-o json", folder).out);
    assert_true(number(json, "n_layers") == 2 && number(json, "n_steps") == 5);
    assert_true(number(json, "n_ctx") == (double)(n_prompt + 2));
    assert_true(number(json, "output_error_max") < 1e-4);
    json_decref(json);
    // Medians over steps and layers; of one step the mean is the median.
    json = cli_parse(
        cli_run("bench attend --record %s --kv-budget 20%% --kv-verify 100%% --no-dense " SMALL
                "-o json",
                folder)
            .out);
    assert_true(number(json, "coverage_steps") == 2 * 5);
    assert_true(number(json, "coverage_bound_above") == 0);
    assert_in_range(1000 * number(json, "coverage_median"), 1, 1001);
    json_decref(json);
    json = cli_parse(
        cli_run("bench attend --layers 1 --ctx 600 -n 1 --kv-budget 10%% --kv-verify 100%% "
                "--no-dense " SMALL "-o json")
            .out);
    const json_t *stats = json_object_get(json, "kv_stats");
    assert_true(number(json, "coverage_median") == number(stats, "verified_coverage"));
    assert_true(number(json, "coverage_bound_median") == number(stats, "coverage_bound"));
    const double off = number(stats, "coverage_estimate") - number(stats, "verified_coverage");
    assert_true(fabs(number(json, "coverage_estimate_error_median") - fabs(off)) < 1e-6);
    json_decref(json);
    // A run that fails after all leaves the record.
    struct cli failed = cli_run("run -m $M -f %s -n 3 --temp 0 --kv-record %s --kv-stats /dev/full",
                                cli_prompt_file(), folder);
    assert_int_equal(failed.code, 1);
    assert_non_null(strstr(failed.err, "/dev/full"));
    json = cli_parse(cli_run("bench attend --record %s --no-dense -o json", folder).out);
    assert_true(number(json, "n_layers") == 2 && number(json, "n_steps") == 5);
    json_decref(json);
    snprintf(path, sizeof path, "%s/layer-0.k.f16.part", folder);
    assert_int_not_equal(stat(path, &info), 0);
    // Known before the prompt is read: 8 tokens, of which 7 are fed.
    cli_expect_error(
        cli_run("run -m $M -p x -n 8 -lv 0 --kv-record %s --kv-record-steps 1,7", folder),
        "--kv-record-steps 1,7: the run feeds at most 7 tokens");
    // No folder is left by a run that had nothing to put there.
    snprintf(path, sizeof path, "%s", cli_path("unmade"));
    cli_expect_error(cli_run("run -m $M -p x -lv 0 --kv-record %s --kv-record-layers 9", path),
                     "--kv-record-layers 9");
    assert_int_not_equal(stat(path, &info), 0);
    // A folder that is another's.
    char other[512];
    snprintf(other, sizeof other, "%s", cli_path(""));
    cli_write_file(cli_path("index.json"), "{\"format\": 1}", 13);
    cli_expect_error(cli_run("run -m /nonexistent -p x --kv-record %s", other),
                     "its index.json is no record's, and would be replaced: name another folder");
    // A file that lacks its end.
    snprintf(path, sizeof path, "%s/layer-1.v.f16", folder);
    cli_write_file(path, "xx", 2);
    cli_expect_error(cli_run("bench attend --record %s", folder), "too short");
    cli_expect_error(cli_run("run -m $M -p x --kv-record %s --kv-record-layers 9 -lv 0", folder),
                     "--kv-record-layers 9");
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_errors),          cmocka_unit_test(t_plan_and_stats),
        cmocka_unit_test(t_sizes_asked_for), cmocka_unit_test(t_exact_modes),
        cmocka_unit_test(t_bench_attend),    cmocka_unit_test(t_record),
    };
    int code = check_run("cli_kv", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
