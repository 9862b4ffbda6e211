// Lists of token ids: from files, from texts.

#include "tools/ids.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tools/block.h"
#include "tools/say.h"

enum { SHOWN_MAX = 24 }; // characters of a bad id

static int reserve(struct ids *ids, size_t n_more)
{
    return block_grow(&ids->data, &ids->capacity, ids->n + n_more, sizeof *ids->data);
}

int ids_append(struct ids *ids, const int32_t *more, size_t n)
{
    SAY_TRY(reserve(ids, n));
    if (n > 0) memcpy(ids->data + ids->n, more, n * sizeof *more);
    ids->n += n;
    return EXIT_GOOD;
}

static int parse_ids(struct ids *ids, const char *text, const char *path)
{
    for (;;) {
        while (isspace((unsigned char)*text))
            text++;
        if (*text == '\0') return EXIT_GOOD;
        char *end;
        errno = 0;
        long long id = strtoll(text, &end, 10);
        int shown = (int)strcspn(text, " \t\n\v\f\r");
        if (shown > SHOWN_MAX) shown = SHOWN_MAX;
        bool whole = end != text && (*end == '\0' || isspace((unsigned char)*end));
        if (!whole || errno != 0 || id < 0 || id > INT32_MAX)
            return say_error("%s: \"%.*s\", at place %zu, is not a token id, which is a whole "
                             "number from 0 on",
                             path, shown, text, ids->n + 1);
        int32_t value = (int32_t)id;
        SAY_TRY(ids_append(ids, &value, 1));
        text = end;
    }
}

int ids_append_file(struct ids *ids, const char *path)
{
    struct bytes text = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(bytes_append_file(&text, path), out);
    if (strlen(text.data) != text.n) {
        code = say_error("%s: not a text file of ids", path);
        goto out;
    }
    SAY_CHECK(parse_ids(ids, text.data, path), out);
    if (ids->n == 0) code = say_error("%s: no ids in it", path);
out:
    bytes_free(&text);
    return code;
}

int ids_check(const struct ids *ids, const char *path, uint32_t n_vocab)
{
    for (size_t i = 0; i < ids->n; i++)
        if ((uint32_t)ids->data[i] >= n_vocab)
            return say_error("%s: %d, at place %zu, is outside the vocabulary (0 to %u)", path,
                             ids->data[i], i + 1, n_vocab - 1);
    return EXIT_GOOD;
}

int ids_append_text(struct ids *ids, const fathom_model *model, const char *text, size_t bytes,
                    uint32_t flags)
{
    // Most vocabularies need fewer tokens than bytes, so the second call is the exception.
    size_t n = 0;
    SAY_TRY(reserve(ids, bytes / 2 + 16));
    fathom_status status =
        fathom_tokenize(model, text, bytes, flags, ids->data + ids->n, ids->capacity - ids->n, &n);
    if (status == FATHOM_PARTIAL) {
        SAY_TRY(reserve(ids, n));
        status = fathom_tokenize(model, text, bytes, flags, ids->data + ids->n,
                                 ids->capacity - ids->n, &n);
    }
    SAY_TRY(say_status(status));
    ids->n += n;
    return EXIT_GOOD;
}

int ids_append_chat(struct ids *ids, const fathom_model *model, const char *chat_template,
                    const struct fathom_chat_message *messages, size_t n_messages)
{
    size_t n = 0;
    fathom_status status =
        fathom_chat_tokenize(model, chat_template, messages, n_messages, true, NULL, 0, &n);
    if (status == FATHOM_PARTIAL) {
        SAY_TRY(reserve(ids, n));
        status = fathom_chat_tokenize(model, chat_template, messages, n_messages, true,
                                      ids->data + ids->n, ids->capacity - ids->n, &n);
    }
    SAY_TRY(say_status(status));
    ids->n += n;
    return EXIT_GOOD;
}

int ids_print(const int32_t *ids, size_t n, const fathom_model *model, bool special,
              struct bytes *text)
{
    size_t bytes = 0;
    SAY_TRY(bytes_reserve(text, n * 8));
    fathom_status status = fathom_detokenize(model, ids, n, special, text->data + text->n,
                                             text->capacity - text->n - 1, &bytes);
    if (status == FATHOM_PARTIAL) {
        SAY_TRY(bytes_reserve(text, bytes));
        status = fathom_detokenize(model, ids, n, special, text->data + text->n,
                                   text->capacity - text->n - 1, &bytes);
    }
    SAY_TRY(say_status(status));
    text->n += bytes;
    text->data[text->n] = '\0';
    return EXIT_GOOD;
}

void ids_free(struct ids *ids)
{
    block_free(ids->data);
    *ids = (struct ids){0};
}
