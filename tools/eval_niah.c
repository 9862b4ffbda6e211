// `fathom eval niah`: needles in a haystack. One prefill of a long text serves many questions:
// after each answer the sequence is cut back to the text's end. Greedy decoding, so that the same
// seed gives the same score.

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "tools/block.h"
#include "tools/eval.h"
#include "tools/haystack.h"
#include "tools/output.h"
#include "tools/report.h"
#include "tools/say.h"
#include "tools/stats.h"
#include "tools/timer.h"

// An answer may begin with blanks; more tokens than this hold no number of five digits.
enum { ANSWER_TOKENS_MAX = 16, TEXT_QUESTIONS_MAX = 32 };

struct niah_options {
    struct flag_counts lengths;
    uint32_t n_needles, n_questions;
    int64_t seed;
    float min_score;
    const char *format;
};

#define OPTION(member) offsetof(struct niah_options, member)

static const struct flag niah_flags[] = {
    {"--lengths", FLAG_COUNTS, OPTION(lengths), "N,...", "tokens of text, question and answer"},
    {"--needles", FLAG_COUNT, OPTION(n_needles), "N", "needles in each text"},
    {"--questions", FLAG_COUNT, OPTION(n_questions), "N", "questions at each length"},
    {"-s, --seed", FLAG_INT, OPTION(seed), "N", "seed of the texts"},
    {"--min-score", FLAG_FLOAT, OPTION(min_score), "0..1",
     "exit 1 if fewer than this share of the answers is exact at some length"},
    {"-o, --output", FLAG_TEXT, OPTION(format), "md|json", "form of the result"},
};

// What one length gave.
struct niah_result {
    uint32_t n_tokens;                     // asked for
    size_t n_questions, n_exact, n_digits; // digits that were right, out of 5 for each question
    size_t n_texts, n_prefill;             // texts, and their tokens
    double prefill_ms;
    double *decode_ms; // of each decoded token
    size_t n_decoded, n_decoded_max;
    struct stats decode;
};

// The likeliest next token.
static int32_t pick_top(const struct rig *rig)
{
    uint32_t top = 0;
    for (uint32_t i = 1; i < rig->info->n_vocab; i++)
        if (rig->logits[i] > rig->logits[top]) top = i;
    return (int32_t)top;
}

static int decode(struct rig *rig, struct niah_result *result, int32_t id)
{
    double start_ms = timer_now_ms();
    SAY_TRY(rig_feed(rig, &id, 1, NULL));
    SAY_TRY(block_grow(&result->decode_ms, &result->n_decoded_max, result->n_decoded + 1,
                       sizeof *result->decode_ms));
    result->decode_ms[result->n_decoded++] = timer_now_ms() - start_ms;
    return EXIT_GOOD;
}

// Takes the first run of digits out of more text. Returns whether the number has ended.
static bool collect_digits(const char *text, size_t bytes, char *digits, size_t *n)
{
    for (size_t i = 0; i < bytes; i++) {
        if (isdigit((unsigned char)text[i])) {
            if (*n <= HAYSTACK_DIGITS) digits[(*n)++] = text[i];
        } else if (*n > 0 || !isspace((unsigned char)text[i])) {
            return true;
        }
    }
    return *n >= HAYSTACK_DIGITS;
}

// Decodes the answer behind the question just fed and counts it.
static int answer(struct rig *rig, const struct needle *needle, struct niah_result *result)
{
    char digits[HAYSTACK_DIGITS + 1];
    size_t n = 0;
    for (int i = 0; i < ANSWER_TOKENS_MAX; i++) {
        int32_t id = pick_top(rig);
        if (fathom_token_ends(rig->model, id)) break;
        size_t bytes = 0;
        const char *text = fathom_token_text(rig->model, id, false, &bytes);
        if (text != NULL && collect_digits(text, bytes, digits, &n)) break;
        SAY_TRY(decode(rig, result, id));
    }
    size_t n_right = 0;
    for (size_t i = 0; i < n && i < HAYSTACK_DIGITS; i++)
        n_right += digits[i] == needle->digits[i];
    result->n_questions++;
    result->n_digits += n_right;
    result->n_exact += n == HAYSTACK_DIGITS && n_right == HAYSTACK_DIGITS;
    return EXIT_GOOD;
}

// Asks for n of the needles, each at most once, in an order of chance.
static int ask(struct rig *rig, struct haystack *haystack, struct random *random, size_t n,
               struct niah_result *result)
{
    struct ids question = {0};
    int code = EXIT_GOOD;
    for (size_t i = 0; i < n; i++) {
        size_t n_left = haystack->n_needles - i;
        size_t chosen = i + random_below(random, (uint32_t)n_left);
        struct needle needle = haystack->needles[chosen];
        haystack->needles[chosen] = haystack->needles[i];
        haystack->needles[i] = needle;
        char text[HAYSTACK_QUESTION_BYTES];
        haystack_question(&needle, text);
        question.n = 0;
        SAY_CHECK(ids_append_text(&question, rig->model, text, strlen(text), 0), out);
        SAY_CHECK(rig_feed(rig, question.data, question.n, NULL), out);
        SAY_CHECK(answer(rig, &needle, result), out);
        SAY_CHECK(rig_truncate(rig, haystack->ids.n), out);
    }
out:
    ids_free(&question);
    return code;
}

// Tokens to keep free for the longest question and its answer.
static int count_reserve(const struct rig *rig, size_t *n)
{
    struct needle needle;
    memset(needle.key, 'x', sizeof needle.key - 1);
    needle.key[sizeof needle.key - 1] = '\0';
    char text[HAYSTACK_QUESTION_BYTES];
    haystack_question(&needle, text);
    fathom_status status = fathom_tokenize(rig->model, text, strlen(text), 0, NULL, 0, n);
    *n += ANSWER_TOKENS_MAX;
    return status == FATHOM_PARTIAL ? EXIT_GOOD : say_status(status);
}

static int run_text(struct rig *rig, const struct niah_options *options, struct random *random,
                    size_t n_text, size_t n_ask, struct niah_result *result,
                    struct progress *progress)
{
    struct haystack haystack;
    int code = EXIT_GOOD;
    SAY_CHECK(haystack_build(&haystack, random, rig->model, options->n_needles, n_text), out);
    SAY_CHECK(rig_truncate(rig, 0), out);
    double start_ms = timer_now_ms();
    SAY_CHECK(rig_feed(rig, haystack.ids.data, haystack.ids.n, progress), out);
    result->prefill_ms += timer_now_ms() - start_ms;
    result->n_prefill += haystack.ids.n;
    result->n_texts++;
    SAY_CHECK(ask(rig, &haystack, random, n_ask, result), out);
out:
    haystack_free(&haystack);
    return code;
}

static int run_length(struct rig *rig, const struct niah_options *options,
                      struct niah_result *result)
{
    size_t n_reserve;
    SAY_TRY(count_reserve(rig, &n_reserve));
    if (result->n_tokens <= n_reserve)
        return say_error("--lengths %u: question and answer alone take %zu tokens: give larger "
                         "lengths",
                         result->n_tokens, n_reserve);
    size_t n_text = result->n_tokens - n_reserve;
    size_t n_ask_max =
        options->n_needles < TEXT_QUESTIONS_MAX ? options->n_needles : TEXT_QUESTIONS_MAX;
    size_t n_texts = (options->n_questions + n_ask_max - 1) / n_ask_max;
    // The length seeds too, so that a length's texts do not depend on the others asked for.
    struct random random;
    random_init(&random, (uint64_t)options->seed ^ (uint64_t)result->n_tokens << 32);
    char label[64];
    snprintf(label, sizeof label, "niah %u", result->n_tokens);
    struct progress progress;
    progress_begin(&progress, label, "tokens", n_texts * n_text);
    progress_laps(&progress, n_text);
    int code = EXIT_GOOD;
    for (size_t i = 0; i < n_texts && code == EXIT_GOOD; i++) {
        size_t n_left = options->n_questions - result->n_questions;
        size_t n_ask = n_left < n_ask_max ? n_left : n_ask_max;
        code = run_text(rig, options, &random, n_text, n_ask, result, &progress);
    }
    progress_end(&progress);
    result->decode = stats_of(result->decode_ms, result->n_decoded);
    return code;
}

static double score(const struct niah_result *result)
{
    return (double)result->n_exact / (double)result->n_questions;
}

static void print_header(void)
{
    printf("| %8s | %7s | %9s | %8s | %8s | %13s | %15s |\n", "tokens", "needles", "questions",
           "exact %", "digits %", "prefill tok/s", "decode ms/token");
    printf("| %.7s: | %.6s: | %.8s: | %.7s: | %.7s: | %.12s: | %.14s: |\n", "--------", "--------",
           "--------", "--------", "--------", "----------------", "----------------");
}

static int print_row(const struct niah_options *options, const struct niah_result *result)
{
    char decode[32] = "-"; // where every answer ended at once
    if (result->n_decoded > 0) snprintf(decode, sizeof decode, "%.3f", result->decode.median);
    printf("| %8u | %7u | %9zu | %8.2f | %8.2f | %13.1f | %15s |\n", result->n_tokens,
           options->n_needles, result->n_questions, 100 * score(result),
           100.0 * (double)result->n_digits / (double)(result->n_questions * HAYSTACK_DIGITS),
           (double)result->n_prefill / result->prefill_ms * 1e3, decode);
    return output_check();
}

static json_t *build_row(const struct niah_options *options, const struct niah_result *result)
{
    return json_pack("{s:s, s:I, s:i, s:i, s:i, s:i, s:f, s:f, s:i, s:i, s:f, s:o}", "task", "niah",
                     "seed", (json_int_t)options->seed, "length", (int)result->n_tokens, "needles",
                     (int)options->n_needles, "questions", (int)result->n_questions, "exact",
                     (int)result->n_exact, "score", score(result), "digit_score",
                     (double)result->n_digits / (double)(result->n_questions * HAYSTACK_DIGITS),
                     "prefills", (int)result->n_texts, "prefill_tokens", (int)result->n_prefill,
                     "prefill_ms", result->prefill_ms, "decode_ms_per_token",
                     result->n_decoded > 0 ? json_real(result->decode.median) : json_null());
}

static int run_lengths(struct rig *rig, const struct niah_options *options, bool json)
{
    json_t *rows = json_array();
    bool low = false;
    int code = EXIT_GOOD;
    for (uint32_t i = 0; i < options->lengths.n && code == EXIT_GOOD; i++) {
        struct niah_result result = {.n_tokens = options->lengths.items[i]};
        code = run_length(rig, options, &result);
        if (code == EXIT_GOOD && !json && i == 0) print_header();
        if (code == EXIT_GOOD && !json) code = print_row(options, &result);
        if (code == EXIT_GOOD) json_array_append_new(rows, build_row(options, &result));
        if (code == EXIT_GOOD) low = low || score(&result) < (double)options->min_score;
        block_free(result.decode_ms);
    }
    if (json && code == EXIT_GOOD)
        code = report_print_json(rows);
    else
        json_decref(rows);
    if (code == EXIT_GOOD && low)
        code = say_error("the score is below --min-score %g", (double)options->min_score);
    return code;
}

// The context: as asked for, but no less than the longest text takes.
static int choose_context(const struct niah_options *options, uint32_t *n_ctx)
{
    uint32_t longest = 0;
    for (uint32_t i = 0; i < options->lengths.n; i++)
        if (options->lengths.items[i] > longest) longest = options->lengths.items[i];
    if (*n_ctx == 0) *n_ctx = longest;
    if (longest <= *n_ctx) return EXIT_GOOD;
    return say_error("-c %u is too small for texts of %u tokens: give -c %u or none, or smaller "
                     "--lengths",
                     *n_ctx, longest, longest);
}

int eval_niah(int argc, char **argv)
{
    struct niah_options options = {
        .lengths = {{4096, 16384}, 2},
        .n_needles = 32,
        .n_questions = 32,
        .seed = 1,
        .format = "md",
    };
    struct rig_options model = rig_defaults;
    const struct flag_group groups[] = {
        {"Needles", niah_flags, sizeof niah_flags / sizeof niah_flags[0], &options},
        rig_file_flags(&model),
        rig_device_flags(&model),
        rig_context_flags(&model),
        kv_flags(&model.kv),
    };
    const struct flag_page page = {
        .command = "eval niah",
        .use = "-m FILE [--lengths 4k,16k] [--needles N] [--questions N] [-o md|json]",
        .about =
            "Hides \"The secret number of KEY is DDDDD.\" among filler sentences and asks for\n"
            "the numbers; up to 32 questions for each text. Greedy; an answer counts when all\n"
            "five digits are right.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    bool json = strcmp(options.format, "json") == 0;
    if (options.n_needles == 0 || options.n_questions == 0)
        return say_error("--needles and --questions must be at least 1");
    SAY_TRY(choose_context(&options, &model.n_ctx));
    struct rig rig;
    int code = rig_open(&rig, &model);
    if (code == EXIT_GOOD) code = run_lengths(&rig, &options, json);
    if (code == EXIT_GOOD) code = rig_report(&rig, &model);
    rig_close(&rig);
    return code;
}
