// A text of the user's as an endless run of sentences.

#ifndef FATHOM_TOOLS_CORPUS_H
#define FATHOM_TOOLS_CORPUS_H

#include "tools/bytes.h"
#include "tools/sentence.h"

struct corpus {
    struct bytes text;
    size_t at; // where the next sentence begins
};

// Reads the file; "-" is standard input. *corpus need not be initialised and may be freed after a
// failure.
int corpus_open(struct corpus *corpus, const char *path);
void corpus_free(struct corpus *corpus);

// Goes on at a place of chance.
void corpus_seek(struct corpus *corpus, struct random *random);

// The next sentence, in one line; behind the last one comes the first.
void corpus_next(struct corpus *corpus, struct sentence *out);

#endif
