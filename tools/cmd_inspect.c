// `fathom inspect`: what a GGUF file holds, whether or not Fathom can run it.

#include <stdio.h>
#include <string.h>

#include "tools/block.h"
#include "tools/cmd.h"
#include "tools/report.h"
#include "tools/say.h"

enum { ITEMS_SHOWN = 8, TEXT_BYTES_SHOWN = 256, N_TYPES = 64 };

struct inspect_options {
    bool tensors;
    bool metadata;
    const char *format;
};

#define OPTION(member) offsetof(struct inspect_options, member)

static const struct flag inspect_flags[] = {
    {"--tensors", FLAG_ON, OPTION(tensors), NULL, "list every tensor"},
    {"--metadata", FLAG_ON, OPTION(metadata), NULL, "list every metadata entry"},
    {"-o, --output", FLAG_TEXT, OPTION(format), "text|json", "form of the result"},
};

// Names as in the format, for types that Fathom lacks too.
static const char *type_name(int32_t type)
{
    static const char *const names[] = {
        "F32",     "F16",    "Q4_0",    "Q4_1",  "?4",     "?5",    "Q5_0",  "Q5_1",
        "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
        "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
        "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",
    };
    size_t n = sizeof names / sizeof names[0];
    return type >= 0 && (size_t)type < n ? names[type] : "unknown";
}

// A string of the file as JSON; bytes that are no UTF-8 become '?'.
static json_t *build_string(struct fathom_gguf_string string)
{
    size_t bytes = string.bytes < TEXT_BYTES_SHOWN ? string.bytes : TEXT_BYTES_SHOWN;
    json_t *json = json_stringn(string.text, bytes);
    if (json != NULL) return json;
    char text[TEXT_BYTES_SHOWN];
    for (size_t i = 0; i < bytes; i++)
        text[i] = (unsigned char)string.text[i] < 0x80 ? string.text[i] : '?';
    return json_stringn(text, bytes);
}

// Paths and messages, which may quote the file.
static json_t *build_text(const char *text)
{
    return build_string((struct fathom_gguf_string){.text = text, .bytes = strlen(text)});
}

static json_t *build_item(const fathom_gguf *gguf, const struct fathom_gguf_entry *entry,
                          uint64_t index)
{
    int32_t type = entry->type == FATHOM_GGUF_ARRAY ? entry->item_type : entry->type;
    if (type == FATHOM_GGUF_STRING) {
        struct fathom_gguf_string string;
        bool good = fathom_gguf_as_string(gguf, entry, index, &string) == FATHOM_OK;
        return good ? build_string(string) : json_null();
    }
    if (type == FATHOM_GGUF_FLOAT32 || type == FATHOM_GGUF_FLOAT64) {
        double value;
        bool good = fathom_gguf_as_float(gguf, entry, index, &value) == FATHOM_OK;
        json_t *real = good ? json_real(value) : NULL;
        return real != NULL ? real : json_null(); // infinities and NaN
    }
    int64_t value;
    if (fathom_gguf_as_int(gguf, entry, index, &value) != FATHOM_OK) return json_null();
    return type == FATHOM_GGUF_BOOL ? json_boolean(value != 0) : json_integer(value);
}

// A value, or {"n": items, "first": [a few]} for an array.
static json_t *build_value(const fathom_gguf *gguf, const struct fathom_gguf_entry *entry)
{
    if (entry->type != FATHOM_GGUF_ARRAY) return build_item(gguf, entry, 0);
    json_t *first = json_array();
    for (uint64_t i = 0; i < entry->n_items && i < ITEMS_SHOWN; i++)
        json_array_append_new(first, build_item(gguf, entry, i));
    return json_pack("{s:I, s:o}", "n", (json_int_t)entry->n_items, "first", first);
}

static json_t *build_metadata(const fathom_gguf *gguf)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < fathom_gguf_entry_count(gguf); i++) {
        const struct fathom_gguf_entry *entry = fathom_gguf_entry_at(gguf, i);
        json_array_append_new(rows, json_pack("{s:o, s:o}", "key", build_string(entry->key),
                                              "value", build_value(gguf, entry)));
    }
    return rows;
}

static json_t *build_tensors(const fathom_gguf *gguf)
{
    json_t *rows = json_array();
    for (size_t i = 0; i < fathom_gguf_tensor_count(gguf); i++) {
        const struct fathom_gguf_tensor *tensor = fathom_gguf_tensor_at(gguf, i);
        json_t *dims = json_array();
        for (uint32_t d = 0; d < tensor->n_dims; d++)
            json_array_append_new(dims, json_integer((json_int_t)tensor->dims[d]));
        json_array_append_new(rows,
                              json_pack("{s:o, s:s, s:o, s:I}", "name", build_string(tensor->name),
                                        "type", type_name(tensor->type), "shape", dims, "bytes",
                                        (json_int_t)tensor->bytes));
    }
    return rows;
}

// One row for each type of tensor: how many, how large.
static json_t *build_types(const fathom_gguf *gguf)
{
    uint64_t counts[N_TYPES] = {0};
    uint64_t bytes[N_TYPES] = {0};
    for (size_t i = 0; i < fathom_gguf_tensor_count(gguf); i++) {
        const struct fathom_gguf_tensor *tensor = fathom_gguf_tensor_at(gguf, i);
        // The last place gathers types beyond the table, which have no known size.
        size_t type = tensor->type >= 0 && tensor->type < N_TYPES ? (size_t)tensor->type
                                                                  : (size_t)N_TYPES - 1;
        counts[type]++;
        bytes[type] += tensor->bytes;
    }
    json_t *rows = json_array();
    for (int32_t i = 0; i < N_TYPES; i++)
        if (counts[i] > 0)
            json_array_append_new(rows,
                                  json_pack("{s:s, s:I, s:I}", "type", type_name(i), "tensors",
                                            (json_int_t)counts[i], "bytes", (json_int_t)bytes[i]));
    return rows;
}

static const char *scaling_name(const struct fathom_rope *rope)
{
    static const char *const names[] = {"none", "linear", "yarn", "longrope"};
    // The format's default, linear by 1, is none.
    if (rope->scaling == FATHOM_ROPE_SCALING_LINEAR && rope->factor == 1) return names[0];
    return rope->scaling >= 0 && rope->scaling < 4 ? names[rope->scaling] : "unknown";
}

static void set_count(json_t *json, const char *key, uint64_t value)
{
    json_object_set_new(json, key, json_integer((json_int_t)value));
}

static json_t *build_vocabulary(const fathom_model *model)
{
    const struct fathom_model_info *info = fathom_model_info(model);
    const char *chat = fathom_chat_detect(model);
    if (chat == NULL) chat = info->chat_template != NULL ? "unknown" : "none";
    json_t *json = json_object();
    set_count(json, "tokens", info->n_vocab);
    json_object_set_new(json, "bos_id", json_integer(info->bos_id));
    json_object_set_new(json, "eos_id", json_integer(info->eos_id));
    json_object_set_new(json, "add_bos", json_boolean(info->add_bos));
    json_object_set_new(json, "chat_template", json_string(chat));
    return json;
}

static json_t *build_model(const struct fathom_model_info *info)
{
    json_t *json = json_object();
    set_count(json, "parameters", info->n_parameters);
    set_count(json, "weight_bytes", info->weight_bytes);
    // Two bytes an element: the cache's default type is F16.
    set_count(json, "kv_bytes_per_token",
              2ull * info->n_layers * info->n_kv_heads * (info->d_k + info->d_v));
    set_count(json, "context", info->n_tokens_train);
    set_count(json, "layers", info->n_layers);
    set_count(json, "d_model", info->d_model);
    set_count(json, "d_ff", info->d_ff);
    set_count(json, "heads", info->n_heads);
    set_count(json, "kv_heads", info->n_kv_heads);
    set_count(json, "d_k", info->d_k);
    set_count(json, "d_v", info->d_v);
    json_object_set_new(json, "rope_base", json_real((double)info->rope.base));
    json_object_set_new(json, "rope_scaling", json_string(scaling_name(&info->rope)));
    json_object_set_new(json, "rope_factor", json_real((double)info->rope.factor));
    return json;
}

static void set_text_entry(json_t *json, const char *key, const fathom_gguf *gguf,
                           const char *entry_key)
{
    const struct fathom_gguf_entry *entry = fathom_gguf_find(gguf, entry_key);
    bool text = entry != NULL && entry->type == FATHOM_GGUF_STRING;
    json_object_set_new(json, key, text ? build_item(gguf, entry, 0) : json_null());
}

// Of a file whose metadata are good: the first tensor that Fathom cannot read.
static void set_problem(json_t *json, const fathom_gguf *gguf)
{
    const size_t n = fathom_gguf_tensor_count(gguf);
    size_t i = 0;
    while (i < n && fathom_gguf_tensor_at(gguf, i)->data != NULL)
        i++;
    if (i == n) return;
    const struct fathom_gguf_tensor *tensor = fathom_gguf_tensor_at(gguf, i);
    char text[TEXT_BYTES_SHOWN];
    snprintf(text, sizeof text, "tensor %.*s has weight type %s, which is not supported",
             (int)(tensor->name.bytes < 64 ? tensor->name.bytes : 64), tensor->name.text,
             type_name(tensor->type));
    json_object_set_new(json, "problem", build_text(text));
}

// model: NULL if it cannot be opened, for the reason `problem`.
static json_t *build_report(const fathom_gguf *gguf, const fathom_model *model, const char *problem,
                            const struct inspect_options *options)
{
    json_t *json = json_object();
    json_object_set_new(json, "file", build_text(fathom_gguf_path(gguf)));
    set_count(json, "file_bytes", fathom_gguf_file_bytes(gguf));
    set_count(json, "gguf_version", fathom_gguf_version(gguf));
    set_count(json, "metadata_entries", fathom_gguf_entry_count(gguf));
    set_count(json, "tensors", fathom_gguf_tensor_count(gguf));
    set_text_entry(json, "architecture", gguf, "general.architecture");
    set_text_entry(json, "name", gguf, "general.name");
    set_text_entry(json, "tokenizer", gguf, "tokenizer.ggml.model");
    set_text_entry(json, "pre_tokenizer", gguf, "tokenizer.ggml.pre");
    if (model == NULL)
        json_object_set_new(json, "problem", build_text(problem));
    else
        set_problem(json, gguf);
    if (model != NULL) json_object_set_new(json, "vocabulary", build_vocabulary(model));
    // A vocabulary alone has no shape.
    if (model != NULL && fathom_model_info(model)->n_layers > 0)
        json_object_set_new(json, "model", build_model(fathom_model_info(model)));
    json_object_set_new(json, "tensor_types", build_types(gguf));
    if (options->metadata) json_object_set_new(json, "metadata", build_metadata(gguf));
    if (options->tensors) json_object_set_new(json, "tensor_list", build_tensors(gguf));
    return json;
}

// Writes a value as text, cut short where it does not fit: a list as "a, b", a long array, which
// build_value cut short already, as "N items: a, b".
static void write_value(const json_t *value, char *text, size_t capacity)
{
    text[0] = '\0';
    if (json_is_string(value)) snprintf(text, capacity, "%s", json_string_value(value));
    if (json_is_number(value)) snprintf(text, capacity, "%.10g", json_number_value(value));
    if (json_is_boolean(value)) snprintf(text, capacity, "%s", json_is_true(value) ? "yes" : "no");
    if (json_is_null(value)) snprintf(text, capacity, "-");
    if (json_is_object(value)) {
        json_int_t n_items = json_integer_value(json_object_get(value, "n"));
        snprintf(text, capacity, "%lld items: ", (long long)n_items);
        value = json_object_get(value, "first");
    }
    size_t i;
    json_t *item;
    json_array_foreach(value, i, item)
    {
        size_t n = strlen(text);
        snprintf(text + n, capacity - n, "%s", i > 0 ? ", " : "");
        n = strlen(text);
        write_value(item, text + n, capacity - n);
    }
}

static void print_value(const json_t *value, int width)
{
    char text[4096];
    write_value(value, text, sizeof text);
    say_printable(text);
    printf("%-*s", width, text);
}

// Prints the keys or the values of a table's row, of at most four columns.
static void print_row(json_t *row, bool keys)
{
    enum { COLUMNS_MAX = 4 };
    static const int widths[COLUMNS_MAX] = {40, 8, 14};
    size_t column = 0;
    const char *key;
    json_t *value;
    json_object_foreach(row, key, value)
    {
        bool last = ++column >= COLUMNS_MAX || column == json_object_size(row);
        int width = last ? 0 : widths[column - 1];
        printf("  ");
        if (keys)
            printf("%-*s", width, key);
        else
            print_value(value, width);
    }
    printf("\n");
}

// Prints an array of like objects as a table.
static void print_table(const json_t *rows)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        if (i == 0) print_row(row, true);
        print_row(row, false);
    }
}

// Prints members line by line, an object's and an array's below its name.
static void print_members(json_t *json, int indent)
{
    const char *key;
    json_t *value;
    json_object_foreach(json, key, value)
    {
        if (json_is_object(value)) {
            printf("%s\n", key);
            print_members(value, indent + 2);
        } else if (json_is_array(value)) {
            printf("%s\n", key);
            print_table(value);
        } else {
            printf("%*s%-*s ", indent, "", 20 - indent, key);
            print_value(value, 0);
            printf("\n");
        }
    }
}

static int inspect(const struct rig_options *file, const struct inspect_options *options, bool json)
{
    fathom_gguf *gguf = NULL;
    fathom_model *model = NULL;
    int code = EXIT_GOOD;
    SAY_CHECK(say_status(fathom_gguf_open(file->path, &gguf)), out);
    struct fathom_model_params params;
    fathom_model_params_init(&params);
    params.overrides = file->overrides.items;
    params.n_overrides = file->overrides.n;
    // A file that Fathom cannot run is still worth looking at.
    const char *problem = "";
    const fathom_status status = fathom_model_open(file->path, &params, &model);
    if (status == FATHOM_EINVAL) SAY_CHECK(say_status(status), out); // the user's override
    if (status != FATHOM_OK) problem = fathom_last_error();
    json_t *report = build_report(gguf, model, problem, options);
    if (json) {
        code = report_print_json(report);
    } else {
        print_members(report, 0);
        json_decref(report);
    }
out:
    fathom_model_close(&model);
    fathom_gguf_close(&gguf);
    return code;
}

int cmd_inspect(int argc, char **argv)
{
    struct inspect_options options = {.format = "text"};
    struct rig_options model = rig_defaults;
    const struct flag_group groups[] = {
        {"Inspect", inspect_flags, sizeof inspect_flags / sizeof inspect_flags[0], &options},
        rig_file_flags(&model),
    };
    const struct flag_page page = {
        .command = "inspect",
        .use = "FILE [--tensors] [--metadata] [-o text|json]",
        .about =
            "Shows what a GGUF file holds: model, tokenizer, tensors by type, bytes of weights\n"
            "and of KV cache per token (F16). Long arrays and texts are cut short.",
        .groups = groups,
        .n_groups = sizeof groups / sizeof groups[0],
    };
    const char *operand = NULL;
    SAY_TRY(flags_parse(&page, argc, argv, &operand));
    if (operand != NULL && model.path != NULL) return say_error("give one FILE");
    if (operand != NULL) model.path = operand;
    if (model.path == NULL || model.path[0] == '\0')
        return say_error("no file: give FILE or -m FILE");
    return inspect(&model, &options, strcmp(options.format, "json") == 0);
}
