// Built-in chat templates. A model's Jinja template is not run: its telltale words say which of the
// known formats it produces, and that format is written by hand, as llama.cpp does. Prompts are
// byte for byte those of llama_chat_apply_template, except that "qwen3" leaves the thoughts out of
// earlier answers, as Qwen's own template does.
//
// BOS is not spelled at the front: the tokenizer adds it.

#include "src/model/chat.h"

#include "src/base/status.h"

#include <string.h>

// A text that is being written: counts everything, stores what fits.
struct writer {
    char *text;
    size_t capacity;
    size_t bytes;
};

struct span {
    const char *text;
    size_t bytes;
};

// How a variant of a format differs from its siblings.
struct style {
    const char *before; // space before [INST] and [/INST]; of "zephyr": the end of a turn
    const char *after;  // space behind [INST], and before an answer
    bool trims_answers; // of Mistral
    bool trims;         // every content
    bool has_system;    // <<SYS>> of Llama 2
    bool repeats_bos;   // before each turn but the first
};

struct job {
    struct writer writer;
    const struct fathom_chat_message *messages;
    size_t n_messages;
    bool add_assistant;
    struct style style;
    struct vocab_span *contents; // [n_messages] where each went, or NULL
    size_t n_contents;
};

static bool contains(const char *text, const char *part)
{
    return text != NULL && strstr(text, part) != NULL;
}

static void write_bytes(struct writer *writer, const char *text, size_t bytes)
{
    if (writer->text != NULL && writer->bytes < writer->capacity) {
        size_t room = writer->capacity - writer->bytes;
        memcpy(writer->text + writer->bytes, text, bytes < room ? bytes : room);
    }
    writer->bytes += bytes;
}

static void write_text(struct writer *writer, const char *text)
{
    write_bytes(writer, text, strlen(text));
}

// A message's content: the one part of the text that is not the template's. Every format writes
// each message's once, in order.
static void write_content(struct job *job, struct span content)
{
    size_t begin = job->writer.bytes;
    if (job->contents != NULL)
        job->contents[job->n_contents++] = (struct vocab_span){begin, begin + content.bytes};
    write_bytes(&job->writer, content.text, content.bytes);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static struct span trim(struct span span)
{
    while (span.bytes > 0 && is_space(span.text[0]))
        span.text++, span.bytes--;
    while (span.bytes > 0 && is_space(span.text[span.bytes - 1]))
        span.bytes--;
    return span;
}

static struct span get_content(const struct fathom_chat_message *message)
{
    return (struct span){message->content, strlen(message->content)};
}

static bool has_role(const struct fathom_chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

static void write_llama3(struct job *job)
{
    struct writer *w = &job->writer;
    for (size_t i = 0; i < job->n_messages; i++) {
        write_text(w, "<|start_header_id|>");
        write_text(w, job->messages[i].role);
        write_text(w, "<|end_header_id|>\n\n");
        write_content(job, trim(get_content(&job->messages[i])));
        write_text(w, "<|eot_id|>");
    }
    if (job->add_assistant) write_text(w, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

static void write_chatml_turn(struct job *job, const char *role, struct span content)
{
    struct writer *w = &job->writer;
    write_text(w, "<|im_start|>");
    write_text(w, role);
    write_text(w, "\n");
    write_content(job, content);
    write_text(w, "<|im_end|>\n");
}

static void write_chatml(struct job *job)
{
    for (size_t i = 0; i < job->n_messages; i++)
        write_chatml_turn(job, job->messages[i].role, get_content(&job->messages[i]));
    if (job->add_assistant) write_text(&job->writer, "<|im_start|>assistant\n");
}

// What stands behind the last </think>.
static struct span drop_thoughts(struct span content)
{
    const char *answer = content.text;
    for (const char *at = answer; (at = strstr(at, "</think>")) != NULL;)
        answer = at += strlen("</think>");
    if (answer == content.text) return content;
    answer += strspn(answer, "\n");
    return (struct span){answer, strlen(answer)};
}

static void write_qwen3(struct job *job)
{
    size_t n_earlier = job->n_messages; // messages before the last one of the user
    while (n_earlier > 0 && !has_role(&job->messages[n_earlier - 1], "user"))
        n_earlier--;
    for (size_t i = 0; i < job->n_messages; i++) {
        const struct fathom_chat_message *message = &job->messages[i];
        struct span content = get_content(message);
        if (i < n_earlier && has_role(message, "assistant")) content = drop_thoughts(content);
        write_chatml_turn(job, message->role, content);
    }
    if (job->add_assistant) write_text(&job->writer, "<|im_start|>assistant\n");
}

// Versions 1 and 3: a system message is part of the user's turn.
static void write_mistral(struct job *job)
{
    struct writer *w = &job->writer;
    bool inside_turn = false;
    for (size_t i = 0; i < job->n_messages; i++) {
        const struct fathom_chat_message *message = &job->messages[i];
        struct span content = get_content(message);
        if (!inside_turn) {
            write_text(w, job->style.before);
            write_text(w, "[INST]");
            write_text(w, job->style.after);
            inside_turn = true;
        }
        if (has_role(message, "system")) {
            write_content(job, content);
            write_text(w, "\n\n");
        } else if (has_role(message, "user")) {
            write_content(job, content);
            write_text(w, job->style.before);
            write_text(w, "[/INST]");
        } else {
            write_text(w, job->style.after);
            write_content(job, job->style.trims_answers ? trim(content) : content);
            write_text(w, "</s>");
            inside_turn = false;
        }
    }
}

static void write_mistral_v7(struct job *job)
{
    struct writer *w = &job->writer;
    for (size_t i = 0; i < job->n_messages; i++) {
        const struct fathom_chat_message *message = &job->messages[i];
        bool is_system = has_role(message, "system"), is_user = has_role(message, "user");
        write_text(w, is_system ? "[SYSTEM_PROMPT]" : is_user ? "[INST]" : "");
        write_text(w, job->style.after);
        write_content(job, get_content(message));
        write_text(w, is_system ? "[/SYSTEM_PROMPT]" : is_user ? "[/INST]" : "</s>");
    }
}

static void write_llama2(struct job *job)
{
    struct writer *w = &job->writer;
    bool inside_turn = true;
    write_text(w, "[INST] ");
    for (size_t i = 0; i < job->n_messages; i++) {
        const struct fathom_chat_message *message = &job->messages[i];
        struct span content = get_content(message);
        if (job->style.trims) content = trim(content);
        if (!inside_turn) write_text(w, job->style.repeats_bos ? "<s>[INST] " : "[INST] ");
        inside_turn = true;
        if (has_role(message, "system")) {
            write_text(w, job->style.has_system ? "<<SYS>>\n" : "");
            write_content(job, content);
            write_text(w, job->style.has_system ? "\n<</SYS>>\n\n" : "\n");
        } else if (has_role(message, "user")) {
            write_content(job, content);
            write_text(w, " [/INST]");
        } else {
            write_content(job, content);
            write_text(w, "</s>");
            inside_turn = false;
        }
    }
}

static void write_tagged(struct job *job, const char *end)
{
    struct writer *w = &job->writer;
    for (size_t i = 0; i < job->n_messages; i++) {
        write_text(w, "<|");
        write_text(w, job->messages[i].role);
        write_text(w, "|>\n");
        write_content(job, get_content(&job->messages[i]));
        write_text(w, end);
    }
    if (job->add_assistant) write_text(w, "<|assistant|>\n");
}

static void write_phi3(struct job *job)
{
    write_tagged(job, "<|end|>\n");
}

static void write_zephyr(struct job *job)
{
    write_tagged(job, job->style.before);
}

struct format {
    const char *name;
    void (*write)(struct job *job);
    struct style style;
};

static const struct format formats[] = {
    {.name = "llama3", .write = write_llama3},
    {.name = "chatml", .write = write_chatml},
    {.name = "qwen3", .write = write_qwen3},
    {.name = "mistral-v1", .write = write_mistral, .style = {.before = " ", .after = " "}},
    {.name = "mistral-v3",
     .write = write_mistral,
     .style = {.before = "", .after = " ", .trims_answers = true}},
    {.name = "mistral-v3-tekken", .write = write_mistral, .style = {.before = "", .after = ""}},
    {.name = "mistral-v7", .write = write_mistral_v7, .style = {.after = " "}},
    {.name = "mistral-v7-tekken", .write = write_mistral_v7, .style = {.after = ""}},
    {.name = "llama2", .write = write_llama2, .style = {.has_system = true}},
    {.name = "phi3", .write = write_phi3},
    {.name = "zephyr", .write = write_zephyr, .style = {.before = "<|endoftext|>\n"}},
};

static bool is_mistral(const char *jinja)
{
    return contains(jinja, "[SYSTEM_PROMPT]") || contains(jinja, "' [INST] ' + system_message") ||
           contains(jinja, "[AVAILABLE_TOOLS]");
}

// The variant of "mistral" that a template is.
static const char *name_mistral(const char *jinja)
{
    // In version 7 a space stands before the closing quote of the tag if one is wanted.
    if (jinja == NULL) return "mistral-v7-tekken";
    if (contains(jinja, "[SYSTEM_PROMPT]"))
        return contains(jinja, "[SYSTEM_PROMPT] ") ? "mistral-v7" : "mistral-v7-tekken";
    if (contains(jinja, " [INST]")) return "mistral-v1";
    return contains(jinja, "\"[INST]\"") ? "mistral-v3-tekken" : "mistral-v3";
}

const char *chat_detect(const char *jinja)
{
    if (contains(jinja, "<|im_start|>")) {
        // Phi 4 and SmolVLM use the word in formats of their own.
        if (contains(jinja, "<|im_sep|>") || contains(jinja, "<end_of_utterance>")) return NULL;
        bool thinks = contains(jinja, "enable_thinking") || contains(jinja, "</think>");
        return thinks ? "qwen3" : "chatml";
    }
    if (contains(jinja, "[INST]")) return is_mistral(jinja) ? "mistral" : "llama2";
    if (contains(jinja, "<|assistant|>") && contains(jinja, "<|end|>")) return "phi3";
    if (contains(jinja, "<|user|>") && !contains(jinja, "[gMASK]")) {
        bool ends = contains(jinja, "<|endoftext|>") || contains(jinja, "eos_token");
        return ends && !contains(jinja, "</s>") ? "zephyr" : NULL;
    }
    if (contains(jinja, "<|start_header_id|>") && contains(jinja, "<|end_header_id|>"))
        return "llama3";
    return NULL;
}

// Fills in what the template tells about the style.
static void adapt_style(const struct format *format, const char *jinja, struct style *style)
{
    if (jinja == NULL) return;
    if (format->write == write_llama2) {
        style->trims = contains(jinja, "content.strip()");
        style->repeats_bos = !style->trims && contains(jinja, "bos_token + '[INST]");
        style->has_system = style->trims || style->repeats_bos || contains(jinja, "<<SYS>>");
    }
    // Templates that do not spell the end of a turn leave it to eos_token, which is Zephyr 7B's.
    if (format->write == write_zephyr && !contains(jinja, "<|endoftext|>"))
        style->before = "</s>\n";
}

static const struct format *find_format(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

fathom_status chat_format(const char *name, const char *jinja,
                          const struct fathom_chat_message *messages, size_t n_messages,
                          bool add_assistant, char *text, size_t capacity, size_t *text_bytes,
                          struct vocab_span *contents)
{
    static const char names[] = "llama3, chatml, qwen3, mistral, llama2, phi3, zephyr";
    const char *detected = chat_detect(jinja);
    if (name == NULL && detected == NULL)
        return status_set(FATHOM_EUNSUPPORTED,
                          "the model has no chat template that is known; name one of: %s", names);
    const char *wanted = name != NULL ? name : detected;
    // The model's own template is no witness for another format.
    const char *witness = detected != NULL && strcmp(wanted, detected) == 0 ? jinja : NULL;
    if (strcmp(wanted, "mistral") == 0) wanted = name_mistral(witness);
    const struct format *format = find_format(wanted);
    if (format == NULL)
        return status_set(FATHOM_EUNSUPPORTED, "chat template \"%s\" is not known; known are: %s",
                          name, names);
    for (size_t i = 0; i < n_messages; i++)
        if (messages[i].role == NULL || messages[i].content == NULL)
            return status_set(FATHOM_EINVAL, "message %zu lacks its role or content", i);

    struct job job = {.writer = {.text = text, .capacity = capacity},
                      .messages = messages,
                      .n_messages = n_messages,
                      .add_assistant = add_assistant,
                      .style = format->style,
                      .contents = contents};
    adapt_style(format, witness, &job.style);
    format->write(&job);
    *text_bytes = job.writer.bytes;
    return text != NULL && job.writer.bytes <= capacity ? FATHOM_OK : FATHOM_PARTIAL;
}
