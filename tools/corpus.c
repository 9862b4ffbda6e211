// A sentence ends behind a full stop, a question or an exclamation mark with a blank after it, at
// an empty line, or, if nothing of that comes, at a blank when it gets long. Blanks in a row become
// one.

#include "tools/corpus.h"

#include <stdbool.h>
#include <string.h>

#include "tools/say.h"

static bool is_blank(char c)
{
    return c != '\0' && strchr(" \t\r\n", c) != NULL;
}

int corpus_open(struct corpus *corpus, const char *path)
{
    *corpus = (struct corpus){0};
    SAY_TRY(bytes_append_file(&corpus->text, path));
    for (size_t i = 0; i < corpus->text.n; i++)
        if (!is_blank(corpus->text.data[i])) return EXIT_GOOD;
    return say_error("--text %s: there is no text in it", path);
}

void corpus_free(struct corpus *corpus)
{
    bytes_free(&corpus->text);
}

// Copies a word behind what the sentence has, and what it takes of the text to its end.
static size_t add_word(const struct corpus *corpus, size_t at, struct sentence *out)
{
    const char *text = corpus->text.data;
    if (out->n > 0) out->text[out->n++] = ' ';
    while (at < corpus->text.n && !is_blank(text[at]) && out->n < sizeof out->text - 2)
        out->text[out->n++] = text[at++];
    // What is too long for a sentence is cut, but no character is.
    for (; at < corpus->text.n && ((unsigned char)text[at] & 0xc0) == 0x80 && out->n > 1; at--)
        out->n--;
    return at;
}

static size_t skip_blanks(const struct corpus *corpus, size_t at, unsigned *n_lines)
{
    const struct bytes *text = &corpus->text;
    for (*n_lines = 0; at < text->n && is_blank(text->data[at]); at++)
        *n_lines += text->data[at] == '\n';
    return at;
}

void corpus_seek(struct corpus *corpus, struct random *random)
{
    struct sentence rest;
    corpus->at = random_below(random, (uint32_t)corpus->text.n);
    corpus_next(corpus, &rest);
}

void corpus_next(struct corpus *corpus, struct sentence *out)
{
    enum { LONG_BYTES = 320 };
    unsigned n_lines = 0;
    out->n = 0;
    do {
        corpus->at = skip_blanks(corpus, corpus->at, &n_lines);
        if (corpus->at == corpus->text.n) corpus->at = skip_blanks(corpus, 0, &n_lines);
        corpus->at = add_word(corpus, corpus->at, out);
        const size_t next = skip_blanks(corpus, corpus->at, &n_lines);
        if (next == corpus->text.n || n_lines > 1) break;
    } while (strchr(".!?", out->text[out->n - 1]) == NULL && out->n < LONG_BYTES);
    out->text[out->n] = '\0';
}
