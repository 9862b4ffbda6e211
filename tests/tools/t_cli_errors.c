// What the fathom command refuses, and how it says so: one line that names the thing and the
// remedy, before a model is loaded where none is needed to tell. argv[1] is the command.

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/check.h"
#include "tests/tools/cli.h"

// cases: a line, and what its error says.
static void expect_errors(const char *const cases[][2], size_t n)
{
    for (size_t i = 0; i < n; i++) {
        print_message("fathom %s\n", cases[i][0]);
        cli_expect_error(cli_run("%s", cases[i][0]), cases[i][1]);
    }
}

static void t_errors(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "no command"},
        {"fly", "\"fly\""},
        {"run --fly", "--fly"},
        {"run -ngl all", "bad value \"all\" for -ngl"},
        {"run --no-mmap", "the file is always mapped"},
        {"run --kv-mode=sparse", "a value goes into the next argument"},
        {"run -p x", "-m FILE"},
        {"run -m /nonexistent -p x", "/nonexistent"},
        {"run -m $M -p x -n", "-n"},
        {"run -m $M -p x -n many", "\"many\" for -n N: must be a whole number"},
        {"run -m $M -p x --temp warm", "\"warm\" for --temp X: must be a number"},
        {"run -m $M -p x -b 5g", "5g"},
        {"run -m $M -p x -b 0", "-b 0"},
        {"run -m $M -p x -ctk q4_0 -ctv q4_0", "q4_0"},
        {"run -m $M -p x -ctk f32", "same type"},
        {"run -m $M -p x -ctk f32 --kv-type f16", "--kv-type f16 is the type of all keys"},
        {"run -m $M -p x -ctk f32 --kv-type q8", "same type"},
        {"run -m $M -p x -ctk f16 --kv-type bf16", "--kv-type bf16 is the type of all keys"},
        {"run -m $M -p x --rope-scale -2", "--rope-scale -2"},
        {"run -m $M -p x --rope-freq-base 1", "--rope-freq-base 1"},
        {"run -m $M -p x -n -2", "-n -2"},
        {"run -m $M -p x -s -2", "-s -2"},
        {"run -m $M -p x --top-p 2", "--top-p 2"},
        {"run -m $M -p x --min-p 2", "--min-p 2"},
        {"run -m $M -p x --repeat-penalty 0", "--repeat-penalty 0"},
        {"run -m $M -p x -t 1025", "-t 1025"},
        {"run -m $M -p x --batch-size 2m", "--batch-size 2m"},
        {"run -m $M -p x -c 512m", "-c 536870912"},
        {"run -m $M -p x -lv 4", "-lv 4"},
        {"run -m $M -p x -lv -1", "-lv -1"},
        // Found before the model is looked for.
        {"run -m /nonexistent --ids /dev/null", "/dev/null: no ids"},
        {"run -m /nonexistent --ids /absent", "/absent"},
        {"run -m /nonexistent -p x -cnv --chat-template none", "llama3"},
        {"tokenize -m /nonexistent -f /absent", "/absent"},
        {"detokenize -m /nonexistent --ids /dev/null", "/dev/null: no ids"},
        {"eval logits -m /nonexistent --out /dev/null --ids /dev/null", "/dev/null: no ids"},
        {"run -m /nonexistent -p x --kv-record /absent/x", "/absent/x"},
        {"run -m /nonexistent -p x --kv-record $M", "Not a directory"},
        {"run -m /nonexistent -p x --kv-record /tmp --kv-record-steps 0", "--kv-record-steps"},
        {"run -m /nonexistent -p x --kv-record-layers 1", "--kv-record-layers: needs --kv-record"},
        {"run -m /nonexistent -p x --kv-record-steps 32", "--kv-record-steps: needs --kv-record"},
        {"perplexity -m /nonexistent -p x --chunks 0", "--chunks 0"},
        {"perplexity -m /nonexistent -p x --kl-divergence-base /absent/x", "/absent/x"},
        {"run -m $M -p x --rope-scaling maybe", "maybe"},
        {"run -m $M -p x --device tpu", "\"tpu\": must be auto, cpu, cuda or cuda:N"},
        {"run -m $M -p x --device cuda:", "\"cuda:\": must be"},
        {"run -m $M -p x --device cuda:999", "use device \"cpu\""}, // with GPUs and without
        {"bench attend --device cuda", "--device cuda: rows of bench attend lie in the host's"},
        {"run -m $M -p x --isa avx2,sse", "--isa avx2,sse"},
        {"run -m $M -p x --isa ''", "--isa"},
        {"run -m $M -p x -st", "-cnv"},
        {"run -m $M -p x -cnv --display-prompt", "--display-prompt: of no use with -cnv"},
        {"run -m $M -p x --kv-stats ''", "--kv-stats: the name is empty"},
        {"run -m $M -p x -c -1", "must be a whole number from 0 to 4294967295"},
        {"bench -m $M -d 1G", "one has at most 268435456"},
        {"eval niah -m $M --lengths 1G", "--lengths 1073741824: a context has at most"},
        {"run -m $M -p x -cnv -lv 0", "--chat-template"},
        {"run -m $M -p x --override-kv llama.block_count=int", "llama.block_count"},
        {"run -m $M -p x --override-kv llama.block_count=int:4096", "39 tensors"},
        {"run -m $M -p x --override-kv llama.block_count=int:5", "blk.4."},
        {"run -m $M -p x --override-kv llama.block_cout=int:5",
         "llama.block_cout: the file has no such key"},
        {"run -m $M -f /nonexistent", "/nonexistent"},
        {"run -m $M -p 'longer than that' -c 8 -lv 0", "-c"},
        {"run -m $M -p '' --no-bos -lv 0", "empty"},
        {"run -m $M -p x stray", "stray"},
        {"tokenize -m $M", "-p TEXT"},
        {"tokenize -m $M -p x -t 2", "-t"},
        {"detokenize -m $M --ids /dev/null -dev cpu", "-dev"},
        {"detokenize -m $M", "--ids"},
        {"detokenize -m $M --ids $M", "ids"},
        {"inspect", "FILE"},
        {"inspect ''", "no file"},
        {"inspect /dev/null", "/dev/null"},
        {"inspect $M -o md", "text|json"},
        {"inspect $M -lv 2", "-lv"},
        {"bench -m $M -o xml", "md|json"},
        {"bench -m $M -r 0", "-r 0"},
        {"bench -m $M -p 0 -n 0", "-p or -n"},
        {"bench -m $M -p 100 -n 0 -c 64", "100 tokens"},
        {"bench -m $M -p 2 -n 2 -d 4294967295", "4294967297 tokens"},
        {"perplexity -m $M -p short", "too few"},
        {"perplexity -m $M -p x -c 0 --override-kv llama.context_length=int:2", "-c 2"},
        {"perplexity -m $M --kl-divergence", "--kl-divergence-base"},
        {"perplexity -m $M --kl-divergence --kl-divergence-base $M", "not a file"},
        {"perplexity -m $M --kl-divergence --kl-divergence-base $M -c 512", "-c"},
        {"perplexity -m $M --kl-divergence --kl-divergence-base $M --file x", "--file"},
        {"help fly", "\"fly\""},
        {"--version run", "unexpected argument \"run\""},
        {"--bogus run", "--bogus: flags follow a command"},
    };
    expect_errors(cases, sizeof cases / sizeof cases[0]);
}

static void t_eval_errors(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"eval", "no task"},
        {"eval fly", "fly"},
        {"eval logits -m $M", "--ids"},
        {"eval niah -m $M --lengths 4x", "\"4x\" for --lengths N,...: must be whole numbers"},
        {"eval niah -m $M --lengths 64", "larger lengths"},
        {"eval niah -m $M --lengths 512 --needles 64", "--needles"},
        {"eval niah -m $M --lengths 1k,2k -c 1k", "give -c 2048 or none"},
        {"eval niah -m $M -c 1k", "smaller --lengths"},
        {"eval niah -m $M --min-score 2", "--min-score 2"},
        {"eval niah -m $M --depths 0", "--depths 0: must be from 1 to"},
        {"eval niah -m $M --needles 4 --depths 5",
         "--depths 5: a text hides 4 answers with --need"},
        {"eval vartrack -m $M --needles 8 --depths 5", "--depths 5: a text hides 4 answers"},
        {"eval niah -m $M --lengths 1k,0", "--lengths 0: must be at least 1"},
        {"eval niah -m $M --lengths 1k --needles 1025", "--needles 1025: more than"},
        {"eval niah -m $M --items 4", "--items"},
        {"eval niah -m $M -o csv", "md|json|jsonl"},
        {"eval niah -m /nonexistent --chat-template none", "llama3"},
        {"eval niah -m /nonexistent --kl-dense --kv-mode dense", "--kl-dense compares"},
        {"eval niah -m /nonexistent --kl-dense --kv-mode stream", "--kv-mode stream picks nothing"},
        {"eval niah -m $M --lengths 1k --needles 8 --kl-dense", "give --kv-mode sparse"},
        {"eval recall -m /nonexistent --kv-mode dense", "eval recall compares"},
        {"eval recall -m /nonexistent --kv-verify 0%", "--kv-verify 0%: eval recall"},
        {"eval niah -m $M --chat-template auto", "--chat-template auto: the model has no"},
        {"eval vartrack -m $M --hops 0", "--hops 0: must be 1 or more"},
        {"eval vartrack -m $M --hops 5 --needles 4", "no more than --needles 4"},
        {"eval multiturn -m $M --needles 1", "--needles 1"},
        {"eval longgen -m $M --items 33", "--items 33"},
        {"eval longgen -m $M --items 16 --needles 8", "no more than --needles 8"},
        {"eval longgen -m $M --lengths 1k", "larger lengths or fewer --items"},
    };
    expect_errors(cases, sizeof cases / sizeof cases[0]);
}

static void t_bad_ids(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"1 two", "\"two\", at place 2"},
        {"1 2 3.5", "\"3.5\", at place 3"},
        {"-1", "\"-1\", at place 1"},
        {"9999999999", "\"9999999999\", at place 1"},
        {"1 258", "258, at place 2, is outside the vocabulary (0 to 257)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s", cli_path("bad.ids"));
        cli_write_file(path, cases[i][0], strlen(cases[i][0]));
        cli_expect_error(cli_run("detokenize -m $M --ids %s", path), cases[i][1]);
        cli_expect_error(cli_run("run -m $M -lv 0 --ids %s", path), cases[i][1]);
        cli_expect_error(cli_run("eval logits -m $M --out /dev/null --ids %s", path), cases[i][1]);
        // What has no result leaves no file, and no result falls upon what it is made from.
        cli_expect_error(cli_run("eval logits -m $M --out %s.out --ids %s", path, path),
                         cases[i][1]);
        cli_expect_error(cli_run("eval logits -m $M --out %s --ids %s", path, path),
                         "would replace what it is made from");
        snprintf(path, sizeof path, "%s", cli_path("bad.ids.out"));
        assert_int_not_equal(access(path, F_OK), 0);
    }
}

// --kv-stats replaces nothing that the command reads or writes.
static void t_stats_apart(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "run -m %s -p x --kv-stats %s",
        "run -m $M -f %s --kv-stats %s",
        "run -m $M --ids %s --kv-stats %s",
        "perplexity -m $M -f %s --kv-stats %s",
        "perplexity -m $M -p x --kl-divergence-base %s --kv-stats %s",
        "eval logits -m $M --ids %s --out /dev/null --kv-stats %s",
        "eval niah -m $M --lengths 4k --text %s --kv-stats %s",
    };
    char path[512];
    snprintf(path, sizeof path, "%s", cli_path("input"));
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        cli_write_file(path, "1 2 3", 5);
        struct stat before, after;
        assert_int_equal(stat(path, &before), 0);
        cli_expect_error(cli_run(lines[i], path, path), "name another file");
        assert_int_equal(stat(path, &after), 0);
        assert_true(before.st_ino == after.st_ino && after.st_size == 5);
    }
}

// Beyond the limit of a file's size: as on a full disk.
static void t_file_too_large(void **state)
{
    (void)state;
    struct rlimit limit, small;
    char path[512];
    snprintf(path, sizeof path, "%s", cli_path("large.out"));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 16384;
    const char *ids = cli_ids_file();
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    struct cli cli = cli_run("eval logits -m $M --ids %s --out %s", ids, path);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cli_expect_error(cli, "File too large");
    assert_int_equal(unlink(path), 0); // the rows before are there
}

// A file may claim any context; what it claims is not reserved.
static void t_context_fits_memory(void **state)
{
    (void)state;
    const double claimed_bytes = 2048.0 * (1 << 28);
    if ((double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) > claimed_bytes)
        check_skip("this machine's memory holds any context of the needle model");
    struct cli cli = cli_run("run -m $M -p x -n 1 -ctk f32 -ctv f32 --kv-mode dense "
                             "--override-kv llama.context_length=int:268435456");
    cli_expect_good(cli);
    assert_non_null(strstr(cli.err, "what memory holds of the model's 268435456: -c N"));
    assert_null(strstr(cli.err, "KV cache dense: 268435456 tokens"));
}

static void t_no_memory_names_remedy(void **state)
{
    (void)state;
    if (cli_run_confined("--version").code != 0) check_skip("sanitizers need more address space");
    static const char *const modes[] = {"dense", "stream"};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        char line[128];
        snprintf(line, sizeof line, "run -m $M -p x -lv 0 -t 2 -c 8m --kv-mode %s", modes[i]);
        cli_expect_error(cli_run_confined(line), "Cannot allocate memory: give a smaller -c");
    }
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_errors),
        cmocka_unit_test(t_eval_errors),
        cmocka_unit_test(t_bad_ids),
        cmocka_unit_test(t_stats_apart),
        cmocka_unit_test(t_file_too_large),
        cmocka_unit_test(t_context_fits_memory),
        cmocka_unit_test(t_no_memory_names_remedy),
    };
    int code = check_run("cli_errors", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
