// `fathom eval` of the tasks that hide needles in long texts: flags, lengths, results. Greedy
// decoding, so that the same seed gives the same score.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/conversation.h"
#include "tools/eval.h"
#include "tools/kv_report.h"
#include "tools/needle_heads.h"
#include "tools/needle_run.h"
#include "tools/needle_talk.h"
#include "tools/report.h"
#include "tools/say.h"

#define OPTION(member) offsetof(struct needle_options, member)

static const struct flag needle_flags[] = {
    {"--lengths", FLAG_COUNTS, OPTION(lengths), "N,...", "tokens of text, question and answer"},
    {"--text", FLAG_TEXT, OPTION(text), "FILE",
     "what needles are hidden in, again from its start where it ends; -: standard input; default: "
     "sentences made up for it"},
    {"--needles", FLAG_COUNT, OPTION(n_needles), "N", "needles in each text"},
    {"--questions", FLAG_COUNT, OPTION(n_questions), "N", "questions at each length"},
    {"--depths", FLAG_COUNT, OPTION(n_depths), "1..1000",
     "equal parts of a text that get as many needles each"},
    {"-s, --seed", FLAG_INT, OPTION(seed), "N", "seed of the texts"},
    {"--chat-template", FLAG_TEXT, OPTION(chat_template), "NAME",
     "say text and questions as a user's messages: llama3, chatml, qwen3, mistral, llama2, phi3, "
     "zephyr; auto: as the model's; default: plain text"},
    {"--min-score", FLAG_FLOAT, OPTION(min_score), "0..1",
     "exit 1 if the score is lower at some length: the share of exact answers, or of longgen's "
     "right lines; with --dense-too that of the picked"},
    {"-o, --output", FLAG_TEXT, OPTION(format), "md|json|jsonl",
     "form of the result; jsonl: a line for each question"},
    {"--kl-dense", FLAG_ON, OPTION(kl_dense), NULL,
     "add KLD: the mean divergence, in nats, of the picked from exact attention's next-token "
     "distributions over the right answers"},
    {"--dense-too", FLAG_ON, OPTION(dense_too), NULL,
     "ask everything a second time with all rows read, and tell both: what picking costs and "
     "saves"},
    {"--print", FLAG_ON, OPTION(print), NULL, "print questions and answers as they come"},
    {"--show", FLAG_ON, OPTION(show), NULL,
     "print texts, questions and right answers as lines of JSON, and run nothing"},
};

// Questions of a text, which its task makes as many of each time.
static size_t count_questions(const struct puzzle *puzzle)
{
    return puzzle->n_questions < NEEDLE_QUESTIONS_MAX ? puzzle->n_questions : NEEDLE_QUESTIONS_MAX;
}

static int run_texts(struct rig *rig, size_t n_text, size_t n_ask_max, struct needle_score *score)
{
    const struct needle_options *options = score->options;
    // The length seeds too, so that a length's texts do not depend on the others asked for.
    struct random random;
    random_init(&random, (uint64_t)options->seed ^ (uint64_t)score->n_tokens << 32);
    char label[64];
    snprintf(label, sizeof label, "%s %u", score->task->name, score->n_tokens);
    const size_t n_texts = (options->n_questions + n_ask_max - 1) / n_ask_max;
    const size_t n_question = (score->n_tokens - n_text) * (score->dense != NULL ? 2 : 1);
    struct progress progress;
    progress_begin(&progress, label, "tokens",
                   n_texts * n_text + options->n_questions * n_question);
    progress_laps(&progress, n_text + n_ask_max * n_question);
    int code = EXIT_GOOD;
    size_t n_ask;
    for (size_t n_left = options->n_questions; n_left > 0 && code == EXIT_GOOD; n_left -= n_ask) {
        n_ask = n_left < n_ask_max ? n_left : n_ask_max;
        code = needle_run(rig, &random, n_text, n_ask, score, &progress);
    }
    progress_end(&progress);
    score->decode = stats_of(score->decode_ms, score->n_decoded);
    struct needle_score *dense = score->dense;
    if (dense == NULL) return code;
    dense->decode = stats_of(dense->decode_ms, dense->n_decoded);
    dense->prefill_ms = score->prefill_ms; // one for both
    dense->n_prefill = score->n_prefill;
    dense->n_texts = score->n_texts;
    return code;
}

static int run_length(struct rig *rig, const struct puzzle *widest, struct needle_score *score)
{
    size_t n_reserve;
    SAY_TRY(needle_talk_count(rig->model, score->options->chat_template, widest,
                              &widest->questions[0], &n_reserve));
    if (score->n_tokens <= n_reserve)
        return say_error("--lengths %u: question and answer alone take %zu tokens: give larger "
                         "lengths%s%s",
                         score->n_tokens, n_reserve, score->task->each != NULL ? " or fewer " : "",
                         score->task->each != NULL ? score->task->each : "");
    return run_texts(rig, score->n_tokens - n_reserve, count_questions(widest), score);
}

// Prints what a length gave; as JSON it goes to the others. heads: of a task by head.
static int report_score(const struct needle_score *score, const struct needle_heads *heads,
                        json_t *kv, json_t *rows)
{
    const char *format = score->options->format;
    const struct needle_score *dense = score->dense;
    if (dense != NULL && dense->n_questions == 0) dense = NULL; // interrupted before it
    const bool by_head = score->task->by_head, first = json_array_size(rows) == 0;
    json_t *row = needle_score_json(score, kv);
    if (by_head) json_object_set_new(row, "heads", needle_heads_json(heads));
    if (dense != NULL) json_object_set_new(row, "dense", needle_score_json(dense, json_null()));
    json_array_append_new(rows, row);
    if (strcmp(format, "jsonl") == 0 && by_head)
        return needle_score_print_heads(score, json_object_get(row, "heads"));
    if (strcmp(format, "md") != 0) return EXIT_GOOD;
    if (by_head) {
        if (first) needle_heads_print_header();
        return needle_heads_print(heads, score->n_tokens);
    }
    if (first) needle_score_print_header(score);
    SAY_TRY(needle_score_print_row(score));
    if (dense != NULL) SAY_TRY(needle_score_print_row(dense));
    return score->options->print && dense != NULL ? needle_score_print_cache(kv) : EXIT_GOOD;
}

// Runs a length, and tells what each head did meanwhile.
static int run_heads(struct rig *rig, const struct puzzle *widest, struct needle_score *score,
                     struct needle_heads *heads)
{
    SAY_TRY(needle_heads_take(heads, rig));
    SAY_TRY(run_length(rig, widest, score));
    SAY_TRY(needle_heads_since(heads, rig));
    if (needle_heads_verified(heads) > 0) return EXIT_GOOD;
    return say_error("eval %s: at %u tokens nothing is sealed to be picked from: give larger "
                     "--lengths, or smaller --kv-segment and --kv-window",
                     score->task->name, score->n_tokens);
}

// After an interrupt: says how far it came. Whether that makes a score.
static bool end_early(const struct needle_score *score)
{
    say_note("at %u tokens %zu of %u questions are answered", score->n_tokens, score->n_questions,
             score->options->n_questions);
    return !score->task->by_head && score->n_questions > 0;
}

static int report_length(struct rig *rig, const struct puzzle *widest, struct needle_score *score,
                         json_t *rows)
{
    if (score->options->show) return run_length(rig, widest, score);
    const fathom_engine *engine = fathom_runner_engine(rig->runner);
    struct needle_heads heads = {0};
    struct fathom_kv_stats before;
    SAY_TRY(kv_report_take(engine, &before));
    int code = score->task->by_head ? run_heads(rig, widest, score, &heads)
                                    : run_length(rig, widest, score);
    if (code == EXIT_GOOD || (code == EXIT_INTERRUPTED && end_early(score))) {
        json_t *kv = rig_is_dense(rig) ? json_null() : kv_report_json(engine, &before);
        const int told = kv != NULL ? report_score(score, &heads, kv, rows) : EXIT_BAD;
        if (told != EXIT_GOOD) code = told;
    }
    needle_heads_free(&heads);
    return code;
}

static int run_lengths(struct rig *rig, const struct needle_task *task,
                       const struct needle_options *options, const struct puzzle *widest)
{
    json_t *rows = json_array();
    double low_share = 1;
    uint32_t low_tokens = 0;
    int code = EXIT_GOOD;
    for (uint32_t i = 0; i < options->lengths.n && code == EXIT_GOOD; i++) {
        struct needle_score score, dense = {0};
        code = needle_score_open(&score, task, options, options->lengths.items[i]);
        if (code == EXIT_GOOD && options->dense_too) {
            code = needle_score_open(&dense, task, options, options->lengths.items[i]);
            score.dense = &dense;
        }
        if (code == EXIT_GOOD) code = report_length(rig, widest, &score, rows);
        if (code == EXIT_GOOD && !options->show && needle_score_share(&score) < low_share) {
            low_share = needle_score_share(&score);
            low_tokens = score.n_tokens;
        }
        needle_score_free(&score);
        needle_score_free(&dense);
    }
    const bool told = code == EXIT_GOOD || code == EXIT_INTERRUPTED;
    if (told && !options->show && strcmp(options->format, "json") == 0) {
        const int printed = report_print_json(rows);
        if (printed != EXIT_GOOD) code = printed;
    } else {
        json_decref(rows);
    }
    if (code == EXIT_GOOD && low_share < (double)options->min_score)
        code = say_error("eval %s: at %u tokens %.4f of the %s are right: below --min-score %g",
                         task->name, low_tokens, low_share, task->by_part ? "lines" : "answers",
                         (double)options->min_score);
    return code;
}

// The context: as asked for, but no less than the longest text takes.
static int choose_context(uint32_t longest, uint32_t *n_ctx)
{
    if (*n_ctx == 0) *n_ctx = longest;
    if (longest <= *n_ctx) return EXIT_GOOD;
    return say_error("-c %u is too small for texts of %u tokens: give -c %u or none, or smaller "
                     "--lengths",
                     *n_ctx, longest, longest);
}

// What compares picks with exact attention; NULL: nothing does.
static const char *find_comparison(const struct needle_task *task,
                                   const struct needle_options *options)
{
    if (options->show) return NULL;
    if (options->dense_too) return "--dense-too";
    return task->by_head ? "eval recall" : options->kl_dense ? "--kl-dense" : NULL;
}

// It cannot do so where nothing is picked.
static int check_mode(const char *what, const char *mode)
{
    if (what == NULL || mode == NULL || (strcmp(mode, "dense") != 0 && strcmp(mode, "stream") != 0))
        return EXIT_GOOD;
    return say_error("%s compares what is picked with exact attention, and --kv-mode %s picks "
                     "nothing: choose --kv-mode sparse",
                     what, mode);
}

static int check_plan(const char *what, const struct rig *rig)
{
    if (what == NULL || !rig_is_dense(rig)) return EXIT_GOOD;
    return say_error("%s compares what is picked with exact attention, and here every row is read: "
                     "give --kv-mode sparse",
                     what);
}

static int check_options(const struct needle_task *task, const struct needle_options *options,
                         uint32_t *n_ctx)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < options->lengths.n; i++) {
        if (options->lengths.items[i] == 0) return say_error("--lengths 0: must be at least 1");
        if (options->lengths.items[i] > longest) longest = options->lengths.items[i];
    }
    if (longest > RIG_CTX_MAX)
        return say_error("--lengths %u: a context has at most %d tokens", longest, RIG_CTX_MAX);
    if (options->n_needles == 0) return say_error("--needles 0: must be at least 1");
    if (options->n_questions == 0) return say_error("--questions 0: must be at least 1");
    if (options->n_needles > longest)
        return say_error("--needles %u: more than the %u tokens of the longest text: give larger "
                         "--lengths or fewer --needles",
                         options->n_needles, longest);
    if (options->n_each == 0 || options->n_each > options->n_needles)
        return say_error("%s %u: must be 1 or more, and no more than --needles %u", task->each,
                         options->n_each, options->n_needles);
    return choose_context(longest, n_ctx);
}

static int check_kv(const struct needle_task *task, const struct needle_options *options,
                    const struct kv_options *kv)
{
    SAY_TRY(kv_flags_check_stats(kv, options->format));
    if (options->print && strcmp(options->format, "md") != 0)
        return say_error("--print: standard output has the result in JSON; leave -o out");
    if (options->dense_too && task->by_head)
        return say_error("--dense-too: eval %s compares with dense attention as it is", task->name);
    SAY_TRY(check_mode(find_comparison(task, options), kv->mode));
    if (!task->by_head || strtod(kv->verify, NULL) > 0) return EXIT_GOOD;
    return say_error("--kv-verify %s: eval %s needs steps that are compared: above 0%%", kv->verify,
                     task->name);
}

static bool is_auto(const char *chat_template)
{
    return chat_template != NULL && strcmp(chat_template, "auto") == 0;
}

// Puts the model's own template's name in place of "auto".
static int choose_template(const fathom_model *model, const char **name)
{
    if (!is_auto(*name)) return EXIT_GOOD;
    *name = fathom_chat_detect(model);
    if (*name != NULL) return EXIT_GOOD;
    return say_error("--chat-template auto: the model has no chat template that is known: give "
                     "the name of one, or leave the flag out for plain text");
}

// Parses flags; the text of --help is the task's.
static int parse(const struct needle_task *task, struct needle_options *options,
                 struct rig_options *model, int argc, char **argv)
{
    char command[32], about[1024];
    snprintf(command, sizeof command, "eval %s", task->name);
    snprintf(about, sizeof about, "%s\nUp to %d questions for each text. Greedy.", task->about,
             NEEDLE_QUESTIONS_MAX);
    const struct flag each = {task->each, FLAG_COUNT, OPTION(n_each), "N", task->each_text};
    const struct flag_group groups[] = {
        {"Task", &each, 1, options},
        {"Needles", needle_flags, sizeof needle_flags / sizeof needle_flags[0], options},
        rig_file_flags(model),
        rig_device_flags(model),
        rig_context_flags(model),
        kv_flags(&model->kv),
    };
    const size_t n_skipped = task->each == NULL ? 1 : 0; // the task has no flag of its own
    const struct flag_page page = {
        .command = command,
        .use = "-m FILE [--lengths 4k,16k] [--needles N] [--questions N] [-o md|json|jsonl]",
        .about = about,
        .groups = groups + n_skipped,
        .n_groups = sizeof groups / sizeof groups[0] - n_skipped,
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    if (!is_auto(options->chat_template))
        SAY_TRY(conversation_check_template(options->chat_template));
    SAY_TRY(check_kv(task, options, &model->kv));
    // A default is no reason to refuse what was asked for.
    if (task->each != NULL && flags_given(&page, argc, argv, task->each) == NULL &&
        options->n_each > options->n_needles)
        options->n_each = options->n_needles;
    return check_options(task, options, &model->n_ctx);
}

static int run(const struct needle_task *task, struct needle_options *options,
               const struct rig_options *model, const struct puzzle *widest)
{
    struct rig rig;
    int code = options->show ? rig_open_vocabulary(&rig, model) : rig_open(&rig, model);
    if (code == EXIT_GOOD) code = choose_template(rig.model, &options->chat_template);
    if (code == EXIT_GOOD) code = check_plan(find_comparison(task, options), &rig);
    if (code == EXIT_GOOD) code = rig_report(&rig, model, run_lengths(&rig, task, options, widest));
    rig_close(&rig);
    return code;
}

int eval_needle(const struct needle_task *task, int argc, char **argv)
{
    struct needle_options options = {
        .lengths = {{4096, 16384}, 2},
        .n_needles = 32,
        .n_questions = 32,
        .n_depths = 1,
        .n_each = task->n_each,
        .seed = 1,
        .format = "md",
    };
    struct rig_options model = rig_defaults;
    if (task->by_head) {
        model.kv.mode = "sparse";
        model.kv.verify = "100%";
    }
    SAY_TRY(parse(task, &options, &model, argc, argv));
    struct random random;
    random_init(&random, 0);
    struct puzzle widest = {0};
    struct corpus corpus = {0};
    int code = EXIT_GOOD;
    model.files[0] = options.text;
    if (options.text != NULL) {
        SAY_CHECK(corpus_open(&corpus, options.text), out);
        options.corpus = &corpus;
    }
    SAY_CHECK(needle_make(task, &options, &random, true, &widest), out);
    code = run(task, &options, &model, &widest);
out:
    corpus_free(&corpus);
    puzzle_free(&widest);
    return code;
}
