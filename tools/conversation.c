// A conversation. Every turn formats and tokenizes the whole of it again and feeds what the KV
// cache does not hold yet: right for every template (some drop parts of earlier turns), and the
// cost beside a forward pass is small.

#include "tools/conversation.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/block.h"
#include "tools/interrupt.h"
#include "tools/say.h"

#define OPTION(member) offsetof(struct conversation_options, member)

static const struct flag flags[] = {
    {"--chat-template", FLAG_TEXT, OPTION(chat_template), "NAME",
     "llama3, chatml, qwen3, mistral, llama2, phi3, zephyr; default: the model's"},
    {"-sys, --system-prompt", FLAG_TEXT, OPTION(system), "TEXT", "the system's message"},
    {"-st, --single-turn", FLAG_ON, OPTION(single_turn), NULL, "end after one turn"},
};

// messages[i].content points into contents[i] and is set when the message is complete.
struct conversation {
    struct generator *generator;
    const char *chat_template;
    struct fathom_chat_message *messages;
    struct bytes *contents;
    size_t n_messages, n_messages_max, n_contents_max;
};

struct flag_group conversation_flags(struct conversation_options *options)
{
    return (struct flag_group){"Conversation (-cnv)", flags, sizeof flags / sizeof flags[0],
                               options};
}

int conversation_check_template(const char *name)
{
    if (name == NULL) return EXIT_GOOD;
    size_t n = 0; // an empty conversation tells whether the name is known
    fathom_status status = fathom_chat_format(NULL, name, NULL, 0, false, NULL, 0, &n);
    return status < 0 ? say_status(status) : EXIT_GOOD;
}

// Adds a message, taking the text out of *content.
static int add_message(struct conversation *talk, const char *role, struct bytes *content)
{
    size_t n = talk->n_messages + 1;
    SAY_TRY(bytes_reserve(content, 0));
    SAY_TRY(block_grow(&talk->messages, &talk->n_messages_max, n, sizeof *talk->messages));
    SAY_TRY(block_grow(&talk->contents, &talk->n_contents_max, n, sizeof *talk->contents));
    talk->contents[talk->n_messages] = *content;
    talk->messages[talk->n_messages] =
        (struct fathom_chat_message){.role = role, .content = content->data};
    talk->n_messages = n;
    *content = (struct bytes){0};
    return EXIT_GOOD;
}

static int check_room(const struct rig *rig, size_t n_ids)
{
    if (n_ids <= rig->n_ctx) return EXIT_GOOD;
    return say_error("the conversation, of %zu tokens by now, has outgrown the context of %u: "
                     "begin a new one, or give a larger -c",
                     n_ids, rig->n_ctx);
}

// One turn: *user's text in, a printed reply and both in the conversation.
static int take_turn(struct conversation *talk, struct bytes *user)
{
    struct bytes reply = {0};
    struct ids ids = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(add_message(talk, "user", user), out);
    SAY_CHECK(ids_append_chat(&ids, talk->generator->rig->model, talk->chat_template,
                              talk->messages, talk->n_messages),
              out);
    SAY_CHECK(check_room(talk->generator->rig, ids.n), out);
    SAY_CHECK(generate_reply(talk->generator, ids.data, ids.n, &reply), out);
    SAY_CHECK(add_message(talk, "assistant", &reply), out);
out:
    ids_free(&ids);
    bytes_free(&reply);
    return code;
}

// Reads one line into user, without its end. *ended: there is none.
static int read_line(struct bytes *user, bool *ended)
{
    if (isatty(STDIN_FILENO)) fputs("> ", stderr);
    for (;;) {
        errno = 0;
        int c = fgetc(stdin);
        if (interrupt_seen()) return EXIT_INTERRUPTED;
        if (c == EOF && ferror(stdin))
            return say_error("cannot read standard input: %s", strerror(errno));
        *ended = c == EOF && user->n == 0;
        if (c == EOF || c == '\n') return bytes_reserve(user, 0);
        char byte = (char)c;
        SAY_TRY(bytes_append(user, &byte, 1));
    }
}

static int hold(struct conversation *talk, const struct conversation_options *options,
                const struct bytes *first)
{
    struct bytes text = {0};
    bool ended = false;
    int code = EXIT_GOOD;
    if (options->system != NULL) {
        SAY_CHECK(bytes_append(&text, options->system, strlen(options->system)), out);
        SAY_CHECK(add_message(talk, "system", &text), out);
    }
    if (first->n > 0) {
        SAY_CHECK(bytes_append(&text, first->data, first->n), out);
        SAY_CHECK(take_turn(talk, &text), out);
        ended = options->single_turn;
    }
    while (!ended) {
        SAY_CHECK(read_line(&text, &ended), out);
        if (ended || text.n == 0) continue;
        SAY_CHECK(take_turn(talk, &text), out);
        ended = options->single_turn;
    }
out:
    bytes_free(&text);
    return code;
}

int conversation_hold(struct generator *generator, const struct conversation_options *options,
                      const struct bytes *first)
{
    struct conversation talk = {.generator = generator, .chat_template = options->chat_template};
    if (talk.chat_template == NULL) talk.chat_template = fathom_chat_detect(generator->rig->model);
    if (talk.chat_template == NULL)
        return say_error("the model has no chat template that is known: give --chat-template NAME, "
                         "or -no-cnv for plain continuation");
    generator->end_lines = true;
    int code = hold(&talk, options, first);
    for (size_t i = 0; i < talk.n_messages; i++)
        bytes_free(&talk.contents[i]);
    block_free(talk.contents);
    block_free(talk.messages);
    return code;
}
