// Chat templates: which of the built-in ones a model's Jinja template is, and rendering them.

#ifndef FATHOM_SRC_MODEL_CHAT_H
#define FATHOM_SRC_MODEL_CHAT_H

#include "fathom/model.h"
#include "src/model/vocab.h"

// As fathom_chat_detect, from the text of tokenizer.chat_template; NULL gives NULL.
const char *chat_detect(const char *jinja_template);

// As fathom_chat_format. jinja_template tells variants of one name apart (the spaces of "mistral",
// the system message of "llama2"); NULL: the newest variant. Also takes llama.cpp's names of
// Mistral's variants: mistral-v1, mistral-v3, mistral-v3-tekken, mistral-v7, mistral-v7-tekken.
// contents, if not NULL: [n_messages] where in the text each message's content stands.
FATHOM_MUST_USE fathom_status chat_format(const char *name, const char *jinja_template,
                                          const struct fathom_chat_message *messages,
                                          size_t n_messages, bool add_assistant, char *text,
                                          size_t capacity, size_t *text_bytes,
                                          struct vocab_span *contents);

#endif
