// The tasks of `fathom eval` and the KV cache: what picking costs, and what it must not depend on.
// Run on the needle model; argv[1] is the command.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tests/tools/cli.h"

// Merged segments within short texts, and budgets that are felt.
#define SPARSE "--kv-mode sparse --kv-segment 256,1024 --kv-window 128 --kv-verify 100%% "

// Each length has its own figures, and those of the last are not those of the whole run.
static void t_kv_and_divergence(void **state)
{
    (void)state;
    json_t *all = NULL, *rows[2];
    rows[0] =
        cli_json(cli_run("eval niah -m $M --needles 8 --questions 4 -o json --kl-dense " SPARSE
                         "--lengths 2k,3k --kv-budget 1 --kv-stage2 off --kv-stats %s",
                         cli_path("stats")));
    size_t bytes;
    char *text = cli_read_file(cli_path("stats"), &bytes);
    all = cli_parse(text);
    free(text);
    rows[1] =
        cli_json(cli_run("eval niah -m $M --needles 8 --questions 4 -o json --kl-dense " SPARSE
                         "--lengths 3k --kv-budget 100%%"));
    const json_t *few[] = {json_array_get(rows[0], 0), json_array_get(rows[0], 1)};
    const json_t *kv[] = {json_object_get(few[0], "kv"), json_object_get(few[1], "kv")};
    static const char *const counts[] = {"n_steps",      "n_steps_picked", "picked_keys",
                                         "scanned_keys", "n_verified",     "n_covered"};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        assert_int_equal(cli_integer(kv[0], counts[i]) + cli_integer(kv[1], counts[i]),
                         cli_integer(all, counts[i]));
    static const char *const means[] = {"verified_coverage", "verified_error", "coverage_bound",
                                        "coverage_estimate"};
    for (size_t i = 0; i < sizeof means / sizeof means[0]; i++) {
        const double n[] = {(double)cli_integer(kv[0], "n_verified"),
                            (double)cli_integer(kv[1], "n_verified")};
        const double mean =
            (n[0] * cli_real(kv[0], means[i]) + n[1] * cli_real(kv[1], means[i])) / (n[0] + n[1]);
        assert_true(mean > cli_real(all, means[i]) - 1e-6 && mean < cli_real(all, means[i]) + 1e-6);
        assert_true(cli_real(kv[0], means[i]) != cli_real(kv[1], means[i]));
    }
    assert_true(cli_real(kv[1], "picked_share") < 0.01);
    assert_true(cli_real(few[0], "prefill_ms_per_token") > 0);
    // Six characters an answer, with the newline after it.
    assert_int_equal(cli_integer(few[1], "kld_tokens"), 4 * 7);
    assert_true(cli_real(few[1], "kld") > 1e-5);
    const json_t *exact = json_array_get(rows[1], 0);
    assert_true(cli_real(exact, "kld") < 1e-6 && cli_real(exact, "kld") > -1e-6);
    json_decref(rows[0]);
    json_decref(rows[1]);
    json_decref(all);
    json_t *dense = cli_json(cli_run("eval niah -m $M --lengths 1k --needles 8 --questions 1 "
                                     "-o json"));
    assert_true(json_is_null(json_object_get(json_array_get(dense, 0), "kv")));
    assert_true(json_is_null(json_object_get(json_array_get(dense, 0), "kld")));
    json_decref(dense);
    assert_non_null(strstr(cli_run("eval niah -m $M --lengths 2k --needles 8 --questions 1 "
                                   "--kl-dense " SPARSE)
                               .out,
                           "      KLD |\n"));
}

// The second time as if the cache were dense; the first time a token is not enough.
static void t_dense_too(void **state)
{
    (void)state;
    const char *task = "eval niah -m $M --lengths 3k --needles 16 --questions 4";
    json_t *rows =
        cli_json(cli_run("%s -o json --dense-too --kv-budget 1 --kv-stage2 off " SPARSE, task));
    json_t *alone = cli_json(cli_run("%s -o json", task));
    const json_t *picked = json_array_get(rows, 0), *dense = json_object_get(picked, "dense");
    assert_true(cli_integer(picked, "exact") < 4);
    assert_int_equal(cli_integer(dense, "exact"), 4);
    assert_int_equal(cli_integer(json_array_get(alone, 0), "exact"), 4);
    assert_int_equal(cli_integer(dense, "prefill_tokens"), cli_integer(picked, "prefill_tokens"));
    const double kib = cli_real(picked, "read_kib_per_token_layer");
    const double all_kib = cli_real(dense, "read_kib_per_token_layer"); // 256 bytes a token
    assert_true(all_kib > 3000 / 4.0 * 0.95 && all_kib < 3 * 1024 / 4.0);
    assert_true(kib > 0 && kib < all_kib / 2);
    json_decref(rows);
    json_decref(alone);
}

static size_t count_texts(const char *in, const char *text)
{
    size_t n = 0;
    while ((in = strstr(in, text)) != NULL) {
        in += strlen(text);
        n++;
    }
    return n;
}

// Everything is asked twice, and marked; JSON has no place for that.
static void t_print(void **state)
{
    (void)state;
    const char *task = "eval niah -m $M --lengths 2k --needles 8 --questions 3 --print --dense-too";
    struct cli cli = cli_run("%s " SPARSE, task);
    cli_expect_good(cli);
    assert_int_equal(count_texts(cli.out, "Question: What is the secret number of "), 6);
    assert_int_equal(count_texts(cli.out, "(right)") + count_texts(cli.out, "(wrong: "), 6);
    assert_int_equal(count_texts(cli.out, "\nAgain, with all rows read.\n"), 1);
    assert_int_equal(count_texts(cli.out, "| picked |\n") + count_texts(cli.out, "| all    |\n"),
                     2);
    assert_int_equal(count_texts(cli.out, "\nKV cache: "), 1);
    cli = cli_run("%s -o json " SPARSE, task);
    assert_int_equal(cli.code, 1);
    assert_non_null(strstr(cli.err, "--print: "));
    cli = cli_run("%s --kv-mode dense", task);
    assert_int_equal(cli.code, 1);
    assert_non_null(strstr(cli.err, "--dense-too compares"));
}

// Lines of questions, which hold answers and divergences to 9 digits. To be freed.
static char *ask_sparse(const char *flags)
{
    struct cli cli = cli_run("eval niah -m $M --lengths 4k --needles 16 --questions 4 -o jsonl "
                             "--kl-dense --kv-budget 24 --kv-stats %s " SPARSE "%s",
                             cli_path("stats"), flags);
    cli_expect_good(cli);
    return strdup(cli.out);
}

// Lines with the same answers, and divergences that differ by rounding at most.
static void check_alike(const char *a, const char *b)
{
    size_t n = 0;
    for (; *a != '\0' && *b != '\0'; n++, a = strchr(a, '\n') + 1, b = strchr(b, '\n') + 1) {
        json_t *rows[] = {json_loads(a, JSON_DISABLE_EOF_CHECK, NULL),
                          json_loads(b, JSON_DISABLE_EOF_CHECK, NULL)};
        assert_string_equal(cli_text(rows[0], "got"), cli_text(rows[1], "got"));
        const double kld[] = {cli_real(rows[0], "kld"), cli_real(rows[1], "kld")};
        assert_true(fabs(kld[0] - kld[1]) < 1e-3 * kld[0] + 1e-7);
        json_decref(rows[0]);
        json_decref(rows[1]);
    }
    assert_int_equal(n, 4);
    assert_string_equal(a, b);
}

// To the bit on any number of threads; with rows on disk the answers are the same.
static void t_threads_and_tiers(void **state)
{
    (void)state;
    static const struct {
        const char *flags, *ram; // what holds a part of the segments
    } cases[] = {
        {"", "13M"},
        // Whose units depend on the queries before them, and steps that pay for a head at a time.
        {"--kv-selector block -b 64", "10M"},
        {"--kv-estimate on --kv-threshold auto --kv-prefill sparse", "15M"},
    };
    for (size_t i = 0; i < (check_few() ? 1 : sizeof cases / sizeof cases[0]); i++) {
        char flags[256];
        snprintf(flags, sizeof flags, "-t 1 %s", cases[i].flags);
        char *one = ask_sparse(flags);
        snprintf(flags, sizeof flags, "-t 2 %s", cases[i].flags);
        char *two = ask_sparse(flags);
        assert_string_equal(two, one);
        free(two);
        snprintf(flags, sizeof flags, "-t 2 --kv-ram %s --kv-disk 64M %s", cases[i].ram,
                 cases[i].flags);
        char *disk = ask_sparse(flags);
        check_alike(one, disk);
        size_t bytes;
        char *text = cli_read_file(cli_path("stats"), &bytes);
        json_t *stats = cli_parse(text);
        assert_true(cli_integer(stats, "disk_reads") > 0);
        json_decref(stats);
        free(text);
        free(disk);
        free(one);
    }
}

// Each head's figures, of each length alone; all heads together are what the cache tells.
static void t_recall(void **state)
{
    (void)state;
    enum { N_HEADS = 4 * 2 };
    json_t *rows = cli_json(cli_run("eval recall -m $M --lengths 2k,3k --needles 8 --questions 4 "
                                    "--kv-segment 256,1024 --kv-window 128 -o json"));
    for (size_t i = 0; i < 2; i++) {
        const json_t *row = json_array_get(rows, i), *kv = json_object_get(row, "kv");
        const json_t *heads = json_object_get(row, "heads");
        double coverage = 0, error = 0, bound = 0;
        json_int_t picked = 0;
        assert_int_equal(json_array_size(heads), N_HEADS);
        for (size_t j = 0; j < N_HEADS; j++) {
            const json_t *head = json_array_get(heads, j);
            assert_int_equal(cli_integer(head, "layer"), j / 2);
            assert_int_equal(cli_integer(head, "kv_head"), j % 2);
            // Four tokens are fed of each answer, and every one is compared.
            assert_int_equal(cli_integer(head, "n_verified"), 16);
            const double of_head = cli_real(head, "verified_coverage");
            assert_true(cli_real(head, "coverage_bound") <= of_head + 1e-5 && of_head < 1 + 1e-5);
            coverage += of_head / N_HEADS;
            error += cli_real(head, "verified_error") / N_HEADS;
            bound += cli_real(head, "coverage_bound") / N_HEADS;
            picked += cli_integer(head, "picked_keys");
        }
        assert_true(fabs(coverage - cli_real(kv, "verified_coverage")) < 1e-6);
        assert_true(fabs(error - cli_real(kv, "verified_error")) < 1e-6);
        assert_true(fabs(bound - cli_real(kv, "coverage_bound")) < 1e-6);
        assert_int_equal(picked, cli_integer(kv, "picked_keys"));
        // This model's last layer attends more widely than its first.
        assert_true(cli_real(json_array_get(heads, 0), "verified_coverage") > 0.999);
        assert_true(cli_real(json_array_get(heads, 6), "verified_coverage") < 0.995);
    }
    json_decref(rows);
}

static void t_recall_forms(void **state)
{
    (void)state;
#define RECALL "eval recall -m $M --lengths 2k --needles 8 --questions 2 --kv-segment 256,1024 "
    struct cli cli = cli_run(RECALL "--kv-window 128 --kv-dense-layers 1 -o jsonl");
    cli_expect_good(cli);
    size_t n = 0;
    for (const char *at = cli.out; *at != '\0'; at = strchr(at, '\n') + 1, n++) {
        json_t *line = json_loads(at, JSON_DISABLE_EOF_CHECK, NULL);
        assert_string_equal(cli_text(line, "task"), "recall");
        assert_int_equal(cli_integer(line, "layer"), n / 2);
        assert_int_equal(cli_integer(line, "n_verified") > 0, n >= 2);
        assert_int_equal(json_is_null(json_object_get(line, "verified_error")), n < 2);
        json_decref(line);
    }
    assert_int_equal(n, 8);
    cli = cli_run(RECALL "--kv-window 128 --kv-dense-layers 1");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "| layer | KV head |"));
    assert_non_null(strstr(cli.out, "|     2048 |     0 |       1 |       0 |        - |"));
    assert_non_null(strstr(cli.out, "|     2048 |   all |     all |      48 |"));
    cli = cli_run("eval recall -m $M --lengths 1k --needles 8 --questions 1");
    assert_int_equal(cli.code, 1);
    assert_int_equal(cli.out_bytes, 0);
    assert_non_null(strstr(cli.err, "at 1024 tokens nothing is sealed"));
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_kv_and_divergence),
        cmocka_unit_test(t_dense_too),
        cmocka_unit_test(t_print),
        cmocka_unit_test(t_recall),
        cmocka_unit_test(t_recall_forms),
        cmocka_unit_test(t_threads_and_tiers),
    };
    int code = check_run("cli_eval_kv", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
