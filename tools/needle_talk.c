// Plain text is a model's own continuation: what is asked stands behind the text, and ends in the
// beginning of the answer. In a conversation the user says the text and what is asked but for its
// last line, which begins the assistant's turn. A form of one line, which a reader could not tell
// for a question without it, stands in both.
//
// Conversations are rendered and tokenized whole for each turn, as templates want it, and what the
// sequence holds of them already is not fed again.

#include "tools/needle_talk.h"

#include <string.h>

#include "tools/block.h"
#include "tools/say.h"

// An answer may begin with blanks, or say more than it should.
enum { ANSWER_TOKENS_MIN = 16, ANSWER_TOKENS_MORE = 8 };
// Tokens may come apart where messages meet.
enum { TURN_TOKENS_MORE = 8 };

// ---- Conversations ------------------------------------------------------------------------------

// Where the last line begins.
static size_t find_last_line(const char *ask)
{
    size_t at = strlen(ask);
    if (at > 0) at--; // it may end in a newline
    while (at > 0 && ask[at - 1] != '\n')
        at--;
    return at;
}

// Appends a message made of two pieces, without the blanks at its end, and a zero.
static int append_message(struct bytes *texts, const char *first, const char *second, size_t bytes)
{
    const size_t begin = texts->n;
    SAY_TRY(bytes_append(texts, first, strlen(first)));
    SAY_TRY(bytes_append(texts, second, bytes));
    while (texts->n > begin && strchr(" \t\r\n", texts->data[texts->n - 1]) != NULL)
        texts->n--;
    return bytes_append(texts, "", 1);
}

// The messages of n_messages zero-terminated texts, user and assistant by turns.
static int append_chat(const struct needle_talk *talk, const struct bytes *texts, size_t n_messages,
                       struct ids *ids)
{
    struct fathom_chat_message *messages = block_new(n_messages, sizeof *messages);
    if (messages == NULL) return EXIT_BAD;
    const char *at = texts->data;
    for (size_t i = 0; i < n_messages; i++, at += strlen(at) + 1)
        messages[i] = (struct fathom_chat_message){i % 2 == 0 ? "user" : "assistant", at};
    int code = ids_append_chat(ids, talk->model, talk->chat_template, messages, n_messages);
    block_free(messages);
    return code;
}

static int append_messages(const struct needle_talk *talk, const struct puzzle *puzzle,
                           const struct turn *turns, size_t last, struct ids *ids)
{
    struct bytes texts = {0};
    int code = EXIT_GOOD;
    const char *opening = "";
    for (size_t i = 0; i <= last; i++) {
        const char *ask = puzzle_text(puzzle, turns[i].ask);
        const size_t n_before = find_last_line(ask), n_user = n_before > 0 ? n_before : strlen(ask);
        SAY_CHECK(append_message(&texts, i == 0 ? talk->text : "", ask, n_user), out);
        opening = ask + n_before;
        const char *got = puzzle_text(puzzle, turns[i].got);
        if (i < last) SAY_CHECK(append_message(&texts, opening, got, strlen(got)), out);
    }
    SAY_CHECK(append_chat(talk, &texts, 2 * last + 1, ids), out);
    SAY_CHECK(ids_append_text(ids, talk->model, opening, strlen(opening), 0), out);
out:
    bytes_free(&texts);
    return code;
}

// The text as a message, for as far as it goes before any question's.
static int share_messages(struct needle_talk *talk, const struct puzzle *puzzle)
{
    struct bytes text = {0};
    struct ids asked = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(append_message(&text, talk->text, "", 0), out);
    SAY_CHECK(append_chat(talk, &text, 1, &talk->held), out);
    SAY_CHECK(needle_talk_turn(talk, puzzle, &puzzle->questions[0], 0, &asked), out);
    talk->held.n = needle_talk_same(talk, &asked);
out:
    bytes_free(&text);
    ids_free(&asked);
    return code;
}

// ---- Plain text ---------------------------------------------------------------------------------

static int append_plain(const struct needle_talk *talk, const struct puzzle *puzzle,
                        const struct turn *turn, bool first, struct ids *ids)
{
    struct bytes text = {0};
    int code = EXIT_GOOD;
    const char *ask = puzzle_text(puzzle, turn->ask);
    SAY_CHECK(ids_append(ids, talk->held.data, talk->held.n), out);
    if (!first) {
        const char *before = puzzle_text(puzzle, turn[-1].got);
        const size_t n = strlen(before);
        if (n == 0 || before[n - 1] != '\n') SAY_CHECK(bytes_append(&text, "\n", 1), out);
    }
    SAY_CHECK(bytes_append(&text, ask, strlen(ask)), out);
    SAY_CHECK(ids_append_text(ids, talk->model, text.data, text.n, 0), out);
out:
    bytes_free(&text);
    return code;
}

// ---- Both ---------------------------------------------------------------------------------------

int needle_talk_open(struct needle_talk *talk, const fathom_model *model, const char *chat_template,
                     const struct haystack *haystack, const struct puzzle *puzzle)
{
    *talk = (struct needle_talk){
        .model = model, .chat_template = chat_template, .text = haystack->text.data};
    if (chat_template != NULL)
        SAY_TRY(share_messages(talk, puzzle));
    else
        SAY_TRY(ids_append(&talk->held, haystack->ids.data, haystack->ids.n));
    talk->n_shared = talk->held.n;
    return EXIT_GOOD;
}

void needle_talk_free(struct needle_talk *talk)
{
    ids_free(&talk->held);
}

int needle_talk_turn(const struct needle_talk *talk, const struct puzzle *puzzle,
                     const struct question *question, size_t i, struct ids *ids)
{
    const struct turn *turns = &puzzle->turns[question->turn];
    if (talk->chat_template != NULL) return append_messages(talk, puzzle, turns, i, ids);
    return append_plain(talk, puzzle, &turns[i], i == 0, ids);
}

size_t needle_talk_same(const struct needle_talk *talk, const struct ids *wanted)
{
    const struct ids *held = &talk->held;
    size_t n = 0;
    while (n < held->n && n + 1 < wanted->n && held->data[n] == wanted->data[n])
        n++;
    return n;
}

static int count_tokens(const fathom_model *model, const char *text, size_t *n)
{
    fathom_status status = fathom_tokenize(model, text, strlen(text), 0, NULL, 0, n);
    return status == FATHOM_PARTIAL ? EXIT_GOOD : say_status(status);
}

int needle_talk_limit(const fathom_model *model, const char *answer, size_t *n)
{
    SAY_TRY(count_tokens(model, answer, n));
    *n += ANSWER_TOKENS_MORE;
    if (*n < ANSWER_TOKENS_MIN) *n = ANSWER_TOKENS_MIN;
    return EXIT_GOOD;
}

// Of the template alone and the turns' asks, the text and the answers left out.
static int count_messages(const fathom_model *model, const char *chat_template,
                          const struct puzzle *puzzle, const struct question *question, size_t *n)
{
    const struct needle_talk talk = {.model = model, .chat_template = chat_template, .text = ""};
    struct ids ids = {0};
    int code = needle_talk_turn(&talk, puzzle, question, question->n_turns - 1, &ids);
    *n = ids.n + question->n_turns * TURN_TOKENS_MORE;
    ids_free(&ids);
    return code;
}

int needle_talk_count(const fathom_model *model, const char *chat_template,
                      const struct puzzle *puzzle, const struct question *question, size_t *n)
{
    *n = question->n_turns - 1; // the newlines that answers may lack
    if (chat_template != NULL) SAY_TRY(count_messages(model, chat_template, puzzle, question, n));
    for (size_t i = 0; i < question->n_turns; i++) {
        const struct turn *turn = &puzzle->turns[question->turn + i];
        size_t n_ask = 0, n_answer;
        if (chat_template == NULL)
            SAY_TRY(count_tokens(model, puzzle_text(puzzle, turn->ask), &n_ask));
        SAY_TRY(needle_talk_limit(model, puzzle_text(puzzle, turn->answer), &n_answer));
        *n += n_ask + n_answer;
    }
    return EXIT_GOOD;
}
