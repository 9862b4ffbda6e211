// `fathom tokenize` and `fathom detokenize`: the tokenizer alone; a vocabulary without weights will
// do.

#include <stdio.h>

#include "tools/cmd.h"
#include "tools/ids.h"
#include "tools/prompt.h"
#include "tools/rig.h"
#include "tools/say.h"

static int print_ids(const struct rig_options *model, const struct prompt_options *options)
{
    struct rig rig = {0};
    struct bytes text = {0};
    struct ids ids = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(prompt_read(options, &text), out);
    SAY_CHECK(rig_open_vocabulary(&rig, model), out);
    SAY_CHECK(ids_append_text(&ids, rig.model, text.data, text.n, prompt_tokenize_flags(options)),
              out);
    for (size_t i = 0; i < ids.n; i++)
        printf("%s%d", i > 0 ? " " : "", ids.data[i]);
    printf("\n");
out:
    ids_free(&ids);
    bytes_free(&text);
    rig_close(&rig);
    return code;
}

int cmd_tokenize(int argc, char **argv)
{
    struct rig_options model = rig_defaults;
    struct prompt_options prompt = {0};
    const struct flag_group groups[] = {prompt_flags(&prompt), rig_file_flags(&model)};
    const struct flag_page page = {
        .command = "tokenize",
        .use = "-m FILE (-p TEXT | -f FILE)",
        .about = "Prints the token ids of a text on one line. The file may be a vocabulary alone.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    if (prompt.text == NULL && prompt.file == NULL)
        return say_error("no text: give -p TEXT or -f FILE");
    return print_ids(&model, &prompt);
}

struct detokenize_options {
    const char *ids;
    bool special;
};

static const struct flag detokenize_flags[] = {
    {"--ids", FLAG_TEXT, offsetof(struct detokenize_options, ids), "FILE",
     "ids separated by white space; -: stdin"},
    {"--special", FLAG_ON, offsetof(struct detokenize_options, special), NULL,
     "print control tokens too"},
};

static int print_text(const struct rig_options *model, const struct detokenize_options *options)
{
    struct rig rig = {0};
    struct ids ids = {0};
    struct bytes text = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(ids_append_file(&ids, options->ids), out);
    SAY_CHECK(rig_open_vocabulary(&rig, model), out);
    SAY_CHECK(ids_check(&ids, options->ids, rig.info->n_vocab), out);
    SAY_CHECK(ids_print(ids.data, ids.n, rig.model, options->special, &text), out);
    (void)fwrite(text.data, 1, text.n, stdout); // main asks whether it arrived
out:
    bytes_free(&text);
    ids_free(&ids);
    rig_close(&rig);
    return code;
}

int cmd_detokenize(int argc, char **argv)
{
    struct rig_options model = rig_defaults;
    struct detokenize_options options = {0};
    const struct flag_group groups[] = {
        {"Ids", detokenize_flags, sizeof detokenize_flags / sizeof detokenize_flags[0], &options},
        rig_file_flags(&model),
    };
    const struct flag_page page = {
        .command = "detokenize",
        .use = "-m FILE --ids FILE",
        .about = "Prints the bytes that token ids stand for, and nothing else.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    if (options.ids == NULL) return say_error("no ids: give --ids FILE");
    return print_text(&model, &options);
}
