// The fathom command as a user meets it: run on the needle model, judged by exit code,
// standard output and standard error. argv[1] is the command.

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/tools/cli.h"

static void t_version_and_help(void **state)
{
    (void)state;
    struct cli cli = cli_run("--version");
    cli_expect_good(cli);
    assert_string_equal(cli.out, "fathom 0.1.0\n");
    static const char *const pages[] = {
        "--help",       "run --help",    "tokenize --help", "inspect -h",       "detokenize --help",
        "bench --help", "perplexity -h", "eval --help",     "eval niah --help", "eval logits -h"};
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        cli = cli_run("%s", pages[i]);
        cli_expect_good(cli);
        assert_non_null(strstr(cli.out, "--help"));
        assert_string_equal(cli.err, "");
    }
    assert_non_null(strstr(cli_run("run --help").out, "-b, --batch-size 1..1M"));
    static const char *const asked[][2] = {
        {"help", "--help"}, {"help run", "run --help"}, {"help eval niah", "eval niah --help"}};
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        cli = cli_run("%s", asked[i][0]);
        cli_expect_good(cli);
        char *page = strdup(cli.out);
        assert_string_equal(cli_run("%s", asked[i][1]).out, page);
        free(page);
    }
}

// A copy of the model in which `n` bytes at `skip` behind a text are changed.
static const char *damaged_model(const char *text, size_t skip, const void *bytes, size_t n)
{
    size_t file_bytes;
    char *file = cli_read_file(cli_model(), &file_bytes);
    char *at = memmem(file, file_bytes, text, strlen(text));
    assert_non_null(at);
    memcpy(at + strlen(text) + skip, bytes, n);
    const char *path = cli_path("damaged.gguf");
    cli_write_file(path, file, file_bytes);
    free(file);
    return path;
}

// Of every command that computes, before it looks for anything else.
static void t_devices(void **state)
{
    (void)state;
    static const char *const commands[] = {"run",        "bench",     "bench attend",
                                           "perplexity", "eval niah", "eval logits"};
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        struct cli cli = cli_run("%s --list-devices", commands[i]);
        cli_expect_good(cli);
        assert_int_equal(strncmp(cli.out, "cpu ", 4), 0);
        assert_non_null(strstr(cli.out, "\ncuda")); // there, or why not
    }
    struct cli cli = cli_run("run -m $M -p x -n 1 -lv 2 -ngl 9");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.err, "-ngl: makes no difference"));
    assert_non_null(strstr(cli.err, "device: cpu: "));
    assert_null(strstr(cli.err, "auto takes"));
    cli = cli_run("run -m $M -p x -n 1 --device auto --kv-mode sparse");
    assert_non_null(strstr(cli.err, "auto takes the CPU, which alone seals"));
}

static void t_unknown_models(void **state)
{
    (void)state;
    // Behind the key: its type, the length of the text, the text.
    const char *path = damaged_model("general.architecture", 4 + 8, "LL", 2);
    cli_expect_error(cli_run("run -m %s -p x", path), "LLama");
    struct cli cli = cli_run("inspect %s -o json", path);
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "\"problem\""));
    // Bytes that are no UTF-8 do not keep the message out of the report.
    path = damaged_model("general.architecture", 4 + 8, "\xff", 1);
    cli = cli_run("inspect %s -o json", path);
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "?lama"));
    assert_non_null(strstr(cli.out, "\"problem\""));
    // Control characters do not reach the terminal.
    path = damaged_model("general.architecture", 4 + 8, "\x1b\n", 2);
    cli_expect_error(cli_run("run -m %s -p x", path), "??ama");
    cli = cli_run("inspect %s", path);
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "??ama"));
    assert_null(strchr(cli.out, '\x1b'));
    // Behind the name: the number of dimensions, two dimensions, the type. 20 is IQ4_NL.
    path = damaged_model("blk.1.ffn_up.weight", 4 + 2 * 8, "\x14", 1);
    cli = cli_run("run -m %s -p x", path);
    cli_expect_error(cli, "blk.1.ffn_up.weight");
}

static void t_vocabulary_alone(void **state)
{
    (void)state;
    const char *path = check_data("tokenizers/ggml-vocab-gpt-2.gguf");
    cli_expect_error(cli_run("run -m %s -p x", path), "no weights");
    cli_expect_error(cli_run("bench -m %s", path), "no weights");
    struct cli cli = cli_run("tokenize -m %s -p 'Hello world'", path);
    cli_expect_good(cli);
    assert_string_equal(cli.out, "15496 995\n"); // as published with GPT-2
    cli_expect_good(cli_run("inspect %s", path));
}

static void t_tokenize(void **state)
{
    (void)state;
    struct cli cli = cli_run("tokenize -m $M -p 'a\\nb'");
    cli_expect_good(cli);
    assert_string_equal(cli.out, "256 97 92 110 98\n");
    assert_string_equal(cli_run("tokenize -m $M -e -p 'a\\n\\x41'").out, "256 97 10 65\n");
    assert_string_equal(cli_run("tokenize -m $M --no-bos -p a").out, "97\n");
    assert_string_equal(cli_run("tokenize -m $M -p ''").out, "256\n");
    assert_string_equal(cli_run("tokenize -m $M --no-bos -p ''").out, "\n");
}

static void t_bytes_round_trip(void **state)
{
    (void)state;
    unsigned char bytes[512];
    char wanted[4096] = "256";
    size_t n = 3;
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i < 256 ? i : 255 - i * 7 % 256);
        n += (size_t)snprintf(wanted + n, sizeof wanted - n, " %d", bytes[i]);
    }
    snprintf(wanted + n, sizeof wanted - n, "\n");
    cli_write_file(cli_path("bytes"), bytes, sizeof bytes);
    struct cli cli = cli_run("tokenize -m $M -f %s", cli_path("bytes"));
    cli_expect_good(cli);
    assert_string_equal(cli.out, wanted);
    cli_write_file(cli_path("bytes.ids"), cli.out, cli.out_bytes);
    cli = cli_run("detokenize -m $M --ids %s", cli_path("bytes.ids"));
    cli_expect_good(cli);
    assert_int_equal(cli.out_bytes, sizeof bytes);
    assert_memory_equal(cli.out, bytes, sizeof bytes);
    cli_write_file(cli_path("bytes"), "ab", 2);
    cli = cli_run("tokenize -m $M --no-bos -p cd -f %s", cli_path("bytes"));
    cli_expect_good(cli);
    assert_string_equal(cli.out, "97 98 99 100\n");
}

static void t_run_answers(void **state)
{
    (void)state;
    struct cli cli = cli_run("run -m $M -f %s -n 5 --temp 0", cli_prompt_file());
    cli_expect_good(cli);
    assert_string_equal(cli.out, "48213");
    assert_non_null(strstr(cli.err, "prompt eval time ="));
    assert_non_null(strstr(cli.err, "/     4 runs"));
    assert_null(strstr(cli.err, "seed =")); // plays no part
    assert_string_equal(cli_run("run -m $M --ids %s -n 5 --temp 0", cli_ids_file()).out, "48213");
    assert_string_equal(cli_run("run -m $M -n 5 --temp 0 -b 7 <%s", cli_prompt_file()).out,
                        "48213");
    assert_null(strstr(cli_run("run -m $M -p x -n 0").err, "seed ="));
    // -f comes before -p.
    cli = cli_run("run -m $M -f %s -e -p '48213.\\n' -n 8 --temp 0 --display-prompt",
                  cli_prompt_file());
    cli_expect_good(cli);
    assert_memory_equal(cli.out, cli_needle_text, strlen(cli_needle_text));
    assert_memory_equal(cli.out + strlen(cli_needle_text), "48213.\n", 7);
}

static void t_nothing_generated(void **state)
{
    (void)state;
    struct cli cli = cli_run("run -m $M -p x -n 0");
    cli_expect_good(cli);
    assert_int_equal(cli.out_bytes, 0);
    assert_non_null(strstr(cli.err, "prompt eval time ="));
    assert_null(strstr(cli.err, "   eval time ="));
}

static void t_sampling_is_seeded(void **state)
{
    (void)state;
    char first[256];
    struct cli cli = cli_run("run -m $M -p 'The ' -n 40 -s 7 --temp 1.5 --ignore-eos");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.err, "seed =          7"));
    assert_in_range(cli.out_bytes, 20, sizeof first - 1);
    memcpy(first, cli.out, cli.out_bytes + 1);
    assert_string_equal(cli_run("run -m $M -p 'The ' -n 40 -s 7 --temp 1.5 --ignore-eos").out,
                        first);
    assert_string_not_equal(cli_run("run -m $M -p 'The ' -n 40 -s 8 --temp 1.5 --ignore-eos").out,
                            first);
}

static void t_context_ends_generation(void **state)
{
    (void)state;
    // BOS, one byte, and room for six more; the eighth is picked from a full context.
    struct cli cli = cli_run("run -m $M -p x -c 8 --ignore-eos --temp 0");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.err, "context of 8 tokens is full"));
    assert_non_null(strstr(cli.err, "/     6 runs"));
}

// Tokens that a run fed as prompts, from its report.
static int prompt_tokens(const char *err)
{
    const char *line = strstr(err, "prompt eval time =");
    assert_non_null(line);
    int n = -1;
    assert_int_equal(sscanf(strchr(line, '/'), "/ %d tokens", &n), 1);
    return n;
}

static void t_conversation(void **state)
{
    (void)state;
    static const char line[] = "-cnv --chat-template chatml --temp 0 -n 4 --ignore-eos";
    struct cli cli = cli_run("run -m $M %s -p 'first turn' -st", line);
    cli_expect_good(cli);
    int n_first = prompt_tokens(cli.err);
    size_t first_bytes = cli.out_bytes;
    assert_true(first_bytes >= 4);
    cli_write_file(cli_path("turns"), "first turn\n\nfirst turn\n", 23);
    cli = cli_run("run -m $M %s <%s", line, cli_path("turns"));
    cli_expect_good(cli);
    assert_true(cli.out_bytes > first_bytes);
    // The second prompt holds the first one, the reply and a turn of the same length. Less than
    // twice the first plus a few bytes of template and reply proves that the first was kept.
    int n_both = prompt_tokens(cli.err);
    assert_in_range(n_both, n_first + 1, 2 * n_first + 20);
    cli = cli_run("run -m $M %s -sys 'a system message' -p 'first turn' -st", line);
    cli_expect_good(cli);
    assert_true(prompt_tokens(cli.err) >= n_first + 16);
    // A turn cannot spell control tokens: four tokens, as of any four bytes, and not one.
    n_first = prompt_tokens(cli_run("run -m $M %s -p 'abcd' -st", line).err);
    assert_int_equal(prompt_tokens(cli_run("run -m $M %s -p '</s>' -st", line).err), n_first);
}

static void t_conversation_outgrows_context(void **state)
{
    (void)state;
    cli_write_file(cli_path("turns"), "hi\nand now\n", 11);
    struct cli cli = cli_run("run -m $M -cnv --chat-template chatml --temp 0 --ignore-eos -c 64 "
                             "-lv 0 <%s",
                             cli_path("turns"));
    assert_int_equal(cli.code, 1);
    assert_true(cli.out_bytes > 0); // the first turn was answered
    assert_non_null(strstr(cli.err, "context of 64 tokens is full"));
    assert_non_null(strstr(cli.err, "has outgrown the context of 64"));
}

static void t_full_disk(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "tokenize -m $M -p x >/dev/full",
        "run -m $M -p x -n 4 -lv 0 >/dev/full",
        "inspect $M >/dev/full",
        "--version >/dev/full",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        cli_expect_error(cli_run("%s", lines[i]), "No space left");
    cli_expect_error(cli_run("detokenize -m $M --ids %s >/dev/full", cli_ids_file()),
                     "No space left");
    // The cache's statistics outlive the failure.
    struct cli cli = cli_run("eval logits -m $M --ids %s --out /dev/full --kv-stats %s",
                             cli_ids_file(), cli_path("stats"));
    cli_expect_error(cli, "No space left");
    size_t bytes;
    char *text = cli_read_file(cli_path("stats"), &bytes);
    assert_non_null(strstr(text, "\"n_steps\""));
    free(text);
    // A link to a file that is not there yet leads nowhere again.
    char link[600];
    snprintf(link, sizeof link, "%s", cli_path("link"));
    assert_int_equal(symlink("absent", link), 0);
    cli_expect_error(cli_run("perplexity -m $M -p short --kl-divergence-base %s", link), "too few");
    assert_int_not_equal(access(link, F_OK), 0);
    assert_int_equal(unlink(link), 0);
}

// Quietly, as cat does.
static void t_reader_goes_away(void **state)
{
    (void)state;
    char *argv[] = {"fathom", "run", "-m",   cli_model(), "-p", "The ",         "-lv",
                    "0",      "-n",  "4096", "--temp",    "0",  "--ignore-eos", NULL};
    int fd;
    signal(SIGPIPE, SIG_DFL); // some parents ignore it, and that is inherited
    int pid = cli_start(argv, &fd);
    char byte;
    assert_int_equal(read(fd, &byte, 1), 1);
    close(fd);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGPIPE);
    size_t bytes;
    char *err = cli_read_file(cli_path("err"), &bytes);
    assert_string_equal(err, "");
    free(err);
}

// What was recorded so far is whole, and no part of a file is left; statistics are written.
static void check_interrupt(int number)
{
    char folder[512], stats[512], path[600];
    snprintf(folder, sizeof folder, "%s", cli_path("record"));
    snprintf(stats, sizeof stats, "%s", cli_path("stats"));
    char *argv[] = {"fathom", "run",        "-m",     cli_model(), "-p",           "The ",
                    "-n",     "-1",         "--temp", "0",         "--ignore-eos", "--kv-record",
                    folder,   "--kv-stats", stats,    NULL};
    int fd;
    int pid = cli_start(argv, &fd);
    char text[4096];
    ssize_t n = read(fd, text, 4); // generation has begun
    assert_in_range(n, 1, 4);
    assert_int_equal(kill(pid, number), 0);
    while (read(fd, text, sizeof text) > 0)
        continue;
    close(fd);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + number);
    size_t bytes;
    char *err = cli_read_file(cli_path("err"), &bytes);
    assert_non_null(strstr(err, "eval time ="));
    assert_non_null(strstr(err, "fathom: interrupted\n"));
    free(err);
    char *json = cli_read_file(stats, &bytes);
    assert_non_null(strstr(json, "\"plan\": \"dense: "));
    free(json);
    snprintf(path, sizeof path, "%s/layer-0.k.f16.part", folder);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void t_interrupt(void **state)
{
    (void)state;
    check_interrupt(SIGINT);
    check_interrupt(SIGTERM);
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_version_and_help),   cmocka_unit_test(t_devices),
        cmocka_unit_test(t_unknown_models),     cmocka_unit_test(t_vocabulary_alone),
        cmocka_unit_test(t_tokenize),           cmocka_unit_test(t_bytes_round_trip),
        cmocka_unit_test(t_run_answers),        cmocka_unit_test(t_nothing_generated),
        cmocka_unit_test(t_sampling_is_seeded), cmocka_unit_test(t_context_ends_generation),
        cmocka_unit_test(t_conversation),       cmocka_unit_test(t_conversation_outgrows_context),
        cmocka_unit_test(t_full_disk),          cmocka_unit_test(t_reader_goes_away),
        cmocka_unit_test(t_interrupt),
    };
    int code = check_run("cli", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
