// The generation loop of `fathom run`, for single prompts and for the turns of a conversation.

#include "tools/generate.h"

#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "tools/interrupt.h"
#include "tools/say.h"
#include "tools/timer.h"

#define OPTION(member) offsetof(struct generate_options, member)

static const struct flag flags[] = {
    {"-n, --predict, --n-predict", FLAG_INT, OPTION(n_predict), "N",
     "most tokens to generate; -1: until the model ends or the context is full"},
    {"-s, --seed", FLAG_INT, OPTION(seed), "N", "seed; -1: a new one each time"},
    {"--temp, --temperature", FLAG_FLOAT, OPTION(temperature), "X",
     "randomness; 0 or less: always the likeliest token"},
    {"--top-k", FLAG_INT, OPTION(top_k), "N", "only the N likeliest; 0 or less: all"},
    {"--top-p", FLAG_FLOAT, OPTION(top_p), "0..1", "only the likeliest that sum to X; 1: all"},
    {"--min-p", FLAG_FLOAT, OPTION(min_p), "0..1",
     "only those at least X times the likeliest; 0: all"},
    {"--repeat-penalty", FLAG_FLOAT, OPTION(repeat_penalty), "X",
     "above 1: what was said lately becomes less likely; 1: off"},
    {"--repeat-last-n", FLAG_INT, OPTION(n_repeat), "N",
     "tokens that the penalty looks at; -1: the whole context"},
    {"--ignore-eos", FLAG_ON, OPTION(ignore_eos), NULL, "never pick a token that ends the text"},
    {"--special", FLAG_ON, OPTION(special), NULL, "print control tokens too"},
};

struct generate_options generate_defaults(void)
{
    struct fathom_sampler_params params;
    fathom_sampler_params_init(&params);
    return (struct generate_options){
        .n_predict = -1,
        .seed = -1,
        .temperature = params.temperature,
        .top_k = params.top_k,
        .top_p = params.top_p,
        .min_p = params.min_p,
        .repeat_penalty = params.repeat_penalty,
        .n_repeat = params.n_repeat,
    };
}

struct flag_group generate_flags(struct generate_options *options)
{
    return (struct flag_group){"Generation", flags, sizeof flags / sizeof flags[0], options};
}

static int choose_seed(const struct generate_options *options, uint64_t *seed)
{
    *seed = (uint64_t)options->seed;
    if (options->seed >= 0) return EXIT_GOOD;
    uint32_t random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        return say_error("the system gave no random seed: give --seed N");
    *seed = random;
    return EXIT_GOOD;
}

static void ban_enders(struct generator *generator)
{
    const struct rig *rig = generator->rig;
    for (int32_t id = 0; id < (int32_t)rig->info->n_vocab; id++)
        if (fathom_token_ends(rig->model, id)) fathom_sampler_ban(generator->sampler, id);
}

static struct fathom_sampler_params sampler_params(const struct generate_options *options)
{
    struct fathom_sampler_params params;
    fathom_sampler_params_init(&params);
    params.temperature = options->temperature;
    params.top_k = options->top_k > 0 ? (uint32_t)options->top_k : 0;
    params.top_p = options->top_p;
    params.min_p = options->min_p;
    params.repeat_penalty = options->repeat_penalty;
    return params;
}

int generate_check(const struct generate_options *options)
{
    if (options->n_predict < -1)
        return say_error("-n %lld: must be -1 or more", (long long)options->n_predict);
    if (options->seed < -1)
        return say_error("-s %lld: must be -1 or more", (long long)options->seed);
    if (options->top_k > INT32_MAX)
        return say_error("--top-k %lld: must be at most %d", (long long)options->top_k, INT32_MAX);
    if (options->n_repeat < -1)
        return say_error("--repeat-last-n %lld: must be -1 or more", (long long)options->n_repeat);
    if (options->repeat_penalty <= 0)
        return say_error("--repeat-penalty %g: must be above 0", (double)options->repeat_penalty);
    return EXIT_GOOD;
}

int generate_open(struct generator *generator, struct rig *rig,
                  const struct generate_options *options)
{
    *generator = (struct generator){
        .rig = rig,
        .n_predict = options->n_predict,
        .special = options->special,
    };
    struct fathom_sampler_params params = sampler_params(options);
    SAY_TRY(choose_seed(options, &params.seed));
    generator->seed = params.seed;
    generator->draws = params.temperature > 0 && options->n_predict != 0;
    generator->end_lines = isatty(STDOUT_FILENO) != 0;
    params.n_repeat = rig->n_ctx;
    if (options->n_repeat >= 0 && options->n_repeat < rig->n_ctx)
        params.n_repeat = (uint32_t)options->n_repeat;
    SAY_TRY(say_status(fathom_sampler_open(&params, rig->info->n_vocab, &generator->sampler)));
    if (options->ignore_eos) ban_enders(generator);
    return EXIT_GOOD;
}

void generate_close(struct generator *generator)
{
    fathom_sampler_close(&generator->sampler);
    ids_free(&generator->fed);
}

// Picks the token that follows.
static int feed(struct generator *generator, const int32_t *ids, size_t n_ids,
                struct progress *progress, int32_t *next_id)
{
    SAY_TRY(rig_feed_pick(generator->rig, ids, n_ids, progress, generator->sampler, next_id));
    SAY_TRY(ids_append(&generator->fed, ids, n_ids));
    fathom_sampler_accept(generator->sampler, *next_id);
    return EXIT_GOOD;
}

// Brings the sequence from what it holds to ids, and picks the token that follows.
static int feed_prompt(struct generator *generator, const int32_t *ids, size_t n_ids,
                       int32_t *next_id)
{
    struct rig *rig = generator->rig;
    struct ids *fed = &generator->fed;
    if (n_ids == 0) return say_error("the prompt is empty, and the model wants no BOS token");
    if (n_ids > rig->n_ctx)
        return say_error("%zu tokens do not fit the context of %u: give a larger -c", n_ids,
                         rig->n_ctx);
    size_t n_same = 0;
    // The last token is always fed, for what follows it.
    while (n_same < fed->n && n_same + 1 < n_ids && fed->data[n_same] == ids[n_same])
        n_same++;
    SAY_TRY(rig_truncate(rig, n_same));
    fed->n = n_same;
    for (size_t i = n_same; i < n_ids; i++)
        fathom_sampler_accept(generator->sampler, ids[i]);
    double start_ms = timer_now_ms();
    struct progress progress;
    progress_begin(&progress, "prefill", "tokens", n_ids - n_same);
    int code = feed(generator, ids + n_same, n_ids - n_same, &progress, next_id);
    progress_end(&progress);
    generator->n_prompt += progress.done;
    generator->prompt_ms += timer_now_ms() - start_ms;
    return code;
}

// The first token after BOS alone begins a text: its SentencePiece space is none of the text's.
static int print_first(struct generator *generator, int32_t id, struct bytes *reply)
{
    const fathom_model *model = generator->rig->model;
    struct bytes text = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(ids_print(&id, 1, model, generator->special, &text), out);
    if (reply != NULL) SAY_CHECK(bytes_append(reply, text.data, text.n), out);
    code = output_write(&generator->output, text.data, text.n);
out:
    bytes_free(&text);
    return code;
}

static int print(struct generator *generator, int32_t id, struct bytes *reply)
{
    const struct rig *rig = generator->rig;
    if (generator->fed.n == 1 && generator->fed.data[0] == rig->info->bos_id)
        return print_first(generator, id, reply);
    size_t n = 0;
    const char *text = fathom_token_text(rig->model, id, generator->special, &n);
    if (text == NULL) return EXIT_GOOD;
    if (reply != NULL) SAY_TRY(bytes_append(reply, text, n));
    return output_write(&generator->output, text, n);
}

// From its first token on.
static int continue_text(struct generator *generator, int32_t id, struct bytes *reply)
{
    const struct rig *rig = generator->rig;
    for (int64_t n = 0; generator->n_predict < 0 || n < generator->n_predict; n++) {
        if (fathom_token_ends(rig->model, id)) return EXIT_GOOD;
        SAY_TRY(print(generator, id, reply));
        if (interrupt_seen()) return EXIT_INTERRUPTED;
        if (n + 1 == generator->n_predict) return EXIT_GOOD;
        if (generator->fed.n == rig->n_ctx) {
            SAY_TRY(output_end(&generator->output, generator->end_lines));
            if (!generator->end_lines) fputc('\n', stderr); // both may go to one place
            say_note("the context of %u tokens is full", rig->n_ctx);
            return EXIT_GOOD;
        }
        const int32_t fed = id;
        SAY_TRY(feed(generator, &fed, 1, NULL, &id));
        generator->n_eval++;
    }
    return EXIT_GOOD;
}

int generate_reply(struct generator *generator, const int32_t *ids, size_t n_ids,
                   struct bytes *reply)
{
    int32_t id;
    SAY_TRY(feed_prompt(generator, ids, n_ids, &id));
    double start_ms = timer_now_ms();
    int code = continue_text(generator, id, reply);
    generator->eval_ms += timer_now_ms() - start_ms;
    if (code != EXIT_GOOD && code != EXIT_INTERRUPTED) return code;
    int end_code = output_end(&generator->output, generator->end_lines);
    return code != EXIT_GOOD ? code : end_code;
}

static void report_line(const char *label, double ms, uint64_t n, const char *unit)
{
    if (n == 0) return;
    fprintf(stderr, "%s = %10.2f ms / %5llu %s (%8.2f ms per token, %8.2f tokens per second)\n",
            label, ms, (unsigned long long)n, unit, ms / (double)n, (double)n / ms * 1e3);
}

void generate_report(const struct generator *generator)
{
    uint64_t n_tokens = generator->n_prompt + generator->n_eval;
    fputc('\n', stderr);
    if (generator->draws)
        fprintf(stderr, "            seed = %10llu\n", (unsigned long long)generator->seed);
    fprintf(stderr, "       load time = %10.2f ms\n", generator->rig->load_ms);
    report_line("prompt eval time", generator->prompt_ms, generator->n_prompt, "tokens");
    report_line("       eval time", generator->eval_ms, generator->n_eval, "runs  ");
    fprintf(stderr, "      total time = %10.2f ms / %5llu tokens\n",
            generator->prompt_ms + generator->eval_ms, (unsigned long long)n_tokens);
}
