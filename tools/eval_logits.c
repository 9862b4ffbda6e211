// `fathom eval logits`: what the model thinks after each of given ids, for comparison with others.

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tools/block.h"
#include "tools/eval.h"
#include "tools/ids.h"
#include "tools/output.h"
#include "tools/rig.h"
#include "tools/say.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "files of logits are written as they lie in memory");

struct logits_options {
    const char *ids;
    const char *out;
};

static const struct flag logits_flags[] = {
    {"--ids", FLAG_TEXT, offsetof(struct logits_options, ids), "FILE",
     "ids separated by white space; -: standard input"},
    {"--out", FLAG_TEXT, offsetof(struct logits_options, out), "FILE",
     "where the logits go; -: standard output"},
};

static int write_rows(struct rig *rig, const struct ids *ids, float *rows, uint32_t n_rows,
                      FILE *file, struct progress *progress)
{
    size_t n_vocab = rig->info->n_vocab;
    for (size_t i = 0; i < ids->n;) {
        uint32_t n = (uint32_t)(ids->n - i < n_rows ? ids->n - i : n_rows);
        const int code = rig_feed_rows(rig, ids->data + i, n, rows);
        if (code == EXIT_INTERRUPTED) say_note("%zu of %zu rows are there", i, ids->n);
        if (code != EXIT_GOOD) return code;
        if (fwrite(rows, n_vocab * sizeof *rows, n, file) != n)
            return say_error("cannot write the logits: %s", strerror(errno));
        progress_add(progress, n);
        i += n;
    }
    return EXIT_GOOD;
}

static int write_file(struct rig *rig, const struct ids *ids, const char *path)
{
    uint32_t n_rows;
    float *rows = rig_rows_new(rig, &n_rows);
    if (rows == NULL) return EXIT_BAD;
    int code = EXIT_GOOD;
    const bool to_stdout = strcmp(path, "-") == 0;
    FILE *file = to_stdout ? stdout : fopen(path, "wb");
    if (file == NULL) {
        code = say_error("cannot create %s: %s", path, strerror(errno));
        goto out;
    }
    struct progress progress;
    progress_begin(&progress, "logits", "tokens", ids->n);
    code = write_rows(rig, ids, rows, n_rows, file, &progress);
    progress_end(&progress);
    if (to_stdout) {
        if (code == EXIT_GOOD) code = output_check();
    } else if (fclose(file) != 0 && code == EXIT_GOOD) {
        code = say_error("cannot write %s: %s", path, strerror(errno));
    }
out:
    block_free(rows);
    return code;
}

static int evaluate(const struct logits_options *options, struct rig_options *model)
{
    struct rig rig = {0};
    struct ids ids = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(output_check_other(options->out, options->ids), out);
    SAY_CHECK(output_check_other(options->out, model->path), out);
    SAY_CHECK(ids_append_file(&ids, options->ids), out);
    SAY_CHECK(output_try_file(options->out), out);
    SAY_CHECK(rig_open(&rig, model), out);
    rig_say_unpicked(&rig);
    SAY_CHECK(ids_check(&ids, options->ids, rig.info->n_vocab), out);
    if (ids.n > rig.n_ctx) {
        code =
            say_error("%zu ids do not fit the context of %u: give a larger -c", ids.n, rig.n_ctx);
        goto out;
    }
    code = write_file(&rig, &ids, options->out);
    code = rig_report(&rig, model, code);
out:
    ids_free(&ids);
    rig_close(&rig);
    return code;
}

int eval_logits(int argc, char **argv)
{
    struct logits_options options = {0};
    struct rig_options model = rig_defaults;
    // What is measured is the model; -ctk, -ctv and --kv-type put the cache's rounding back.
    model.type_default = "f32";
    const struct flag_group groups[] = {
        {"Logits", logits_flags, sizeof logits_flags / sizeof logits_flags[0], &options},
        rig_file_flags(&model),
        rig_device_flags(&model),
        rig_context_flags(&model),
        kv_flags(&model.kv),
    };
    const struct flag_page page = {
        .command = "eval logits",
        .use = "-m FILE --ids FILE --out FILE",
        .about =
            "Feeds the ids exactly as they are (no BOS is added) and writes one row of\n"
            "little-endian float32 logits after each: [ids, vocabulary]. The KV cache is f32\n"
            "unless -ctk and -ctv, or --kv-type, say otherwise. Ids go in steps of -b;\n"
            "--kv-prefill is how those of more than one read the cache, so -b 1 measures what\n"
            "decoding picks.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    model.files[0] = options.ids;
    model.files[1] = options.out;
    if (options.ids == NULL || options.out == NULL)
        return say_error("give --ids FILE and --out FILE");
    if (strcmp(options.out, "-") == 0 && kv_flags_print_stats(&model.kv))
        return say_error("--kv-stats -: standard output has the logits; name a file");
    return evaluate(&options, &model);
}
