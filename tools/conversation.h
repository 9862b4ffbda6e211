// `fathom run -cnv`: turns from standard input, replies on standard output.

#ifndef FATHOM_TOOLS_CONVERSATION_H
#define FATHOM_TOOLS_CONVERSATION_H

#include "tools/generate.h"

struct conversation_options {
    const char *chat_template; // NULL: the model's
    const char *system;        // NULL: none
    bool single_turn;
};

struct flag_group conversation_flags(struct conversation_options *options);

// Says so if --chat-template names none that is known; NULL is fine. Needs no model.
int conversation_check_template(const char *name);

// Converses until standard input ends, or for one turn. first: the first user's turn; empty: read
// it.
int conversation_hold(struct generator *generator, const struct conversation_options *options,
                      const struct bytes *first);

#endif
