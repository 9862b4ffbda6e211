// A growing list of token ids.

#ifndef FATHOM_TOOLS_IDS_H
#define FATHOM_TOOLS_IDS_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/model.h"
#include "tools/bytes.h"

// Zeroed is empty.
struct ids {
    int32_t *data;
    size_t n;
    size_t capacity;
};

int ids_append(struct ids *ids, const int32_t *more, size_t n);

// Appends the ids of a file of decimal numbers separated by white space, of which there must be
// one at least; "-" is standard input. Needs no model, so that a bad file is found before one is
// loaded; whether the model knows them is for ids_check.
int ids_append_file(struct ids *ids, const char *path);

// Says which of the ids, the file's at `path`, is none of a vocabulary of n_vocab tokens.
int ids_check(const struct ids *ids, const char *path, uint32_t n_vocab);

// Appends the tokens of a text; flags of enum fathom_tokenize_flags.
int ids_append_text(struct ids *ids, const fathom_model *model, const char *text, size_t bytes,
                    uint32_t flags);

// Appends the tokens of a conversation, up to the opening of the assistant's next turn.
int ids_append_chat(struct ids *ids, const fathom_model *model, const char *chat_template,
                    const struct fathom_chat_message *messages, size_t n_messages);

// Appends the text of n ids, as fathom_detokenize gives it.
int ids_print(const int32_t *ids, size_t n, const fathom_model *model, bool special,
              struct bytes *text);

void ids_free(struct ids *ids);

#endif
