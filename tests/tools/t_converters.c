// The scripts that write GGUF files: run on small models, their files read back with Fathom's own
// reader and dequantisation.

#include "cpu/cpu_kernels.h"
#include "fathom/gguf.h"
#include "src/base/dtype.h"

#include "tests/check.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/fathom-converters-XXXXXX";
static struct kernel_table kernels;
static const char *python; // with numpy; NULL if there is none

// Runs tools/SCRIPT with these arguments; the exit status. What it says goes to a file.
static int run_script(const char *script, const char *arguments)
{
    char command[16384];
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    if (python == NULL) check_skip("no python3 with numpy");
    snprintf(command, sizeof command, "%s -B '%s/tools/%s' %s 2>%s/messages", python,
             root != NULL ? root : ".", script, arguments, folder);
    return system(command);
}

static void check_message(const char *words)
{
    char path[128], text[4096];
    snprintf(path, sizeof path, "%s/messages", folder);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    if (strstr(text, words) == NULL) fail_msg("'%s' lacks '%s'", text, words);
}

static void *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    void *data = test_malloc(*bytes);
    assert_int_equal(fread(data, 1, *bytes, file), *bytes);
    fclose(file);
    return data;
}

static const struct fathom_gguf_tensor *find_tensor(const fathom_gguf *gguf, const char *name)
{
    const struct fathom_gguf_tensor *tensor = fathom_gguf_tensor_find(gguf, name);
    if (tensor == NULL) fail_msg("no tensor %s", name);
    return tensor;
}

// All values of a tensor; the caller frees them.
static float *dequantise(const struct fathom_gguf_tensor *tensor, size_t *n_values)
{
    size_t n_rows = tensor->dims[1];
    size_t row_bytes = dtype_row_bytes(tensor->type, tensor->dims[0]);
    *n_values = n_rows * tensor->dims[0];
    float *values = test_malloc(*n_values * sizeof *values);
    for (size_t row = 0; row < n_rows; row++)
        kernels.dequant_row(tensor->type, (const uint8_t *)tensor->data + row * row_bytes,
                            values + row * tensor->dims[0], tensor->dims[0]);
    return values;
}

// Root of the mean square of the difference, relative to the truth's.
static double relative_error(const float *values, const float *truth, size_t n)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)values[i] - truth[i]) * ((double)values[i] - truth[i]);
        norm += (double)truth[i] * truth[i];
    }
    return sqrt(error / norm);
}

// ---- llama2.c -----------------------------------------------------------------------------------

// stories260K's tensors in the checkpoint's order, from its description.
static const struct part {
    const char *name; // with the layer's number
    uint32_t n_layers, n_rows, n_cols;
} parts[] = {
    {"token_embd.weight", 1, 512, 64},      {"blk.%u.attn_norm.weight", 5, 1, 64},
    {"blk.%u.attn_q.weight", 5, 64, 64},    {"blk.%u.attn_k.weight", 5, 32, 64},
    {"blk.%u.attn_v.weight", 5, 32, 64},    {"blk.%u.attn_output.weight", 5, 64, 64},
    {"blk.%u.ffn_norm.weight", 5, 1, 64},   {"blk.%u.ffn_gate.weight", 5, 172, 64},
    {"blk.%u.ffn_down.weight", 5, 64, 172}, {"blk.%u.ffn_up.weight", 5, 172, 64},
    {"output_norm.weight", 1, 1, 64},
};

static int32_t wanted_type(const struct part *part, int32_t type)
{
    if (part->n_rows == 1) return FATHOM_TYPE_F32;
    return type == FATHOM_TYPE_Q8_0 && part->n_cols % 32 != 0 ? FATHOM_TYPE_F16 : type;
}

static void check_weights(const fathom_gguf *gguf, int32_t type, double error_max)
{
    size_t n_bytes = 0, n_tensors = 0;
    uint8_t *checkpoint = read_file(check_data("stories260K/stories260K.bin"), &n_bytes);
    const uint8_t *at = checkpoint + 7 * sizeof(int32_t);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const struct part *part = &parts[i];
        size_t n_part = (size_t)part->n_rows * part->n_cols;
        float *truth = test_malloc(n_part * sizeof *truth);
        for (uint32_t layer = 0; layer < part->n_layers; layer++, at += n_part * sizeof *truth) {
            char name[64];
            size_t n_values = 0;
            const char *dot = strstr(part->name, "%u");
            if (dot != NULL)
                snprintf(name, sizeof name, "blk.%u%s", layer, dot + 2);
            else
                snprintf(name, sizeof name, "%s", part->name);
            const struct fathom_gguf_tensor *tensor = find_tensor(gguf, name);
            assert_int_equal(tensor->type, wanted_type(part, type));
            assert_int_equal(tensor->n_dims, part->n_rows == 1 ? 1 : 2);
            assert_int_equal(tensor->dims[0], part->n_cols);
            float *values = dequantise(tensor, &n_values);
            assert_int_equal(n_values, n_part);
            memcpy(truth, at, n_part * sizeof *truth);
            if (tensor->type == FATHOM_TYPE_F32)
                assert_memory_equal(values, truth, n_part * sizeof *truth);
            else if (!(relative_error(values, truth, n_part) < error_max))
                fail_msg("%s: error %g", name, relative_error(values, truth, n_part));
            test_free(values);
            n_tensors++;
        }
        test_free(truth);
    }
    assert_int_equal(fathom_gguf_tensor_count(gguf), n_tensors);
    test_free(checkpoint);
}

// Texts and scores against the tokenizer's file.
static void check_tokens(const fathom_gguf *gguf)
{
    size_t n_bytes = 0;
    uint8_t *file = read_file(check_data("stories260K/tok512.bin"), &n_bytes);
    const uint8_t *at = file + 4;
    const struct fathom_gguf_entry *tokens = fathom_gguf_find(gguf, "tokenizer.ggml.tokens");
    const struct fathom_gguf_entry *scores = fathom_gguf_find(gguf, "tokenizer.ggml.scores");
    const struct fathom_gguf_entry *kinds = fathom_gguf_find(gguf, "tokenizer.ggml.token_type");
    assert_true(tokens->n_items == 512 && scores->n_items == 512 && kinds->n_items == 512);
    for (uint32_t token = 0; token < 512; token++) {
        float score;
        int32_t text_bytes;
        double number = 0;
        int64_t kind = 0;
        struct fathom_gguf_string text = {0};
        memcpy(&score, at, 4), memcpy(&text_bytes, at + 4, 4);
        check_ok(fathom_gguf_as_string(gguf, tokens, token, &text));
        check_ok(fathom_gguf_as_float(gguf, scores, token, &number));
        check_ok(fathom_gguf_as_int(gguf, kinds, token, &kind));
        assert_true(number == score);
        assert_int_equal(kind, token == 0 ? 2 : token < 3 ? 3 : token < 259 ? 6 : 1);
        // Each U+2581 stands for one space of the original.
        size_t i = 0;
        for (int32_t j = 0; token > 2 && j < text_bytes; j++) {
            bool is_space = at[8 + j] == ' ';
            assert_true(i + (is_space ? 3 : 1) <= text.bytes);
            assert_memory_equal(text.text + i, is_space ? "\xe2\x96\x81" : (const char *)at + 8 + j,
                                is_space ? 3 : 1);
            i += is_space ? 3 : 1;
        }
        assert_true(token < 3 || i == text.bytes);
        at += 8 + text_bytes;
    }
    assert_int_equal(at - file, n_bytes);
    test_free(file);
}

static void converts_llama2c(void **state)
{
    (void)state;
    // q8_0 rounds to 1/254 of a block's largest value, a normal block's is 2 to 3 deviations.
    const struct {
        const char *name;
        int32_t type;
        double error_max;
    } cases[] = {{"f32", FATHOM_TYPE_F32, 0},
                 {"f16", FATHOM_TYPE_F16, 0x1p-11},
                 {"q8_0", FATHOM_TYPE_Q8_0, 0.01}};
    const char *checkpoint = check_data("stories260K/stories260K.bin");
    const char *tokenizer = check_data("stories260K/tok512.bin");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char arguments[12000], path[128];
        fathom_gguf *gguf = NULL;
        int64_t n_heads = 0;
        snprintf(path, sizeof path, "%s/stories.gguf", folder);
        snprintf(arguments, sizeof arguments, "'%s' '%s' %s --type %s", checkpoint, tokenizer, path,
                 cases[i].name);
        assert_int_equal(run_script("convert_llama2c.py", arguments), 0);
        check_ok(fathom_gguf_open(path, &gguf));
        check_ok(fathom_gguf_as_int(gguf, fathom_gguf_find(gguf, "llama.attention.head_count_kv"),
                                    0, &n_heads));
        assert_int_equal(n_heads, 4);
        check_weights(gguf, cases[i].type, cases[i].error_max);
        check_tokens(gguf);
        fathom_gguf_close(&gguf);
        unlink(path);
    }
}

static void refuses_bad_checkpoints(void **state)
{
    (void)state;
    size_t n_bytes = 0;
    char arguments[8192], path[128];
    const char *tokenizer = check_data("stories260K/tok512.bin");
    uint8_t *data = read_file(check_data("stories260K/stories260K.bin"), &n_bytes);
    const struct {
        size_t n_bytes;
        const char *words;
    } cases[] = {
        {20, "too short"}, {40000, "ends before token_embd"}, {n_bytes - 4, "ends before"}};
    snprintf(path, sizeof path, "%s/cut.bin", folder);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        FILE *cut = fopen(path, "wb");
        assert_non_null(cut);
        assert_int_equal(fwrite(data, 1, cases[i].n_bytes, cut), cases[i].n_bytes);
        fclose(cut);
        snprintf(arguments, sizeof arguments, "%s '%s' %s/never.gguf", path, tokenizer, folder);
        assert_int_not_equal(run_script("convert_llama2c.py", arguments), 0);
        check_message(cases[i].words);
    }
    unlink(path);
    test_free(data);
}

// ---- Synthetic models ---------------------------------------------------------------------------

static fathom_gguf *synthesise(const char *name, const char *options)
{
    char arguments[1024], path[128];
    fathom_gguf *gguf = NULL;
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    snprintf(arguments, sizeof arguments, "%s %s", path, options);
    assert_int_equal(run_script("synth_gguf.py", arguments), 0);
    check_ok(fathom_gguf_open(path, &gguf));
    unlink(path); // the mapping stays
    return gguf;
}

// The same model in every type: close to its f32 form, and not closer than the type allows.
static void rounds_to_every_type(void **state)
{
    (void)state;
    const struct {
        const char *name;
        int32_t type;
        double error_min, error_max;
    } cases[] = {
        {"f16", FATHOM_TYPE_F16, 1e-4, 3e-4},   {"bf16", FATHOM_TYPE_BF16, 1e-3, 2.4e-3},
        {"q8_0", FATHOM_TYPE_Q8_0, 3e-3, 8e-3}, {"q4_0", FATHOM_TYPE_Q4_0, 5e-2, 1.1e-1},
        {"q4_1", FATHOM_TYPE_Q4_1, 5e-2, 1e-1}, {"q5_0", FATHOM_TYPE_Q5_0, 2e-2, 5.5e-2},
        {"q5_1", FATHOM_TYPE_Q5_1, 2e-2, 5e-2}, {"q4_k", FATHOM_TYPE_Q4_K, 5e-2, 1e-1},
        {"q5_k", FATHOM_TYPE_Q5_K, 2e-2, 5e-2}, {"q6_k", FATHOM_TYPE_Q6_K, 1e-2, 2.4e-2},
    };
    static const char shape[] = "--arch qwen3 --layers 1 --d-model 256 --heads 4 --kv-heads 2 "
                                "--head-dim 64 --ff 512 --vocab 300 --seed 7 --type";
    char options[512];
    snprintf(options, sizeof options, "%s f32", shape);
    fathom_gguf *exact = synthesise("exact", options);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(options, sizeof options, "%s %s", shape, cases[i].name);
        fathom_gguf *gguf = synthesise("rounded", options);
        assert_int_equal(fathom_gguf_tensor_count(gguf), fathom_gguf_tensor_count(exact));
        for (size_t j = 0; j < fathom_gguf_tensor_count(gguf); j++) {
            const struct fathom_gguf_tensor *tensor = fathom_gguf_tensor_at(gguf, j);
            size_t n_values = 0, n_exact = 0;
            float *truth = dequantise(fathom_gguf_tensor_at(exact, j), &n_exact);
            float *values = dequantise(tensor, &n_values);
            assert_int_equal(n_values, n_exact);
            double error = relative_error(values, truth, n_values);
            bool is_vector = tensor->n_dims == 1;
            assert_int_equal(tensor->type, is_vector ? FATHOM_TYPE_F32 : cases[i].type);
            if (is_vector ? error != 0
                          : !(error > cases[i].error_min && error < cases[i].error_max))
                fail_msg("%s %.*s: error %g", cases[i].name, (int)tensor->name.bytes,
                         tensor->name.text, error);
            test_free(truth);
            test_free(values);
        }
        fathom_gguf_close(&gguf);
    }
    fathom_gguf_close(&exact);
}

static void check_types(const fathom_gguf *gguf, const struct part *wanted, size_t n_wanted)
{
    for (size_t i = 0; i < n_wanted; i++) {
        const struct fathom_gguf_tensor *tensor = find_tensor(gguf, wanted[i].name);
        if (tensor->type != (int32_t)wanted[i].n_layers || tensor->dims[0] != wanted[i].n_cols ||
            tensor->dims[1] != wanted[i].n_rows)
            fail_msg("%s: type %d, %llu x %llu", wanted[i].name, tensor->type,
                     (unsigned long long)tensor->dims[1], (unsigned long long)tensor->dims[0]);
    }
}

static void mixes_types(void **state)
{
    (void)state;
    // Of 8 layers, the first, the last and every third from the fourth on get more bits.
    const struct part mixture[] = {
        {"token_embd.weight", FATHOM_TYPE_Q6_K, 300, 256},
        {"blk.0.attn_v.weight", FATHOM_TYPE_Q6_K, 128, 256},
        {"blk.0.attn_k.weight", FATHOM_TYPE_Q4_K, 128, 256},
        {"blk.0.ffn_down.weight", FATHOM_TYPE_Q6_K, 256, 512},
        {"blk.0.ffn_up.weight", FATHOM_TYPE_Q4_K, 512, 256},
        {"blk.1.ffn_down.weight", FATHOM_TYPE_Q4_K, 256, 512},
        {"blk.2.attn_v.weight", FATHOM_TYPE_Q4_K, 128, 256},
        {"blk.3.attn_v.weight", FATHOM_TYPE_Q6_K, 128, 256},
        {"blk.6.ffn_down.weight", FATHOM_TYPE_Q6_K, 256, 512},
        {"blk.7.attn_v.weight", FATHOM_TYPE_Q6_K, 128, 256},
    };
    fathom_gguf *gguf = synthesise("mixture", "--arch llama --layers 8 --d-model 256 --heads 4 "
                                              "--kv-heads 2 --head-dim 64 --ff 512 --vocab 300 "
                                              "--tied --rope-factor 8 --type q4_k_m");
    check_types(gguf, mixture, sizeof mixture / sizeof mixture[0]);
    assert_null(fathom_gguf_tensor_find(gguf, "output.weight"));
    // Llama 3's divisors: short wavelengths stay, the longest are stretched by the factor.
    const struct fathom_gguf_tensor *freqs = find_tensor(gguf, "rope_freqs.weight");
    float first, last;
    assert_int_equal(freqs->dims[0], 32);
    memcpy(&first, freqs->data, sizeof first);
    memcpy(&last, (const uint8_t *)freqs->data + 31 * sizeof last, sizeof last);
    assert_true(first == 1 && last == 8);
    fathom_gguf_close(&gguf);

    // Rows of 96 values have no whole block of 256, rows of 80 not even one of 32.
    const struct part fallbacks[] = {
        {"blk.0.attn_q.weight", FATHOM_TYPE_Q5_0, 96, 96},
        {"blk.0.ffn_down.weight", FATHOM_TYPE_F16, 96, 80},
        {"output.weight", FATHOM_TYPE_Q8_0, 260, 96},
    };
    gguf = synthesise("fallback", "--arch qwen2 --layers 2 --d-model 96 --heads 3 --kv-heads 3 "
                                  "--head-dim 32 --ff 80 --vocab 260 --type q4_k_m");
    check_types(gguf, fallbacks, sizeof fallbacks / sizeof fallbacks[0]);
    assert_int_equal(find_tensor(gguf, "blk.1.attn_k.bias")->dims[0], 96);
    fathom_gguf_close(&gguf);
}

// Without its site packages a Python has no numpy.
static void names_missing_package(void **state)
{
    (void)state;
    const char *with_numpy = python;
    static const char *const scripts[] = {"convert_llama2c.py", "synth_gguf.py"};
    python = "python3 -S";
    for (size_t i = 0; i < 2; i++) {
        char words[128];
        assert_int_equal(run_script(scripts[i], ""), 1 << 8);
        snprintf(words, sizeof words, "%s: needs numpy (python3-numpy", scripts[i]);
        check_message(words);
    }
    python = with_numpy;
}

// A Python with numpy, or NULL.
static const char *find_python(void)
{
    static const char *const names[] = {"/usr/bin/python3", "python3"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char command[256];
        snprintf(command, sizeof command, "%s -c 'import numpy' 2>/dev/null", names[i]);
        if (system(command) == 0) return names[i];
    }
    return NULL;
}

static void remove_folder(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/messages", folder);
    unlink(path);
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(converts_llama2c),      cmocka_unit_test(refuses_bad_checkpoints),
        cmocka_unit_test(rounds_to_every_type),  cmocka_unit_test(mixes_types),
        cmocka_unit_test(names_missing_package),
    };
    cpu_kernels_init(&kernels, 0);
    python = find_python();
    if (mkdtemp(folder) == NULL) return 1;
    int result = check_run("converters", tests, sizeof tests / sizeof tests[0]);
    remove_folder();
    return result;
}
