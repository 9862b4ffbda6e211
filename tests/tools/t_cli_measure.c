// The commands that measure: eval, perplexity, bench, inspect. Run on the needle model; numbers are
// checked against others computed here. argv[1] is the command.

#include <jansson.h>
#include <math.h>
#include <string.h>

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
    free(logits);
}

// -ln p of an id under a row of logits.
static double loss(const float *row, int id)
{
    double sum = 0;
    for (int i = 0; i < N_VOCAB; i++)
        sum += exp((double)row[i]);
    return log(sum) - (double)row[id];
}

static void t_perplexity(void **state)
{
    (void)state;
    // Two chunks of 64 tokens of the text of ids BOS, byte, byte ...; each begins with BOS anew.
    enum { N_CTX = 64 };
    double sum = 0;
    for (int chunk = 0; chunk < 2; chunk++) {
        int ids[N_CTX] = {BOS};
        FILE *file = fopen(cli_path("chunk.ids"), "w");
        assert_non_null(file);
        for (int i = 0; i < N_CTX; i++) {
            if (i > 0) ids[i] = (unsigned char)cli_needle_text[chunk * N_CTX + i - 1];
            fprintf(file, "%d ", ids[i]);
        }
        fclose(file);
        cli_expect_good(cli_run("eval logits -m $M --ids %s --out %s", cli_path("chunk.ids"),
                                cli_path("chunk")));
        float *logits = read_logits(cli_path("chunk"), N_CTX);
        for (int i = N_CTX / 2; i + 1 < N_CTX; i++)
            sum += loss(logits + i * N_VOCAB, ids[i + 1]);
        free(logits);
    }
    double wanted = exp(sum / (2 * (N_CTX - 1 - N_CTX / 2)));
    struct cli cli = cli_run("perplexity -m $M -f %s -c 64 --chunks 2 --kl-divergence-base %s",
                             cli_prompt_file(), cli_path("base"));
    cli_expect_good(cli);
    double first, second, found;
    assert_int_equal(sscanf(cli.out, "[1]%lf,[2]%lf,", &first, &second), 2);
    const char *line = strstr(cli.out, "Final estimate: PPL = ");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "Final estimate: PPL = %lf +/-", &found), 1);
    print_message("perplexity %f, from the logits %f\n", found, wanted);
    assert_true(fabs(found - wanted) < 1e-3 * wanted);
    assert_true(fabs(second - found) < 1e-3);
    cli = cli_run("perplexity -m $M --kl-divergence --kl-divergence-base %s", cli_path("base"));
    cli_expect_good(cli);
    double kld;
    line = strstr(cli.out, "Mean    KLD:");
    assert_non_null(line);
    assert_int_equal(sscanf(line, "Mean    KLD: %lf", &kld), 1);
    assert_true(fabs(kld) < 1e-3); // the file keeps 16 bits of each ln p
    assert_non_null(strstr(cli.out, "Same top p: 100.000"));
}

// A run's standard output as JSON; fails if it is none.
static json_t *parse(struct cli cli)
{
    cli_expect_good(cli);
    json_error_t error;
    json_t *json = json_loads(cli.out, 0, &error);
    if (json == NULL) fail_msg("line %d: %s", error.line, error.text);
    return json;
}

static void t_niah(void **state)
{
    (void)state;
    static const char line[] = "eval niah -m $M --lengths 1k,2k --needles 8 --questions 12";
    json_t *rows = parse(cli_run("%s --seed 3 -o json", line));
    assert_int_equal(json_array_size(rows), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *row = json_array_get(rows, i);
        assert_int_equal(json_integer_value(json_object_get(row, "length")), 1024 << i);
        assert_int_equal(json_integer_value(json_object_get(row, "questions")), 12);
        assert_int_equal(json_integer_value(json_object_get(row, "prefills")), 2);
        assert_true(json_real_value(json_object_get(row, "score")) >= 0.9);
        // Text, question and answer come close to the length asked for.
        json_int_t n = json_integer_value(json_object_get(row, "prefill_tokens"));
        assert_in_range(n, 2 * ((1024 << i) - 350), 2 * (1024 << i));
    }
    json_decref(rows);
    struct cli cli = cli_run("%s", line);
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "|     1024 |       8 |        12 |"));
    cli = cli_run("%s --min-score 1.01 -o json", line);
    assert_int_equal(cli.code, 1);
    assert_non_null(strstr(cli.err, "--min-score"));
}

static void t_bench(void **state)
{
    (void)state;
    static const char *const names[] = {"pp16", "tg4", "pp16 @ d64", "tg4 @ d64"};
    json_t *rows = parse(cli_run("bench -m $M -p 16 -n 4 -d 0,64 -r 3 -o json"));
    assert_int_equal(json_array_size(rows), 4);
    for (size_t i = 0; i < 4; i++) {
        const json_t *row = json_array_get(rows, i);
        assert_string_equal(json_string_value(json_object_get(row, "test")), names[i]);
        assert_true(json_real_value(json_object_get(row, "avg_ts")) > 0);
        assert_true(json_real_value(json_object_get(row, "median_ts")) > 0);
        assert_int_equal(json_array_size(json_object_get(row, "samples_ts")), 3);
    }
    json_decref(rows);
    struct cli cli = cli_run("bench -m $M -p 16 -n 0 -r 1");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "pp16 |"));
    assert_null(strstr(cli.out, "tg"));
}

static void t_inspect(void **state)
{
    (void)state;
    json_t *json = parse(cli_run("inspect $M --tensors --metadata -o json"));
    const json_t *info = json_object_get(json, "model");
    assert_string_equal(json_string_value(json_object_get(json, "architecture")), "llama");
    assert_int_equal(json_integer_value(json_object_get(info, "layers")), 4);
    assert_int_equal(json_integer_value(json_object_get(info, "parameters")), 755328);
    assert_int_equal(json_integer_value(json_object_get(info, "kv_bytes_per_token")), 1024);
    assert_int_equal(json_array_size(json_object_get(json, "tensor_list")), 39);
    assert_int_equal(json_array_size(json_object_get(json, "metadata")), 24);
    json_decref(json);
    assert_non_null(strstr(cli_run("inspect -m $M").out, "architecture         llama"));
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_eval_logits), cmocka_unit_test(t_perplexity), cmocka_unit_test(t_niah),
        cmocka_unit_test(t_bench),       cmocka_unit_test(t_inspect),
    };
    int code = check_run("cli_measure", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
