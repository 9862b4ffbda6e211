// What a model's metadata says of its shape: numbers that come once or for each layer, the user's
// overrides, and what is refused before any memory depends on it.

#include "fathom/model.h"
#include "tests/model/gguf_bytes.h"

// A change to the plain model: a key (behind "llama.") with one value or an array of them.
struct change {
    const char *key;
    bool is_array;
    uint32_t n;
    int32_t values[4];
};

static const struct change plain[] = {
    {"context_length", false, 1, {64}},      {"embedding_length", false, 1, {32}},
    {"block_count", false, 1, {3}},          {"feed_forward_length", false, 1, {48}},
    {"attention.head_count", false, 1, {4}}, {"attention.head_count_kv", false, 1, {2}},
};
enum { N_PLAIN = sizeof plain / sizeof plain[0] };

static void put_change(struct bytes *bytes, const struct change *change)
{
    char key[96];
    snprintf(key, sizeof key, "llama.%s", change->key);
    if (change->is_array)
        put_key_array(bytes, key, FATHOM_GGUF_INT32, change->n);
    else
        put_key(bytes, key, FATHOM_GGUF_INT32);
    put(bytes, change->values, change->n * sizeof change->values[0]);
}

// Opens the plain model without weights, with one key changed (NULL: none) and one override.
static fathom_status open_changed(const struct change *change, const char *override,
                                  fathom_model **model)
{
    static struct bytes bytes;
    static const uint64_t dims[] = {32};
    struct fathom_model_params params;
    char path[64];
    bool is_new = change != NULL;
    for (size_t i = 0; i < N_PLAIN && change != NULL; i++)
        if (strcmp(plain[i].key, change->key) == 0) is_new = false;
    put_head(&bytes, 1, N_PLAIN + 4 + is_new);
    put_key_string(&bytes, "general.architecture", "llama");
    for (size_t i = 0; i < N_PLAIN; i++) {
        const bool is_changed = change != NULL && strcmp(plain[i].key, change->key) == 0;
        put_change(&bytes, is_changed ? change : &plain[i]);
    }
    if (is_new) put_change(&bytes, change);
    put_key(&bytes, "llama.attention.layer_norm_rms_epsilon", FATHOM_GGUF_FLOAT32);
    put(&bytes, &(float){1e-5f}, sizeof(float));
    put_key_string(&bytes, "tokenizer.ggml.model", "gpt2");
    put_key_array(&bytes, "tokenizer.ggml.tokens", FATHOM_GGUF_STRING, 1);
    put_string(&bytes, "a");
    put_tensor(&bytes, "output_norm.weight", FATHOM_TYPE_F32, 1, dims, 0);
    put_data(&bytes, 32, 32 * sizeof(float));

    int file = memfd_create("model", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(write(file, bytes.data, bytes.n), (ssize_t)bytes.n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    fathom_model_params_init(&params);
    params.overrides = &override;
    params.n_overrides = override != NULL;
    *model = NULL;
    fathom_status status = fathom_model_open(path, &params, model);
    close(file);
    return status;
}

static void check_d_ff(const struct change *change, const char *override, uint32_t wanted)
{
    fathom_model *model;
    check_ok(open_changed(change, override, &model));
    assert_int_equal(fathom_model_info(model)->d_ff, wanted);
    fathom_model_close(&model);
}

static void numbers_for_each_layer(void **state)
{
    (void)state;
    const struct change array = {"feed_forward_length", true, 3, {40, 40, 40}};
    const struct change mixed = {"feed_forward_length", true, 3, {40, 40, 48}};
    fathom_model *model;
    check_d_ff(NULL, NULL, 48);
    check_d_ff(&array, NULL, 40);
    assert_int_equal(open_changed(&mixed, NULL, &model), FATHOM_EUNSUPPORTED);
    assert_non_null(strstr(fathom_last_error(), "feed_forward_length"));
    // The override counts, whatever form the file's value has.
    check_d_ff(NULL, "llama.feed_forward_length=int:56", 56);
    check_d_ff(&array, "llama.feed_forward_length=int:56", 56);
    check_d_ff(&mixed, "llama.feed_forward_length=int:56", 56);
}

static void defaults(void **state)
{
    (void)state;
    fathom_model *model;
    check_ok(open_changed(NULL, NULL, &model));
    const struct fathom_model_info *info = fathom_model_info(model);
    assert_int_equal(info->n_layers, 3);
    assert_int_equal(info->d_k, 8);
    assert_int_equal(info->d_v, 8);
    assert_int_equal(info->rope.n_rot, 8);
    assert_int_equal(info->rope.pairing, FATHOM_ROPE_ADJACENT);
    assert_int_equal(info->n_parameters, 32);
    fathom_model_close(&model);
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        struct change change;
        fathom_status status;
    } cases[] = {
        {{"block_count", false, 1, {0}}, FATHOM_ECORRUPT},
        {{"block_count", false, 1, {4097}}, FATHOM_EUNSUPPORTED},
        {{"block_count", false, 1, {-1}}, FATHOM_ECORRUPT},
        {{"block_count", true, 1, {3}}, FATHOM_ECORRUPT},
        {{"context_length", false, 1, {(1 << 28) + 1}}, FATHOM_EUNSUPPORTED},
        {{"embedding_length", false, 1, {3}}, FATHOM_ECORRUPT}, // fewer than heads
        {{"feed_forward_length", false, 1, {1 << 23}}, FATHOM_EUNSUPPORTED},
        {{"feed_forward_length", true, 0, {0}}, FATHOM_ECORRUPT},
        {{"feed_forward_length", true, 3, {-1, -1, -1}}, FATHOM_ECORRUPT},
        {{"attention.head_count", false, 1, {INT32_MAX}}, FATHOM_EUNSUPPORTED},
        {{"attention.head_count_kv", false, 1, {0}}, FATHOM_ECORRUPT},
        {{"attention.head_count_kv", false, 1, {3}}, FATHOM_ECORRUPT},
        {{"attention.head_count_kv", false, 1, {5}}, FATHOM_EUNSUPPORTED},
        {{"attention.key_length", false, 1, {257}}, FATHOM_EUNSUPPORTED},
        {{"attention.value_length", false, 1, {-8}}, FATHOM_ECORRUPT},
        {{"rope.dimension_count", false, 1, {0}}, FATHOM_ECORRUPT},
        {{"rope.dimension_count", false, 1, {7}}, FATHOM_ECORRUPT},
        {{"rope.dimension_count", false, 1, {10}}, FATHOM_ECORRUPT}, // heads have 8
        {{"expert_count", false, 1, {8}}, FATHOM_EUNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fathom_model *model;
        fathom_status status = open_changed(&cases[i].change, NULL, &model);
        if (status != cases[i].status)
            fail_msg("%s=%d: status %d, wanted %d", cases[i].change.key, cases[i].change.values[0],
                     status, cases[i].status);
        assert_null(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_for_each_layer),
        cmocka_unit_test(defaults),
        cmocka_unit_test(refused),
    };
    return check_run("hparams", tests, sizeof tests / sizeof *tests);
}
