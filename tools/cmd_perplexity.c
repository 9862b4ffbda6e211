// `fathom perplexity`: llama.cpp's procedure. The text is cut into chunks of the context's length,
// and the second half of each is scored, so that every scored token has some context.

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "tools/block.h"
#include "tools/cmd.h"
#include "tools/divergence.h"
#include "tools/output.h"
#include "tools/prompt.h"
#include "tools/rig.h"
#include "tools/say.h"
#include "tools/timer.h"

enum { CTX_DEFAULT = 512, CTX_MIN = 4 };

struct perplexity_options {
    int64_t n_chunks;
    const char *base_path;
    bool compare;
};

#define OPTION(member) offsetof(struct perplexity_options, member)

static const struct flag perplexity_flags[] = {
    {"--chunks", FLAG_INT, OPTION(n_chunks), "N", "chunks to score; -1: all"},
    {"--kl-divergence-base", FLAG_TEXT, OPTION(base_path), "FILE",
     "write the distributions, in llama.cpp's layout; with --kl-divergence: read them"},
    {"--kl-divergence", FLAG_ON, OPTION(compare), NULL,
     "compare with the base, over the base's own text"},
};

// What one run scores and where the results gather.
struct scorer {
    struct rig rig;
    struct perplexity_options options;
    bool no_bos;        // leaves the chunks as they are
    const int32_t *ids; // [n_chunks, n_ctx]
    uint32_t n_ctx, n_chunks;
    uint32_t n_rows; // rows of logits that fit `rows`
    float *rows;     // [n_rows, n_vocab]
    int32_t *chunk;  // [n_ctx], with BOS in the first place
    struct divergence_base base;
    struct divergence_sums sums;
    double nll, nll_2;
    uint64_t n_scored;
};

// Scores the row of logits that precedes the token id.
static int score(struct scorer *scorer, const float *logits, int32_t id)
{
    uint32_t n_vocab = scorer->rig.info->n_vocab;
    if (scorer->options.compare) {
        SAY_TRY(divergence_read(&scorer->base));
        divergence_add(&scorer->sums, &scorer->base, logits, id);
        return EXIT_GOOD;
    }
    if (scorer->base.file != NULL) SAY_TRY(divergence_write(&scorer->base, logits));
    uint32_t top;
    double nll = divergence_log_sum(logits, n_vocab, &top) - (double)logits[id];
    scorer->nll += nll;
    scorer->nll_2 += nll * nll;
    scorer->n_scored++;
    return EXIT_GOOD;
}

static int score_chunk(struct scorer *scorer, const int32_t *ids, struct progress *progress)
{
    struct rig *rig = &scorer->rig;
    uint32_t first = scorer->n_ctx / 2;
    for (uint32_t i = 0; i < scorer->n_ctx; i++)
        scorer->chunk[i] = ids[i];
    if (rig->info->add_bos && !scorer->no_bos) scorer->chunk[0] = rig->info->bos_id;
    SAY_TRY(rig_truncate(rig, 0));
    SAY_TRY(rig_feed(rig, scorer->chunk, first, progress));
    // The last token has no successor to score.
    for (uint32_t i = first; i + 1 < scorer->n_ctx;) {
        uint32_t n =
            scorer->n_ctx - 1 - i < scorer->n_rows ? scorer->n_ctx - 1 - i : scorer->n_rows;
        SAY_TRY(rig_feed_rows(rig, scorer->chunk + i, n, scorer->rows));
        for (uint32_t j = 0; j < n; j++)
            SAY_TRY(score(scorer, scorer->rows + (size_t)j * rig->info->n_vocab,
                          scorer->chunk[i + j + 1]));
        progress_add(progress, n);
        i += n;
    }
    return EXIT_GOOD;
}

// Says, after the first chunk, how long the others will take.
static void say_rest(const struct scorer *scorer, double chunk_ms)
{
    const uint64_t rest_s = (uint64_t)(chunk_ms * (scorer->n_chunks - 1) / 1e3 + 0.5);
    if (rest_s == 0) return;
    say_note("%.2f s a chunk, ETA %llu:%02llu", chunk_ms / 1e3, (unsigned long long)(rest_s / 60),
             (unsigned long long)(rest_s % 60));
}

static int score_all(struct scorer *scorer)
{
    int code = EXIT_GOOD;
    struct progress progress = {0};
    // Results share their line with nothing: where they go to the same terminal, they are progress
    // enough but for the time.
    const bool shared = isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
    const double start_ms = timer_now_ms();
    say_note("scoring %u chunks of %u tokens", scorer->n_chunks, scorer->n_ctx);
    progress_begin(&progress, "perplexity", "tokens",
                   (uint64_t)scorer->n_chunks * (scorer->n_ctx - 1));
    progress_laps(&progress, scorer->n_ctx - 1);
    uint32_t n_done = 0;
    for (; n_done < scorer->n_chunks; n_done++) {
        SAY_CHECK(score_chunk(scorer, scorer->ids + (size_t)n_done * scorer->n_ctx,
                              shared ? NULL : &progress),
                  out);
        if (shared && n_done == 0) say_rest(scorer, timer_now_ms() - start_ms);
        if (scorer->options.compare)
            divergence_print_chunk(&scorer->sums, n_done + 1);
        else
            printf("[%u]%.4f,", n_done + 1, exp(scorer->nll / (double)scorer->n_scored));
        SAY_CHECK(output_check(), out);
    }
out:
    if (scorer->n_scored > 0) printf("\n"); // messages begin a line of their own
    if (code == EXIT_GOOD) code = output_check();
    progress_end(&progress);
    if (code == EXIT_INTERRUPTED) say_note("%u of %u chunks are scored", n_done, scorer->n_chunks);
    return code;
}

static void print_estimate(const struct scorer *scorer)
{
    double n = (double)scorer->n_scored;
    double mean = scorer->nll / n;
    double variance = scorer->nll_2 / n - mean * mean;
    double error = variance > 0 && n > 1 ? sqrt(variance / (n - 1)) : 0;
    printf("Final estimate: PPL = %.4f +/- %.5f\n", exp(mean), error * exp(mean));
}

static void choose_chunks(struct scorer *scorer, size_t n_ids)
{
    int64_t n_asked = scorer->options.n_chunks;
    size_t n = n_ids / scorer->n_ctx;
    if (n_asked > 0 && (uint64_t)n_asked < n) n = (size_t)n_asked;
    scorer->n_chunks = (uint32_t)n;
}

static int check_context(uint32_t n_ctx)
{
    return n_ctx >= CTX_MIN ? EXIT_GOOD : say_error("-c %u: must be at least %d", n_ctx, CTX_MIN);
}

static int check_length(const struct scorer *scorer, size_t n_ids)
{
    size_t n_needed = 2 * (size_t)scorer->n_ctx;
    if (n_ids >= n_needed) return EXIT_GOOD;
    return say_error("the text has %zu tokens, with its beginning: too few for a context of %u: "
                     "give at least %zu, or a smaller -c",
                     n_ids, scorer->n_ctx, n_needed);
}

static int prepare_rows(struct scorer *scorer)
{
    scorer->rows = rig_rows_new(&scorer->rig, &scorer->n_rows);
    scorer->chunk = block_new(scorer->n_ctx, sizeof *scorer->chunk);
    return scorer->rows != NULL && scorer->chunk != NULL ? EXIT_GOOD : EXIT_BAD;
}

// Perplexity of a text; writes the base file if one is named.
static int score_text(struct scorer *scorer, const struct rig_options *model,
                      const struct prompt_options *prompt)
{
    struct bytes text = {0};
    struct ids ids = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(prompt_read(prompt, &text), out);
    SAY_CHECK(output_check_other(scorer->options.base_path, prompt->file), out);
    SAY_CHECK(output_check_other(scorer->options.base_path, model->path), out);
    SAY_CHECK(output_try_file(scorer->options.base_path), out);
    SAY_CHECK(rig_open(&scorer->rig, model), out);
    rig_say_unpicked(&scorer->rig);
    scorer->n_ctx = scorer->rig.n_ctx;
    SAY_CHECK(check_context(scorer->n_ctx), out);
    SAY_CHECK(
        ids_append_text(&ids, scorer->rig.model, text.data, text.n, prompt_tokenize_flags(prompt)),
        out);
    scorer->ids = ids.data;
    SAY_CHECK(check_length(scorer, ids.n), out);
    choose_chunks(scorer, ids.n);
    SAY_CHECK(prepare_rows(scorer), out);
    if (scorer->options.base_path != NULL)
        SAY_CHECK(divergence_create(&scorer->base, scorer->options.base_path, scorer->n_ctx,
                                    scorer->rig.info->n_vocab, scorer->n_chunks, ids.data),
                  out);
    code = score_all(scorer);
    if (code == EXIT_GOOD) print_estimate(scorer);
    const int close_code = divergence_close(&scorer->base, code == EXIT_GOOD);
    code = rig_report(&scorer->rig, model, code != EXIT_GOOD ? code : close_code);
out:
    ids_free(&ids);
    bytes_free(&text);
    return code;
}

// Divergence from a base file, which brings its own tokens.
static int score_against_base(struct scorer *scorer, struct rig_options *model)
{
    struct divergence_base *base = &scorer->base;
    SAY_TRY(divergence_open(base, scorer->options.base_path));
    model->n_ctx = base->n_ctx;
    SAY_TRY(rig_open(&scorer->rig, model));
    rig_say_unpicked(&scorer->rig);
    if (base->n_vocab != scorer->rig.info->n_vocab)
        return say_error("%s: its vocabulary has %u tokens, the model's %u", base->path,
                         base->n_vocab, scorer->rig.info->n_vocab);
    scorer->n_ctx = base->n_ctx;
    scorer->ids = base->ids.data;
    choose_chunks(scorer, base->ids.n);
    SAY_TRY(prepare_rows(scorer));
    size_t n_scored = (size_t)scorer->n_chunks * (scorer->n_ctx - 1 - scorer->n_ctx / 2);
    SAY_TRY(divergence_sums_init(&scorer->sums, n_scored));
    const int code = score_all(scorer);
    if (code == EXIT_GOOD) divergence_print(&scorer->sums);
    return rig_report(&scorer->rig, model, code);
}

static int parse(struct scorer *scorer, struct rig_options *model, struct prompt_options *prompt,
                 int argc, char **argv)
{
    const struct flag_group groups[] = {
        {"Perplexity", perplexity_flags, sizeof perplexity_flags / sizeof perplexity_flags[0],
         &scorer->options},
        prompt_flags(prompt),
        rig_file_flags(model),
        rig_device_flags(model),
        rig_context_flags(model),
        kv_flags(&model->kv),
    };
    const struct flag_page page = {
        .command = "perplexity",
        .use = "-m FILE -f TEXT [-c 512] [--chunks N]",
        .about =
            "Perplexity of the second half of each chunk of -c tokens (llama.cpp's procedure).\n"
            "--kl-divergence-base FILE alone also writes the distributions; with --kl-divergence\n"
            "it reads them and prints how far this model, or these flags, are from them. Tokens\n"
            "go in steps of -b; --kv-prefill is how those of more than one read the cache, so\n"
            "-b 1 measures what decoding picks.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    model->files[0] = prompt->file;
    model->files[1] = scorer->options.base_path;
    const char *unused =
        flags_given(&page, argc, argv,
                    "-c, --ctx-size, -f, --file, -p, --prompt, -e, --escape, --parse-special");
    if (scorer->options.compare && unused != NULL)
        return say_error("%s: text and context come from the base file with --kl-divergence",
                         unused);
    if (scorer->options.n_chunks == 0) return say_error("--chunks 0: nothing to score");
    if (scorer->options.compare && scorer->options.base_path == NULL)
        return say_error("--kl-divergence needs --kl-divergence-base FILE");
    if (!scorer->options.compare && prompt->file == NULL && prompt->text == NULL)
        return say_error("no text: give -f FILE or -p TEXT");
    return model->n_ctx != 0 ? check_context(model->n_ctx) : EXIT_GOOD; // 0: known once open
}

int cmd_perplexity(int argc, char **argv)
{
    struct scorer scorer = {.options = {.n_chunks = -1}};
    struct rig_options model = rig_defaults;
    struct prompt_options prompt = {0};
    model.n_ctx = CTX_DEFAULT;
    SAY_TRY(parse(&scorer, &model, &prompt, argc, argv));
    scorer.no_bos = prompt.no_bos;
    int code = scorer.options.compare ? score_against_base(&scorer, &model)
                                      : score_text(&scorer, &model, &prompt);
    (void)divergence_close(&scorer.base, false); // what failed before it was whole, or was read
    divergence_sums_free(&scorer.sums);
    block_free(scorer.rows);
    block_free(scorer.chunk);
    rig_close(&scorer.rig);
    return code;
}
