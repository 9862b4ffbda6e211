// The commands that measure: eval logits, perplexity, bench, inspect. Run on the needle model;
// numbers are checked against others computed here. argv[1] is the command.

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/tools/cli.h"

enum { N_VOCAB = 258, BOS = 256 };

static float *read_logits(const char *path, size_t n_rows)
{
    size_t bytes;
    char *data = cli_read_file(path, &bytes);
    assert_int_equal(bytes, n_rows * N_VOCAB * sizeof(float));
    return (float *)(void *)data;
}

static int top_of(const float *row)
{
    int top = 0;
    for (int i = 1; i < N_VOCAB; i++)
        if (row[i] > row[top]) top = i;
    return top;
}

static void t_eval_logits(void **state)
{
    (void)state;
    const char *ids = cli_ids_file();
    FILE *file = fopen(ids, "a");
    assert_non_null(file);
    fprintf(file, "\n52 56 50 49\n"); // "4821"
    fclose(file);
    size_t n = strlen(cli_needle_text) + 5; // BOS, the text, four digits
    const char *path = cli_path("logits");
    cli_expect_good(cli_run("eval logits -m $M --ids %s --out %s -b 50", ids, path));
    float *logits = read_logits(path, n);
    for (int i = 0; i < 5; i++)
        assert_int_equal(top_of(logits + (n - 5 + (size_t)i) * N_VOCAB), "48213"[i]);
    // The same on standard output.
    struct cli cli = cli_run("eval logits -m $M --ids %s --out - -b 50", ids);
    cli_expect_good(cli);
    assert_int_equal(cli.out_bytes, n * N_VOCAB * sizeof(float));
    assert_memory_equal(cli.out, logits, cli.out_bytes);
    free(logits);
    cli_expect_error(cli_run("eval logits -m $M --ids %s --out - --kv-stats -", ids),
                     "standard output has the logits");
    // Its own default, f32, does not stand in the way.
    cli_expect_good(cli_run("eval logits -m $M --ids %s --out %s --kv-type bf16", cli_ids_file(),
                            cli_path("logits")));
    cli_expect_good(cli_run("eval logits -m $M --ids %s --out %s --kv-type bf16 -ctk bf16",
                            cli_ids_file(), cli_path("logits")));
}

enum { N_CTX = 64, N_CHUNKS = 2, FIRST = N_CTX / 2 }; // rows FIRST to N_CTX - 2 are scored

// Ids of a chunk of the needle text as `fathom perplexity` cuts it: BOS takes the first place.
static void chunk_ids(int chunk, bool bos, int ids[N_CTX])
{
    for (int i = 0; i < N_CTX; i++)
        ids[i] = bos && i == 0 ? BOS : (unsigned char)cli_needle_text[chunk * N_CTX + i - bos];
}

// ln p [N_CTX, N_VOCAB] of a chunk, through eval logits with more flags. To be freed.
static double *chunk_log_p(int chunk, bool bos, const char *more)
{
    int ids[N_CTX];
    chunk_ids(chunk, bos, ids);
    FILE *file = fopen(cli_path("chunk.ids"), "w");
    assert_non_null(file);
    for (int i = 0; i < N_CTX; i++)
        fprintf(file, "%d ", ids[i]);
    fclose(file);
    cli_expect_good(cli_run("eval logits -m $M --ids %s --out %s %s", cli_path("chunk.ids"),
                            cli_path("chunk"), more));
    float *logits = read_logits(cli_path("chunk"), N_CTX);
    double *log_p = malloc(N_CTX * N_VOCAB * sizeof *log_p);
    assert_non_null(log_p);
    for (int i = 0; i < N_CTX; i++) {
        double sum = 0;
        for (int j = 0; j < N_VOCAB; j++)
            sum += exp((double)logits[i * N_VOCAB + j]);
        for (int j = 0; j < N_VOCAB; j++)
            log_p[i * N_VOCAB + j] = (double)logits[i * N_VOCAB + j] - log(sum);
    }
    free(logits);
    return log_p;
}

// The number behind a label of the output.
static double number_after(const char *out, const char *label)
{
    const char *at = strstr(out, label);
    if (at == NULL) fail_msg("no \"%s\" in: %s", label, out);
    return strtod(at + strlen(label), NULL);
}

static void expect_near(double found, double wanted, double tolerance)
{
    if (!(fabs(found - wanted) <= tolerance))
        fail_msg("%.6f is not %.6f to %.6f", found, wanted, tolerance);
}

static void check_perplexity(bool bos)
{
    double loss = 0;
    for (int chunk = 0; chunk < N_CHUNKS; chunk++) {
        int ids[N_CTX];
        chunk_ids(chunk, bos, ids);
        double *log_p = chunk_log_p(chunk, bos, "");
        for (int i = FIRST; i + 1 < N_CTX; i++)
            loss -= log_p[i * N_VOCAB + ids[i + 1]];
        free(log_p);
    }
    double wanted = exp(loss / (N_CHUNKS * (N_CTX - 1 - FIRST)));
    struct cli cli = cli_run("perplexity -m $M -f %s -c %d --chunks %d -ctk f32 -ctv f32 -b 20 %s",
                             cli_prompt_file(), N_CTX, N_CHUNKS, bos ? "" : "--no-bos");
    cli_expect_good(cli);
    print_message("%s", cli.out);
    expect_near(number_after(cli.out, "Final estimate: PPL = "), wanted, 1e-3);
    expect_near(number_after(cli.out, ",[2]"), wanted, 1e-3);
}

static void t_perplexity(void **state)
{
    (void)state;
    check_perplexity(true);
    check_perplexity(false);
}

static void t_kl_divergence(void **state)
{
    (void)state;
    // The model against itself with another RoPE base.
    static const char other[] = "--rope-freq-base 1e8";
    double kld = 0;
    int n_same_top = 0;
    for (int chunk = 0; chunk < N_CHUNKS; chunk++) {
        double *base = chunk_log_p(chunk, true, "");
        double *test = chunk_log_p(chunk, true, other);
        for (int i = FIRST; i + 1 < N_CTX; i++) {
            int top_base = 0, top_test = 0;
            for (int j = 0; j < N_VOCAB; j++) {
                double p = base[i * N_VOCAB + j], q = test[i * N_VOCAB + j];
                kld += exp(p) * (p - q);
                if (p > base[i * N_VOCAB + top_base]) top_base = j;
                if (q > test[i * N_VOCAB + top_test]) top_test = j;
            }
            n_same_top += top_base == top_test;
        }
        free(base);
        free(test);
    }
    double n = N_CHUNKS * (N_CTX - 1 - FIRST);
    cli_expect_good(cli_run("perplexity -m $M -f %s -c %d --chunks %d -ctk f32 -ctv f32 "
                            "--kl-divergence-base %s",
                            cli_prompt_file(), N_CTX, N_CHUNKS, cli_path("base")));
    struct cli cli = cli_run("perplexity -m $M -ctk f32 -ctv f32 --kl-divergence "
                             "--kl-divergence-base %s %s",
                             cli_path("base"), other);
    cli_expect_good(cli);
    // The file keeps ln p in steps of 16/65535 and nothing below e^-16 of the likeliest token.
    const double tolerance = 16.0 / 65535 + N_VOCAB * exp(-16);
    print_message("KL divergence %.6f, same top %d of %.0f\n", kld / n, n_same_top, n);
    expect_near(number_after(cli.out, "Mean    KLD:"), kld / n, tolerance);
    expect_near(number_after(cli.out, "Same top p:"), 100 * n_same_top / n, 1e-2);
    cli = cli_run("perplexity -m $M -ctk f32 -ctv f32 --kl-divergence --kl-divergence-base %s",
                  cli_path("base"));
    expect_near(number_after(cli.out, "Mean    KLD:"), 0, tolerance);
    expect_near(number_after(cli.out, "Same top p:"), 100, 0);
}

static void t_bench(void **state)
{
    (void)state;
    static const char *const names[] = {"pp16", "tg4", "pp16 @ d64", "tg4 @ d64"};
    json_t *rows = cli_json(cli_run("bench -m $M -p 16 -n 4 -d 0,64 -r 3 -o json"));
    assert_int_equal(json_array_size(rows), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *row = json_array_get(rows, i);
        assert_string_equal(json_string_value(json_object_get(row, "test")), names[i]);
        assert_true(json_real_value(json_object_get(row, "avg_ts")) > 0);
        assert_true(json_real_value(json_object_get(row, "median_ts")) > 0);
        assert_int_equal(json_array_size(json_object_get(row, "samples_ts")), 3);
        // What the deepest and longest test takes; a batch holds no more.
        assert_int_equal(json_integer_value(json_object_get(row, "n_ctx")), 80);
        assert_int_equal(json_integer_value(json_object_get(row, "n_batch")), 80);
    }
    json_decref(rows);
    struct cli cli = cli_run("bench -m $M -p 16 -n 0 -r 1");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "pp16 |"));
    assert_null(strstr(cli.out, "tg"));
}

// Rows of the JSON of a bench of two tests, the second of which takes long, that is interrupted
// after so many seconds.
static size_t rows_of_interrupted(unsigned seconds)
{
    char *argv[] = {"fathom", "bench", "-m", cli_model(), "-p", "1",    "-n", "0",
                    "-d",     "0,64k", "-r", "1",         "-o", "json", NULL};
    char text[4096];
    size_t n = 0;
    ssize_t got;
    int fd, status;
    const int pid = cli_start(argv, &fd);
    sleep(seconds);
    assert_int_equal(kill(pid, SIGINT), 0);
    while ((got = read(fd, text + n, sizeof text - 1 - n)) > 0)
        n += (size_t)got;
    close(fd);
    text[n] = '\0';
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 0) check_skip("the second test ended before the interrupt");
    assert_int_equal(WEXITSTATUS(status), 128 + SIGINT);
    if (n == 0) return 0; // it was still loading
    json_t *rows = cli_parse(text);
    const size_t n_rows = json_array_size(rows);
    json_decref(rows);
    return n_rows;
}

// The tests that were done are told all the same.
static void t_bench_interrupted(void **state)
{
    size_t n_rows = 0;
    (void)state;
    for (unsigned seconds = 1; n_rows == 0 && seconds <= 16; seconds *= 2)
        n_rows = rows_of_interrupted(seconds);
    assert_int_equal(n_rows, 1);
}

// The kernels that ran, from the name of the device, with flags. To be freed.
static char *kernels_with(const char *flags)
{
    json_t *rows = cli_json(cli_run("bench -m $M -p 4 -n 0 -r 1 -o json %s", flags));
    const char *device = json_string_value(json_object_get(json_array_get(rows, 0), "device"));
    char *kernels = strdup(strrchr(device, ',') + 2);
    json_decref(rows);
    return kernels;
}

static void t_isa(void **state)
{
    (void)state;
    char *best = kernels_with("");
    // bf16 and amx bring all that there is, and avx2 lies below all but plain C.
    const char *const cases[][2] = {
        {"--isa none", "ref"},
        {"--isa bf16,amx", best},
        {"--isa avx2", strcmp(best, "ref") == 0 ? "ref" : "avx2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *kernels = kernels_with(cases[i][0]);
        assert_string_equal(kernels, cases[i][1]);
        free(kernels);
    }
    free(best);
}

static void t_inspect(void **state)
{
    (void)state;
    json_t *json = cli_json(cli_run("inspect $M --tensors --metadata -o json"));
    const json_t *info = json_object_get(json, "model");
    assert_string_equal(json_string_value(json_object_get(json, "architecture")), "llama");
    assert_int_equal(json_integer_value(json_object_get(info, "layers")), 4);
    assert_int_equal(json_integer_value(json_object_get(info, "parameters")), 755328);
    assert_int_equal(json_integer_value(json_object_get(info, "kv_bytes_per_token")), 1024);
    assert_int_equal(json_array_size(json_object_get(json, "tensor_list")), 39);
    assert_int_equal(json_array_size(json_object_get(json, "metadata")), 25);
    json_decref(json);
    struct cli cli = cli_run("inspect -m $M --metadata --tensors");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "architecture         llama"));
    assert_non_null(strstr(cli.out, "  type                                      tensors   bytes\n"
                                    "  F32                                       9         4608"));
    assert_non_null(strstr(cli.out, "258 items: 1, 1, 1"));
    assert_non_null(strstr(cli.out, "128, 258"));
    assert_null(strchr(cli.out, '{'));
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_eval_logits),       cmocka_unit_test(t_perplexity),
        cmocka_unit_test(t_kl_divergence),     cmocka_unit_test(t_bench),
        cmocka_unit_test(t_bench_interrupted), cmocka_unit_test(t_isa),
        cmocka_unit_test(t_inspect),
    };
    int code = check_run("cli_measure", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
