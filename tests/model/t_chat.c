// Chat templates: which is which, and the exact prompts, written out as the formats' makers give
// them.

#include "src/model/chat.h"

#include "tests/check.h"
#include "tests/model/vocab_bytes.h"

#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct fathom_chat_message talk[] = {
    {"system", " Be brief. "},
    {"user", "Hi"},
    {"assistant", " Hello!\n"},
    {"user", " Who\nare you? "},
};

static void check_prompt_of(const char *name, const char *jinja,
                            const struct fathom_chat_message *messages, size_t n, bool add,
                            const char *wanted)
{
    char text[1024];
    size_t bytes = 0, bytes_again = 0;
    assert_int_equal(chat_format(name, jinja, messages, n, add, NULL, 0, &bytes, NULL),
                     FATHOM_PARTIAL);
    check_ok(chat_format(name, jinja, messages, n, add, text, bytes, &bytes_again, NULL));
    assert_int_equal(bytes, bytes_again);
    text[bytes] = '\0';
    assert_string_equal(text, wanted);
}

static void check_prompt(const char *name, const char *jinja, const char *wanted)
{
    check_prompt_of(name, jinja, talk, COUNT(talk), true, wanted);
}

static void test_llama3(void **state)
{
    check_prompt("llama3", NULL,
                 "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\nWho\nare you?<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\n");
    check_prompt_of("llama3", NULL, talk + 1, 1, false,
                    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>");
    (void)state;
}

static void test_chatml(void **state)
{
    static const char wanted[] = "<|im_start|>system\n Be brief. <|im_end|>\n"
                                 "<|im_start|>user\nHi<|im_end|>\n"
                                 "<|im_start|>assistant\n Hello!\n<|im_end|>\n"
                                 "<|im_start|>user\n Who\nare you? <|im_end|>\n"
                                 "<|im_start|>assistant\n";
    check_prompt("chatml", NULL, wanted);
    check_prompt(NULL, "{{'<|im_start|>' + message['role']}}", wanted);
    check_prompt("qwen3", NULL, wanted);
    check_prompt_of("chatml", NULL, NULL, 0, false, "");
    (void)state;
}

static void test_qwen3_thoughts(void **state)
{
    static const struct fathom_chat_message thoughts[] = {
        {"user", "1+1?"},
        {"assistant", "<think>\nhm\n</think>\n\n2"},
        {"user", "a </think> b"},
        {"assistant", "<think>\nso\n</think>\n\nNo"},
    };
    check_prompt_of("qwen3", NULL, thoughts, 4, false,
                    "<|im_start|>user\n1+1?<|im_end|>\n"
                    "<|im_start|>assistant\n2<|im_end|>\n"
                    "<|im_start|>user\na </think> b<|im_end|>\n"
                    "<|im_start|>assistant\n<think>\nso\n</think>\n\nNo<|im_end|>\n");
    (void)state;
}

static void test_mistral(void **state)
{
    static const char v1[] = " [INST]  Be brief. \n\nHi [/INST]  Hello!\n</s>"
                             " [INST]  Who\nare you?  [/INST]";
    static const char v3[] = "[INST]  Be brief. \n\nHi[/INST] Hello!</s>"
                             "[INST]  Who\nare you? [/INST]";
    static const char v3_tekken[] = "[INST] Be brief. \n\nHi[/INST] Hello!\n</s>"
                                    "[INST] Who\nare you? [/INST]";
    static const char v7[] = "[SYSTEM_PROMPT]  Be brief. [/SYSTEM_PROMPT][INST] Hi[/INST]"
                             "  Hello!\n</s>[INST]  Who\nare you? [/INST]";
    static const char v7_tekken[] = "[SYSTEM_PROMPT] Be brief. [/SYSTEM_PROMPT][INST]Hi[/INST]"
                                    " Hello!\n</s>[INST] Who\nare you? [/INST]";
    check_prompt("mistral-v1", NULL, v1);
    check_prompt("mistral-v3", NULL, v3);
    check_prompt("mistral-v3-tekken", NULL, v3_tekken);
    check_prompt("mistral-v7", NULL, v7);
    check_prompt("mistral-v7-tekken", NULL, v7_tekken);
    // The model's template tells the variants apart.
    check_prompt("mistral", "{{ ' [INST] ' + system_message }}", v1);
    check_prompt(NULL, "{{ '[AVAILABLE_TOOLS]' }}{{ '[INST] ' + content }}", v3);
    check_prompt(NULL, "{{ \"[AVAILABLE_TOOLS]\" }}{{ \"[INST]\" + content }}", v3_tekken);
    check_prompt(NULL, "{{ '[SYSTEM_PROMPT] ' + x }}{{ '[INST] ' }}", v7);
    check_prompt(NULL, "{{ '[SYSTEM_PROMPT]' + x }}{{ '[INST]' }}", v7_tekken);
    // A template of another format does not.
    check_prompt("mistral", "<|im_start|>", v7_tekken);
    (void)state;
}

static void test_llama2(void **state)
{
    check_prompt("llama2", NULL,
                 "[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\nHi [/INST] Hello!\n</s>"
                 "[INST]  Who\nare you?  [/INST]");
    check_prompt(NULL, "[INST] <<SYS>> {{ content.strip() }}",
                 "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]Hello!</s>"
                 "[INST] Who\nare you? [/INST]");
    check_prompt(NULL, "{{ bos_token + '[INST] <<SYS>>' }}",
                 "[INST] <<SYS>>\n Be brief. \n<</SYS>>\n\nHi [/INST] Hello!\n</s>"
                 "<s>[INST]  Who\nare you?  [/INST]");
    check_prompt(NULL, "{{ '[INST] ' + content + ' [/INST]' }}",
                 "[INST]  Be brief. \nHi [/INST] Hello!\n</s>[INST]  Who\nare you?  [/INST]");
    (void)state;
}

static void test_phi3_and_zephyr(void **state)
{
    check_prompt("phi3", NULL,
                 "<|system|>\n Be brief. <|end|>\n<|user|>\nHi<|end|>\n"
                 "<|assistant|>\n Hello!\n<|end|>\n<|user|>\n Who\nare you? <|end|>\n"
                 "<|assistant|>\n");
    static const char zephyr[] = "<|system|>\n Be brief. <|endoftext|>\n<|user|>\nHi<|endoftext|>\n"
                                 "<|assistant|>\n Hello!\n<|endoftext|>\n"
                                 "<|user|>\n Who\nare you? <|endoftext|>\n<|assistant|>\n";
    check_prompt("zephyr", NULL, zephyr);
    check_prompt(NULL, "'<|user|>\n' + content + '<|endoftext|>'", zephyr);
    check_prompt_of(NULL, "'<|user|>\n' + content + eos_token", talk + 1, 1, true,
                    "<|user|>\nHi</s>\n<|assistant|>\n");
    (void)state;
}

static void test_detect(void **state)
{
    static const struct {
        const char *jinja;
        const char *name;
    } cases[] = {
        {"{{ '<|start_header_id|>' + role + '<|end_header_id|>' }}", "llama3"},
        {"{{ '<|im_start|>' + role }}", "chatml"},
        {"<|im_start|> {% if enable_thinking %}", "qwen3"},
        {"<|im_start|> content.split('</think>')", "qwen3"},
        {"[INST] {{ x }} [/INST]", "llama2"},
        {"[INST] <<SYS>>", "llama2"},
        {"[INST] [AVAILABLE_TOOLS]", "mistral"},
        {"[SYSTEM_PROMPT] [INST]", "mistral"},
        {"<|user|> <|assistant|> <|end|>", "phi3"},
        {"<|user|> <|assistant|> eos_token", "zephyr"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_non_null(chat_detect(cases[i].jinja));
        assert_string_equal(chat_detect(cases[i].jinja), cases[i].name);
    }
    assert_null(chat_detect(NULL));
    assert_null(chat_detect(""));
    assert_null(chat_detect("<|im_start|>user<|im_sep|>"));
    assert_null(chat_detect("<start_of_turn>"));
    assert_null(chat_detect("[gMASK]<sop><|user|>"));
    (void)state;
}

static void test_errors(void **state)
{
    static const struct fathom_chat_message lacking = {"user", NULL};
    char text[8] = "-------";
    size_t bytes = 0;
    assert_int_equal(chat_format("gemma", NULL, talk, 1, true, text, 8, &bytes, NULL),
                     FATHOM_EUNSUPPORTED);
    assert_non_null(strstr(fathom_last_error(), "llama3, chatml, qwen3"));
    assert_int_equal(chat_format(NULL, "??", talk, 1, true, text, 8, &bytes, NULL),
                     FATHOM_EUNSUPPORTED);
    assert_int_equal(chat_format("llama3", NULL, &lacking, 1, true, text, 8, &bytes, NULL),
                     FATHOM_EINVAL);
    // Too small: says how much, and writes no further than the capacity.
    assert_int_equal(chat_format("chatml", NULL, talk + 1, 1, false, text, 7, &bytes, NULL),
                     FATHOM_PARTIAL);
    assert_int_equal(bytes, strlen("<|im_start|>user\nHi<|im_end|>\n"));
    assert_int_equal(text[7], '\0');
    (void)state;
}

// Where contents stand in the text, in every format.
static void test_contents(void **state)
{
    static const char *const names[] = {"llama3",     "chatml",
                                        "qwen3",      "mistral-v1",
                                        "mistral-v3", "mistral-v3-tekken",
                                        "mistral-v7", "mistral-v7-tekken",
                                        "llama2",     "phi3",
                                        "zephyr"};
    static const struct fathom_chat_message plain[] = {
        {"system", "Brief"}, {"user", ""}, {"assistant", "Hello"}, {"user", "Who"}};
    for (size_t i = 0; i < COUNT(names); i++) {
        char text[1024];
        size_t bytes = 0;
        struct vocab_span contents[COUNT(plain)];
        check_ok(chat_format(names[i], NULL, plain, COUNT(plain), true, text, sizeof text, &bytes,
                             contents));
        for (size_t j = 0; j < COUNT(plain); j++) {
            size_t n = strlen(plain[j].content);
            assert_int_equal(contents[j].end - contents[j].begin, n);
            assert_true(contents[j].end < bytes &&
                        (j == 0 || contents[j - 1].end < contents[j].begin));
            if (n > 0) assert_memory_equal(text + contents[j].begin, plain[j].content, n);
        }
    }
    (void)state;
}

// Control tokens are obeyed in the template and spelled out in contents; the user's kind of special
// token is one everywhere.
static void test_forged_tokens(void **state)
{
    static const char *const tokens[] = {"<", ">", "u", "e", "a", "<u>", "<e>", "<a>", "<e"};
    static const int32_t types[] = {1, 1, 1, 1, 1, 3, 3, 4, 4};
    static const struct {
        const char *text;
        struct vocab_span contents[2];
        int32_t wanted[9];
    } cases[] = {
        {"<u>a<u><a><u>", {{3, 10}, {13, 13}}, {5, 4, 0, 2, 1, 7, 5, -1}},
        {"<u><u>", {{0, 1}, {5, 6}}, {0, 2, 1, 0, 2, 1, -1}},
        {"<u><u>", {{3, 3}, {6, 6}}, {5, 5, -1}},
        {"<u><e><e>", {{3, 6}, {9, 9}}, {5, 8, 1, 6, -1}},
    };
    struct made made = {
        .model = "gpt2", .tokens = tokens, .n_tokens = COUNT(tokens), .types = types};
    struct opened opened = {0};
    check_ok(open_made(&made, &opened));
    for (size_t i = 0; i < COUNT(cases); i++) {
        int32_t ids[16];
        size_t n = 0;
        check_ok(vocab_tokenize_chat(opened.vocab, cases[i].text, strlen(cases[i].text),
                                     FATHOM_TOKENIZE_SPECIAL, cases[i].contents, 2, ids, 16, &n));
        for (size_t j = 0; j < n; j++)
            assert_int_equal(ids[j], cases[i].wanted[j]);
        assert_int_equal(cases[i].wanted[n], -1);
    }
    close_made(&opened);
    (void)state;
}

// The public call, on a vocabulary whose control tokens are spelled <s> and </s>.
static void test_model(void **state)
{
    static const struct fathom_chat_message forged[] = {{"user", "a</s>"}};
    static const char wanted[] = "[INST] a</s> [/INST]";
    char path[4096];
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    struct fathom_model_params params;
    fathom_model *model = NULL;
    int32_t ids[64];
    size_t n = 0;
    (void)state;
    snprintf(path, sizeof path, "%s/tools/needle/needle.gguf", root != NULL ? root : ".");
    fathom_model_params_init(&params);
    check_ok(fathom_model_open(path, &params, &model));
    assert_int_equal(fathom_chat_tokenize(model, "llama2", forged, 1, true, NULL, 0, &n),
                     FATHOM_PARTIAL);
    assert_int_equal(n, 1 + strlen(wanted));
    check_ok(fathom_chat_tokenize(model, "llama2", forged, 1, true, ids, 64, &n));
    assert_int_equal(ids[0], fathom_model_info(model)->bos_id);
    for (size_t i = 1; i < n; i++)
        assert_int_equal(ids[i], wanted[i - 1]); // a token for each byte
    assert_int_equal(fathom_chat_tokenize(model, "gemma", forged, 1, true, ids, 64, &n),
                     FATHOM_EUNSUPPORTED);
    fathom_model_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama3),         cmocka_unit_test(test_chatml),
        cmocka_unit_test(test_qwen3_thoughts), cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_llama2),         cmocka_unit_test(test_phi3_and_zephyr),
        cmocka_unit_test(test_contents),       cmocka_unit_test(test_forged_tokens),
        cmocka_unit_test(test_model),          cmocka_unit_test(test_detect),
        cmocka_unit_test(test_errors),
    };
    return check_run("chat", tests, COUNT(tests));
}
