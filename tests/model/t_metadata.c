// Metadata: conversions, defaults, the architecture in keys, and the user's overrides.

#include "src/model/metadata.h"

#include "tests/check.h"
#include "tests/model/gguf_bytes.h"

#include <math.h>

static struct bytes file;

static void put_f32(const char *key, float value)
{
    put_key(&file, key, FATHOM_GGUF_FLOAT32);
    put(&file, &value, sizeof value);
}

static fathom_gguf *open_file(void)
{
    fathom_gguf *gguf = NULL;
    double huge = 1e300;
    int32_t minus = -5;
    put_head(&file, 0, 12);
    put_key_string(&file, "general.architecture", "qwen3");
    put_key_u32(&file, "qwen3.block_count", 28);
    put_key_u32(&file, "%s.block_count", 1); // a key that looks like a pattern is none
    put_f32("qwen3.rope.freq_base", 1e6f);
    put_f32("bad", NAN);
    put_key(&file, "huge", FATHOM_GGUF_FLOAT64), put(&file, &huge, sizeof huge);
    put_key(&file, "minus", FATHOM_GGUF_INT32), put(&file, &minus, sizeof minus);
    put_key(&file, "large", FATHOM_GGUF_UINT64), put_u64(&file, UINT64_C(1) << 32);
    put_key(&file, "yes", FATHOM_GGUF_BOOL), put_u8(&file, 1);
    put_key_array(&file, "ids", FATHOM_GGUF_INT32, 2), put_u32(&file, 3), put_u32(&file, 4);
    put_key_array(&file, "scores", FATHOM_GGUF_FLOAT32, 0);
    put_key_array(&file, "words", FATHOM_GGUF_STRING, 1), put_string(&file, "w");
    check_ok(open_bytes(&file, &gguf));
    return gguf;
}

static void check_text(const struct fathom_gguf_string *string, const char *text)
{
    assert_int_equal(string->bytes, strlen(text));
    assert_memory_equal(string->text, text, string->bytes);
}

static void check_words(const char *words)
{
    if (strstr(fathom_last_error(), words) == NULL)
        fail_msg("text '%s' lacks '%s'", fathom_last_error(), words);
}

static void reads_the_file(void **state)
{
    (void)state;
    fathom_gguf *gguf = open_file();
    struct metadata *metadata = NULL;
    uint32_t u32 = 0;
    int32_t i32 = 0;
    float f32 = 0;
    bool truth = false;
    struct fathom_gguf_string text = {0};
    check_ok(metadata_open(gguf, NULL, 0, &metadata));
    assert_ptr_equal(metadata_gguf(metadata), gguf);
    assert_true(metadata_has(metadata, "%s.block_count"));
    assert_false(metadata_has(metadata, "%s.head_count"));
    check_ok(metadata_u32(metadata, "%s.block_count", 7, &u32));
    assert_int_equal(u32, 28);
    check_ok(metadata_u32(metadata, "%s.head_count", 7, &u32));
    assert_int_equal(u32, 7);
    check_ok(metadata_i32(metadata, "minus", 0, &i32));
    assert_int_equal(i32, -5);
    check_ok(metadata_i32(metadata, "absent", -9, &i32));
    assert_int_equal(i32, -9);
    check_ok(metadata_f32(metadata, "%s.rope.freq_base", 0, &f32));
    assert_true(f32 == 1e6f);
    check_ok(metadata_f32(metadata, "%s.block_count", 0, &f32));
    assert_true(f32 == 28);
    check_ok(metadata_f32(metadata, "absent", 0.25f, &f32));
    assert_true(f32 == 0.25f);
    check_ok(metadata_bool(metadata, "yes", false, &truth));
    assert_true(truth);
    check_ok(metadata_bool(metadata, "absent", true, &truth));
    assert_true(truth);
    check_ok(metadata_string(metadata, "general.architecture", NULL, &text));
    check_text(&text, "qwen3");
    check_ok(metadata_string(metadata, "absent", "default", &text));
    check_text(&text, "default");
    check_ok(metadata_string(metadata, "absent", NULL, &text));
    assert_null(text.text);
    metadata_close(&metadata);
    assert_null(metadata);
    metadata_close(&metadata);
    fathom_gguf_close(&gguf);
}

static void refuses_wrong_values(void **state)
{
    (void)state;
    fathom_gguf *gguf = open_file();
    struct metadata *metadata = NULL;
    uint32_t u32 = 77;
    int32_t i32 = 0;
    float f32 = 0;
    bool truth = false;
    struct fathom_gguf_string text = {0};
    check_ok(metadata_open(gguf, NULL, 0, &metadata));
    assert_int_equal(metadata_u32(metadata, "minus", 0, &u32), FATHOM_ECORRUPT);
    check_words("minus: must be an integer from 0");
    assert_int_equal(metadata_u32(metadata, "large", 0, &u32), FATHOM_ECORRUPT);
    assert_int_equal(metadata_u32(metadata, "%s.rope.freq_base", 0, &u32), FATHOM_ECORRUPT);
    check_words("qwen3.rope.freq_base: must be");
    assert_int_equal(metadata_u32(metadata, "ids", 0, &u32), FATHOM_ECORRUPT);
    assert_int_equal(metadata_u32(metadata, "general.architecture", 0, &u32), FATHOM_ECORRUPT);
    assert_int_equal(metadata_i32(metadata, "large", 0, &i32), FATHOM_ECORRUPT);
    assert_int_equal(metadata_f32(metadata, "bad", 0, &f32), FATHOM_ECORRUPT);
    check_words("bad: must be a finite number");
    assert_int_equal(metadata_f32(metadata, "huge", 0, &f32), FATHOM_ECORRUPT);
    assert_int_equal(metadata_f32(metadata, "scores", 0, &f32), FATHOM_ECORRUPT);
    assert_int_equal(metadata_bool(metadata, "large", false, &truth), FATHOM_ECORRUPT);
    assert_int_equal(metadata_bool(metadata, "words", false, &truth), FATHOM_ECORRUPT);
    assert_int_equal(metadata_string(metadata, "yes", NULL, &text), FATHOM_ECORRUPT);
    assert_int_equal(metadata_string(metadata, "words", NULL, &text), FATHOM_ECORRUPT);
    assert_int_equal(u32, 77);
    metadata_close(&metadata);
    fathom_gguf_close(&gguf);
}

static void finds_arrays(void **state)
{
    (void)state;
    fathom_gguf *gguf = open_file();
    struct metadata *metadata = NULL;
    const char *overrides[] = {"words=str:one"};
    const struct fathom_gguf_entry *entry = NULL;
    check_ok(metadata_open(gguf, overrides, 1, &metadata));
    check_ok(metadata_array(metadata, "ids", FATHOM_GGUF_UINT32, &entry));
    assert_int_equal(entry->n_items, 2);
    check_ok(metadata_array(metadata, "scores", FATHOM_GGUF_FLOAT64, &entry));
    assert_int_equal(entry->n_items, 0);
    check_ok(metadata_array(metadata, "absent", FATHOM_GGUF_UINT32, &entry));
    assert_null(entry);
    assert_int_equal(metadata_array(metadata, "ids", FATHOM_GGUF_STRING, &entry), FATHOM_ECORRUPT);
    check_words("ids: must be an array of strings");
    assert_int_equal(metadata_array(metadata, "ids", FATHOM_GGUF_FLOAT32, &entry), FATHOM_ECORRUPT);
    // Single values are no arrays, and an override hides one.
    check_ok(metadata_array(metadata, "%s.block_count", FATHOM_GGUF_UINT32, &entry));
    assert_null(entry);
    check_ok(metadata_array(metadata, "words", FATHOM_GGUF_STRING, &entry));
    assert_null(entry);
    metadata_close(&metadata);
    fathom_gguf_close(&gguf);
}

static void obeys_overrides(void **state)
{
    (void)state;
    const char *overrides[] = {
        "qwen3.block_count=int:30",
        "qwen3.block_count=int:31",
        "new.key=float:-2.5",
        "yes=bool:false",
        "name=str:a=b:c",
        "empty=str:",
        "low=int:-1",
    };
    const uint32_t n_overrides = sizeof overrides / sizeof overrides[0];
    fathom_gguf *gguf = open_file();
    struct metadata *metadata = NULL;
    uint32_t u32 = 0;
    int32_t i32 = 0;
    float f32 = 0;
    bool truth = true;
    struct fathom_gguf_string text = {0};
    check_ok(metadata_open(gguf, overrides, n_overrides, &metadata));
    check_ok(metadata_u32(metadata, "%s.block_count", 0, &u32));
    assert_int_equal(u32, 31);
    assert_true(metadata_has(metadata, "new.key"));
    check_ok(metadata_f32(metadata, "new.key", 0, &f32));
    assert_true(f32 == -2.5f);
    check_ok(metadata_f32(metadata, "low", 0, &f32));
    assert_true(f32 == -1);
    check_ok(metadata_bool(metadata, "yes", true, &truth));
    assert_false(truth);
    check_ok(metadata_string(metadata, "name", NULL, &text));
    check_text(&text, "a=b:c");
    check_ok(metadata_string(metadata, "empty", "x", &text));
    check_text(&text, "");
    check_ok(metadata_i32(metadata, "low", 0, &i32));
    assert_int_equal(i32, -1);
    assert_int_equal(metadata_u32(metadata, "low", 0, &u32), FATHOM_EINVAL);
    check_words("override of low: must be an integer");
    assert_int_equal(metadata_u32(metadata, "name", 0, &u32), FATHOM_EINVAL);
    assert_int_equal(metadata_string(metadata, "low", NULL, &text), FATHOM_EINVAL);
    metadata_close(&metadata);

    const char *other[] = {"general.architecture=str:%s"};
    check_ok(metadata_open(gguf, other, 1, &metadata));
    check_ok(metadata_u32(metadata, "%s.block_count", 0, &u32));
    assert_int_equal(u32, 1);
    metadata_close(&metadata);
    fathom_gguf_close(&gguf);
}

static void refuses_overrides(void **state)
{
    (void)state;
    const char *bad[] = {
        "",           "key",         "=int:1",      "key=1",         "key=int:",
        "key=int:1x", "key=int:1.5", "key=float:",  "key=float:nan", "key=int:9223372036854775808",
        "key=bool:1", "key=u32:1",   "key=bool:tr", "key=in:1",
    };
    fathom_gguf *gguf = open_file();
    struct metadata *metadata = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (metadata_open(gguf, &bad[i], 1, &metadata) != FATHOM_EINVAL)
            fail_msg("'%s' was taken", bad[i]);
        check_words("must be KEY=int:V");
        assert_null(metadata);
    }
    fathom_gguf_close(&gguf);
}

static void needs_an_architecture(void **state)
{
    (void)state;
    static char long_name[600 + 1];
    fathom_gguf *gguf = NULL;
    struct metadata *metadata = NULL;
    uint32_t u32 = 0;
    put_head(&file, 0, 1);
    put_key_u32(&file, "x", 5);
    check_ok(open_bytes(&file, &gguf));
    check_ok(metadata_open(gguf, NULL, 0, &metadata));
    check_ok(metadata_u32(metadata, "x", 0, &u32));
    assert_int_equal(u32, 5);
    assert_int_equal(metadata_u32(metadata, "%s.x", 0, &u32), FATHOM_ECORRUPT);
    check_words("general.architecture is missing");
    assert_false(metadata_has(metadata, "%s.x"));
    metadata_close(&metadata);
    fathom_gguf_close(&gguf);

    memset(long_name, 'a', sizeof long_name - 1);
    put_head(&file, 0, 1);
    put_key_string(&file, "general.architecture", long_name);
    check_ok(open_bytes(&file, &gguf));
    check_ok(metadata_open(gguf, NULL, 0, &metadata));
    assert_int_equal(metadata_u32(metadata, "%s.x", 0, &u32), FATHOM_ECORRUPT);
    check_words("too long");
    metadata_close(&metadata);
    fathom_gguf_close(&gguf);

    put_head(&file, 0, 1);
    put_key_u32(&file, "general.architecture", 5);
    check_ok(open_bytes(&file, &gguf));
    assert_int_equal(metadata_open(gguf, NULL, 0, &metadata), FATHOM_ECORRUPT);
    check_words("general.architecture: must be a string");
    fathom_gguf_close(&gguf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_file),    cmocka_unit_test(refuses_wrong_values),
        cmocka_unit_test(finds_arrays),      cmocka_unit_test(obeys_overrides),
        cmocka_unit_test(refuses_overrides), cmocka_unit_test(needs_an_architecture),
    };
    return check_run("metadata", tests, sizeof tests / sizeof tests[0]);
}
