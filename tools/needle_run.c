// One prefill serves many questions: after each, the sequence is cut back to the text's end. That,
// and no fork, because a second sequence would have the engine plan for twice the memory, and what
// is measured is to be the cache of one.

#include "tools/needle_run.h"

#include <string.h>

#include "tools/haystack.h"
#include "tools/ids.h"
#include "tools/say.h"
#include "tools/timer.h"

// An answer may begin with blanks, or say more than it should.
enum { ANSWER_TOKENS_MIN = 16, ANSWER_TOKENS_MORE = 8 };

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

static int count_tokens(const fathom_model *model, const char *text, size_t *n)
{
    fathom_status status = fathom_tokenize(model, text, strlen(text), 0, NULL, 0, n);
    return status == FATHOM_PARTIAL ? EXIT_GOOD : say_status(status);
}

// The most tokens that an answer may take.
static int limit_answer(const fathom_model *model, const char *answer, size_t *n)
{
    SAY_TRY(count_tokens(model, answer, n));
    *n += ANSWER_TOKENS_MORE;
    if (*n < ANSWER_TOKENS_MIN) *n = ANSWER_TOKENS_MIN;
    return EXIT_GOOD;
}

int needle_count_tokens(const fathom_model *model, const struct puzzle *puzzle, size_t *n)
{
    const struct question *question = &puzzle->questions[0];
    *n = question->n_turns - 1; // the newlines that answers may lack
    for (size_t i = 0; i < question->n_turns; i++) {
        const struct turn *turn = &puzzle->turns[question->turn + i];
        size_t n_ask, n_answer;
        SAY_TRY(count_tokens(model, puzzle_text(puzzle, turn->ask), &n_ask));
        SAY_TRY(limit_answer(model, puzzle_text(puzzle, turn->answer), &n_answer));
        *n += n_ask + n_answer;
    }
    return EXIT_GOOD;
}

// The likeliest next token.
static int32_t pick_top(const struct rig *rig)
{
    uint32_t top = 0;
    for (uint32_t i = 1; i < rig->info->n_vocab; i++)
        if (rig->logits[i] > rig->logits[top]) top = i;
    return (int32_t)top;
}

static int decode(struct rig *rig, struct needle_score *score, int32_t id)
{
    double start_ms = timer_now_ms();
    SAY_TRY(rig_feed(rig, &id, 1, NULL));
    return needle_score_add_decode(score, timer_now_ms() - start_ms);
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

// Decodes an answer. The last turn's end is not fed, for nothing follows it.
static int reply(struct rig *rig, const struct puzzle *puzzle, const struct turn *turn, bool last,
                 struct needle_score *score, struct bytes *got)
{
    const char *answer = puzzle_text(puzzle, turn->answer);
    size_t n_max;
    SAY_TRY(limit_answer(rig->model, answer, &n_max));
    for (size_t i = 0; i < n_max; i++) {
        int32_t id = pick_top(rig);
        if (fathom_token_ends(rig->model, id)) break;
        size_t bytes = 0;
        const char *text = fathom_token_text(rig->model, id, false, &bytes);
        if (text != NULL) SAY_TRY(bytes_append(got, text, bytes));
        bool done = is_done(got, answer, score->task->fixed);
        if (done && last) break;
        SAY_TRY(decode(rig, score, id));
        if (done) break;
    }
    return EXIT_GOOD;
}

static int run_turn(struct rig *rig, struct puzzle *puzzle, struct turn *turn, bool first,
                    bool last, struct needle_score *score)
{
    struct ids ids = {0};
    struct bytes text = {0}; // what is asked, then what is answered
    int code = EXIT_GOOD;
    if (!first) {
        const char *before = puzzle_text(puzzle, turn[-1].got);
        const size_t n = strlen(before);
        if (n == 0 || before[n - 1] != '\n') SAY_CHECK(bytes_append(&text, "\n", 1), out);
    }
    const char *ask = puzzle_text(puzzle, turn->ask);
    SAY_CHECK(bytes_append(&text, ask, strlen(ask)), out);
    SAY_CHECK(ids_append_text(&ids, rig->model, text.data, text.n, 0), out);
    SAY_CHECK(rig_feed(rig, ids.data, ids.n, NULL), out);
    text.n = 0;
    text.data[0] = '\0';
    SAY_CHECK(reply(rig, puzzle, turn, last, score, &text), out);
    SAY_CHECK(puzzle_keep(puzzle, text.data, text.n, &turn->got), out);
out:
    ids_free(&ids);
    bytes_free(&text);
    return code;
}

static int ask(struct rig *rig, struct puzzle *puzzle, size_t n_text, size_t n_ask,
               struct needle_score *score)
{
    for (size_t i = 0; i < n_ask; i++) {
        const struct question *question = &puzzle->questions[i];
        for (size_t j = 0; j < question->n_turns; j++)
            SAY_TRY(run_turn(rig, puzzle, &puzzle->turns[question->turn + j], j == 0,
                             j + 1 == question->n_turns, score));
        SAY_TRY(needle_score_add(score, puzzle, question));
        SAY_TRY(rig_truncate(rig, n_text));
    }
    return EXIT_GOOD;
}

static int prefill(struct rig *rig, const struct ids *ids, struct needle_score *score,
                   struct progress *progress)
{
    SAY_TRY(rig_truncate(rig, 0));
    double start_ms = timer_now_ms();
    SAY_TRY(rig_feed(rig, ids->data, ids->n, progress));
    score->prefill_ms += timer_now_ms() - start_ms;
    score->n_prefill += ids->n;
    score->n_texts++;
    return EXIT_GOOD;
}

int needle_run(struct rig *rig, struct random *random, size_t n_text, size_t n_ask,
               struct needle_score *score, struct progress *progress)
{
    struct haystack haystack = {0};
    struct puzzle puzzle = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(needle_make(score->task, score->options, random, false, &puzzle), out);
    SAY_CHECK(haystack_build(&haystack, random, rig->model, &puzzle, n_text), out);
    puzzle_draw(&puzzle, random, n_ask);
    if (score->options->show) {
        code = needle_score_show(score, &puzzle, haystack.text.data, n_ask);
        goto out;
    }
    SAY_CHECK(prefill(rig, &haystack.ids, score, progress), out);
    SAY_CHECK(ask(rig, &puzzle, haystack.ids.n, n_ask, score), out);
out:
    haystack_free(&haystack);
    puzzle_free(&puzzle);
    return code;
}
