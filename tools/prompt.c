// Prompts from flags and files.

#include "tools/prompt.h"

#include <string.h>

#include "fathom/model.h"
#include "tools/say.h"

#define OPTION(member) offsetof(struct prompt_options, member)

static const struct flag flags[] = {
    {"-p, --prompt", FLAG_TEXT, OPTION(text), "TEXT", "the text; after that of -f if both"},
    {"-f, --file", FLAG_TEXT, OPTION(file), "FILE", "a file's bytes as they are; -: stdin"},
    {"-e, --escape", FLAG_ON, OPTION(escapes), NULL,
     "-p knows \\n \\t \\r \\0 \\\\ \\\" \\' \\xHH; any other backslash stays"},
    {"--no-bos", FLAG_ON, OPTION(no_bos), NULL, "put no BOS first, even if the model wants one"},
    {"--parse-special", FLAG_ON, OPTION(parse_special), NULL,
     "spellings of control tokens in the text become those tokens"},
};

struct flag_group prompt_flags(struct prompt_options *options)
{
    return (struct flag_group){"Text", flags, sizeof flags / sizeof flags[0], options};
}

int prompt_read(const struct prompt_options *options, struct bytes *prompt)
{
    if (options->file != NULL) SAY_TRY(bytes_append_file(prompt, options->file));
    if (options->text == NULL) return EXIT_GOOD;
    if (options->escapes) return bytes_append_escaped(prompt, options->text);
    return bytes_append(prompt, options->text, strlen(options->text));
}

uint32_t prompt_tokenize_flags(const struct prompt_options *options)
{
    uint32_t bits = 0;
    if (!options->no_bos) bits |= FATHOM_TOKENIZE_BOS;
    if (options->parse_special) bits |= FATHOM_TOKENIZE_SPECIAL;
    return bits;
}
