// One prefill serves many questions: after each, the sequence is cut back to the text's end. That,
// and no fork, because the engine plans tails, segments and index for as many whole sequences as it
// may have, and what is measured is to be the cache of one.

#include "tools/needle_run.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/judge.h"
#include "tools/kv_report.h"
#include "tools/needle_talk.h"
#include "tools/output.h"
#include "tools/say.h"
#include "tools/timer.h"

int needle_make(const struct needle_task *task, const struct needle_options *options,
                struct random *random, bool widest, struct puzzle *puzzle)
{
    struct maker maker = {
        .puzzle = puzzle,
        .random = random,
        .n_needles = options->n_needles,
        .n_depths = options->n_depths,
        .n_each = options->n_each,
        .widest = widest,
    };
    int code = task->make(&maker);
    if (code == EXIT_GOOD && maker.n_answers < options->n_depths)
        code = say_error("--depths %u: a text hides %zu answers with --needles %u: give fewer "
                         "--depths or more --needles",
                         options->n_depths, maker.n_answers, options->n_needles);
    maker_free(&maker);
    return code;
}

// The likeliest next token.
static int32_t pick_top(const struct rig *rig)
{
    uint32_t top = 0;
    for (uint32_t i = 1; i < rig->info->n_vocab; i++)
        if (rig->logits[i] > rig->logits[top]) top = i;
    return (int32_t)top;
}

// Of one text.
struct run {
    struct rig *rig;
    struct puzzle *puzzle;
    struct needle_score *score;
    struct progress *progress;
    size_t n_question; // tokens that a question and its answer are counted as there
    struct needle_talk talk;
    struct needle_kl kl; // of the question under way
    struct output output;
};

static int decode(struct run *run, int32_t id)
{
    double start_ms = timer_now_ms();
    SAY_TRY(rig_feed(run->rig, &id, 1, NULL));
    SAY_TRY(needle_score_add_decode(run->score, timer_now_ms() - start_ms));
    return ids_append(&run->talk.held, &id, 1);
}

static size_t count_lines(const char *text)
{
    size_t n = 0;
    while ((text = strchr(text, '\n')) != NULL) {
        text++;
        n++;
    }
    return n;
}

// Whether nothing that matters can follow: as many lines as in the right answer, or, where answers
// are all of one length, as many characters.
static bool is_done(const struct bytes *got, const char *answer, bool fixed)
{
    const char *text = got->data + strspn(got->data, " \t\r\n");
    if (count_lines(text) >= count_lines(answer)) return true;
    size_t bytes;
    judge_trim(answer, &bytes);
    return fixed && strlen(text) >= bytes;
}

// For who reads along.
static int print(struct run *run, const char *text, size_t bytes)
{
    return run->score->options->print ? output_write(&run->output, text, bytes) : EXIT_GOOD;
}

// Decodes an answer. The last turn's end is not fed, for nothing follows it.
static int reply(struct run *run, const struct turn *turn, bool last, struct bytes *got)
{
    const fathom_model *model = run->rig->model;
    const char *answer = puzzle_text(run->puzzle, turn->answer);
    size_t n_max;
    SAY_TRY(needle_talk_limit(model, answer, &n_max));
    for (size_t i = 0; i < n_max; i++) {
        int32_t id = pick_top(run->rig);
        if (fathom_token_ends(model, id)) break;
        size_t bytes = 0;
        const char *text = fathom_token_text(model, id, false, &bytes);
        if (text != NULL) SAY_TRY(bytes_append(got, text, bytes));
        if (text != NULL) SAY_TRY(print(run, text, bytes));
        bool done = is_done(got, answer, run->score->task->fixed);
        if (done && last) break;
        SAY_TRY(decode(run, id));
        if (done) break;
    }
    return EXIT_GOOD;
}

// Has the sequence hold the ids, and these forgotten.
static int feed(struct run *run, struct ids *ids)
{
    struct ids *held = &run->talk.held;
    const size_t n_same = needle_talk_same(&run->talk, ids);
    if (n_same < held->n) SAY_TRY(rig_truncate(run->rig, n_same));
    SAY_TRY(rig_feed(run->rig, ids->data + n_same, ids->n - n_same, NULL));
    ids_free(held);
    *held = *ids;
    *ids = (struct ids){0};
    return EXIT_GOOD;
}

static int run_turn(struct run *run, const struct question *question, size_t i)
{
    struct turn *turn = &run->puzzle->turns[question->turn + i];
    const bool last = i + 1 == question->n_turns;
    struct ids ids = {0};
    struct bytes got = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(needle_talk_turn(&run->talk, run->puzzle, question, i, &ids), out);
    SAY_CHECK(feed(run, &ids), out);
    const char *asked = puzzle_text(run->puzzle, turn->ask);
    SAY_CHECK(print(run, asked, strlen(asked)), out);
    const size_t n_asked = run->talk.held.n;
    SAY_CHECK(bytes_reserve(&got, 0), out);
    SAY_CHECK(reply(run, turn, last, &got), out);
    SAY_CHECK(puzzle_keep(run->puzzle, got.data, got.n, &turn->got), out);
    if (last && run->score->options->kl_dense && !needle_score_is_dense(run->score)) {
        run->talk.held.n = n_asked;
        code = needle_kl_add(&run->kl, run->rig, &run->talk.held,
                             puzzle_text(run->puzzle, turn->answer));
    }
out:
    ids_free(&ids);
    bytes_free(&got);
    return code;
}

// Marks an answer; a wrong one with the right one.
static int end_print(struct run *run, const struct question *question, bool right)
{
    if (!run->score->options->print) return EXIT_GOOD;
    const struct turn *last = &run->puzzle->turns[question->turn + question->n_turns - 1];
    SAY_TRY(output_end(&run->output, true));
    size_t bytes;
    const char *answer = judge_trim(puzzle_text(run->puzzle, last->answer), &bytes);
    printf(right ? "(right)\n\n" : "(wrong: %.*s)\n\n", (int)bytes, answer);
    return output_check();
}

static int ask(struct run *run, const struct question *question)
{
    struct ids *held = &run->talk.held;
    run->kl = (struct needle_kl){0};
    if (held->n > run->talk.n_shared) held->n = run->talk.n_shared;
    SAY_TRY(rig_truncate(run->rig, held->n));
    if (run->score->options->print) progress_hide(run->progress);
    for (size_t i = 0; i < question->n_turns; i++)
        SAY_TRY(run_turn(run, question, i));
    progress_add(run->progress, run->n_question);
    const size_t n_exact = run->score->n_exact;
    SAY_TRY(needle_score_add(run->score, run->puzzle, question, &run->kl));
    return end_print(run, question, run->score->n_exact > n_exact);
}

static int ask_all(struct run *run, size_t n_ask, struct needle_score *score)
{
    const fathom_engine *engine = fathom_runner_engine(run->rig->runner);
    struct fathom_kv_stats before, after;
    run->score = score;
    SAY_TRY(kv_report_take(engine, &before));
    int code = EXIT_GOOD;
    for (size_t i = 0; i < n_ask && code == EXIT_GOOD; i++)
        code = ask(run, &run->puzzle->questions[i]);
    SAY_TRY(kv_report_take(engine, &after));
    needle_score_add_reads(score, &before, &after);
    return code;
}

static int ask_all_densely(struct run *run, size_t n_ask, struct needle_score *score)
{
    fathom_engine *engine = fathom_runner_engine(run->rig->runner);
    SAY_TRY(say_status(fathom_engine_set_exact(engine, true)));
    if (score->options->print) printf("Again, with all rows read.\n\n");
    SAY_TRY(ask_all(run, n_ask, score));
    return say_status(fathom_engine_set_exact(engine, false));
}

static int prefill(struct run *run)
{
    const struct ids *held = &run->talk.held;
    struct needle_score *score = run->score;
    SAY_TRY(rig_truncate(run->rig, 0));
    double start_ms = timer_now_ms();
    SAY_TRY(rig_feed(run->rig, held->data, held->n, run->progress));
    score->prefill_ms += timer_now_ms() - start_ms;
    score->n_prefill += held->n;
    score->n_texts++;
    return EXIT_GOOD;
}

int needle_run(struct rig *rig, struct random *random, size_t n_text, size_t n_ask,
               struct needle_score *score, struct progress *progress)
{
    struct haystack haystack = {0};
    struct puzzle puzzle = {0};
    struct run run = {
        .rig = rig,
        .puzzle = &puzzle,
        .score = score,
        .progress = progress,
        .n_question = score->n_tokens - n_text,
        .output.whole_lines = !isatty(STDOUT_FILENO), // a log may have progress in it
    };
    int code = EXIT_GOOD;
    SAY_CHECK(needle_make(score->task, score->options, random, false, &puzzle), out);
    SAY_CHECK(
        haystack_build(&haystack, random, rig->model, &puzzle, score->options->corpus, n_text),
        out);
    puzzle_draw(&puzzle, random, n_ask);
    if (score->options->show) {
        code = needle_score_show(score, &puzzle, haystack.text.data, n_ask);
        goto out;
    }
    SAY_CHECK(
        needle_talk_open(&run.talk, rig->model, score->options->chat_template, &haystack, &puzzle),
        out);
    SAY_CHECK(prefill(&run), out);
    SAY_CHECK(ask_all(&run, n_ask, score), out);
    if (score->dense != NULL) SAY_CHECK(ask_all_densely(&run, n_ask, score->dense), out);
out:
    needle_talk_free(&run.talk);
    haystack_free(&haystack);
    puzzle_free(&puzzle);
    return code;
}
