// `fathom run`: continue a text, or converse.

#include <stdio.h>
#include <unistd.h>

#include "tools/cmd.h"
#include "tools/conversation.h"
#include "tools/kv_record.h"
#include "tools/prompt.h"
#include "tools/say.h"

struct run_options {
    const char *ids; // file of ids in place of a text
    bool converse;
    bool display_prompt;
};

struct run {
    struct run_options options;
    struct rig_options model;
    struct prompt_options prompt;
    struct generate_options generate;
    struct conversation_options conversation;
    struct kv_record_options record;
};

#define OPTION(member) offsetof(struct run_options, member)

static const struct flag run_flags[] = {
    {"--ids", FLAG_TEXT, OPTION(ids), "FILE", "ids, fed as they are, in place of a text; -: stdin"},
    {"-cnv, --conversation", FLAG_ON, OPTION(converse), NULL, "converse, turn by turn"},
    {"-no-cnv, --no-conversation", FLAG_OFF, OPTION(converse), NULL,
     "continue the text as it is (the default)"},
    {"--display-prompt", FLAG_ON, OPTION(display_prompt), NULL, "print the prompt's text first"},
    {"--no-display-prompt", FLAG_OFF, OPTION(display_prompt), NULL,
     "print what is generated and nothing else (the default)"},
};

static const char about[] =
    "Continues the text of -f, -p or standard input (when that is no terminal) and prints what\n"
    "is generated, and only that, as it comes; a newline ends it on a terminal. With -cnv, turns\n"
    "are lines of standard input, and -f and -p are the first turn. Everything else goes to\n"
    "standard error. Ctrl-C and SIGTERM end cleanly, with exit codes 130 and 143.";

static int parse(struct run *run, int argc, char **argv)
{
    const struct flag_group groups[] = {
        {"Run", run_flags, sizeof run_flags / sizeof run_flags[0], &run->options},
        prompt_flags(&run->prompt),
        generate_flags(&run->generate),
        conversation_flags(&run->conversation),
        rig_file_flags(&run->model),
        rig_device_flags(&run->model),
        rig_context_flags(&run->model),
        kv_flags(&run->model.kv),
        kv_record_flags(&run->record),
    };
    const struct flag_page page = {
        .command = "run",
        .use = "-m FILE [-p TEXT] [-f FILE] [-n N] [-cnv]",
        .about = about,
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    SAY_TRY(flags_parse(&page, argc, argv, NULL));
    run->model.files[0] = run->prompt.file;
    run->model.files[1] = run->options.ids;
    const struct run_options *options = &run->options;
    const struct conversation_options *talk = &run->conversation;
    bool text = run->prompt.text != NULL || run->prompt.file != NULL;
    if (options->ids != NULL && (text || options->converse))
        return say_error("--ids stands in place of -p, -f and -cnv");
    if (!options->converse &&
        (talk->chat_template != NULL || talk->system != NULL || talk->single_turn))
        return say_error("--chat-template, -sys and -st need -cnv");
    if (options->converse && options->display_prompt)
        return say_error("--display-prompt: of no use with -cnv");
    const char *of_record = flags_given(&page, argc, argv, "--kv-record-layers, --kv-record-steps");
    if (of_record != NULL && run->record.folder == NULL)
        return say_error("%s: needs --kv-record DIR", of_record);
    if (text || options->ids != NULL || options->converse) return EXIT_GOOD;
    if (isatty(STDIN_FILENO)) return say_error("no prompt: give -p TEXT, -f FILE or -cnv");
    run->prompt.file = "-";
    return EXIT_GOOD;
}

// The model, the device and what the KV cache will take, in one line.
static void print_plan(const struct rig *rig)
{
    const struct fathom_model_info *info = rig->info;
    uint64_t token_bytes = fathom_engine_token_bytes(fathom_runner_engine(rig->runner));
    say_note("%s%s%s, weights %.1f MiB; KV %.1f KiB per token, %.1f MiB for %u tokens; %s",
             info->architecture, info->name[0] != '\0' ? " " : "", info->name,
             (double)info->weight_bytes / 1048576, (double)token_bytes / 1024,
             (double)token_bytes * rig->n_ctx / 1048576, rig->n_ctx,
             fathom_device_text(rig->device));
}

static int show_prompt(struct generator *generator, const struct ids *ids)
{
    const fathom_model *model = generator->rig->model;
    struct bytes text = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(ids_print(ids->data, ids->n, model, generator->special, &text), out);
    code = output_write(&generator->output, text.data, text.n);
out:
    bytes_free(&text);
    return code;
}

// What is given to the model: a text, or ids.
struct input {
    struct bytes text;
    struct ids ids;
};

// What can be read without a model, before minutes go by with loading one.
static int read_input(const struct run *run, struct input *input)
{
    SAY_TRY(generate_check(&run->generate));
    SAY_TRY(conversation_check_template(run->conversation.chat_template));
    SAY_TRY(kv_record_check(&run->record));
    if (run->options.ids != NULL) return ids_append_file(&input->ids, run->options.ids);
    return prompt_read(&run->prompt, &input->text);
}

// Most tokens that a reply to a prompt feeds in steps of one: all but its last, which is not fed,
// and what is left of the prompt behind its last whole batch. The prompt fits the context.
static uint64_t count_single(const struct run *run, const struct rig *rig, size_t n_prompt)
{
    const int64_t n_predict = run->generate.n_predict; // -1: no end
    const uint64_t n_fed = n_predict > 0 ? (uint64_t)n_predict - 1 : 0;
    uint64_t n_reply = rig->n_ctx - n_prompt;
    if (n_predict >= 0 && n_fed < n_reply) n_reply = n_fed;
    if (rig->n_batch == 1) return n_prompt + n_reply;
    return n_reply + (n_prompt % rig->n_batch == 1 ? 1 : 0);
}

static int continue_prompt(const struct run *run, struct generator *generator, struct input *input)
{
    const struct rig *rig = generator->rig;
    struct ids *ids = &input->ids;
    if (run->options.ids != NULL)
        SAY_TRY(ids_check(ids, run->options.ids, rig->info->n_vocab));
    else
        SAY_TRY(ids_append_text(ids, rig->model, input->text.data, input->text.n,
                                prompt_tokenize_flags(&run->prompt)));
    if (ids->n <= rig->n_ctx)
        SAY_TRY(kv_record_check_steps(&run->record, count_single(run, rig, ids->n)));
    if (run->options.display_prompt) SAY_TRY(show_prompt(generator, ids));
    return generate_reply(generator, ids->data, ids->n, NULL);
}

static int generate(const struct run *run, struct rig *rig, struct input *input)
{
    struct generator generator;
    int code = EXIT_GOOD;
    SAY_CHECK(generate_open(&generator, rig, &run->generate), out);
    if (kv_flags_print_stats(&run->model.kv)) generator.end_lines = true; // JSON comes behind it
    code = run->options.converse ? conversation_hold(&generator, &run->conversation, &input->text)
                                 : continue_prompt(run, &generator, input);
    if (code == EXIT_GOOD || code == EXIT_INTERRUPTED) generate_report(&generator);
out:
    generate_close(&generator);
    return code;
}

int cmd_run(int argc, char **argv)
{
    struct run run = {
        .model = rig_defaults, .generate = generate_defaults(), .record = KV_RECORD_DEFAULTS};
    SAY_TRY(parse(&run, argc, argv));
    struct input input = {0};
    struct rig rig = {0};
    struct kv_record *record = NULL;
    int code = EXIT_GOOD, record_code;
    SAY_CHECK(read_input(&run, &input), out);
    SAY_CHECK(rig_open(&rig, &run.model), out);
    if (run.model.log_level >= FATHOM_LOG_WARN) {
        print_plan(&rig);
        kv_record_say_older(&run.record);
    }
    SAY_CHECK(kv_record_open(&run.record, rig.info, fathom_runner_engine(rig.runner), &record),
              out);
    code = generate(&run, &rig, &input);
    code = rig_report(&rig, &run.model, code);
out:
    record_code = kv_record_close(&record, code == EXIT_GOOD || code == EXIT_INTERRUPTED);
    if (code == EXIT_GOOD) code = record_code;
    rig_close(&rig);
    ids_free(&input.ids);
    bytes_free(&input.text);
    return code;
}
