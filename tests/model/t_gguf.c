// GGUF files: every rule of the reader, each with files made for it. Real files: t_gguf_files.c.

#include "fathom/gguf.h"

#include "tests/check.h"
#include "tests/model/gguf_bytes.h"

static struct bytes file;

static int64_t as_int(const fathom_gguf *gguf, const char *key, uint64_t index)
{
    int64_t value = 0;
    check_ok(fathom_gguf_as_int(gguf, find(gguf, key), index, &value));
    return value;
}

static double as_float(const fathom_gguf *gguf, const char *key, uint64_t index)
{
    double value = 0;
    check_ok(fathom_gguf_as_float(gguf, find(gguf, key), index, &value));
    return value;
}

static void put_scalars(void)
{
    int16_t i16 = -300;
    uint16_t u16 = 65535;
    int32_t i32 = -70000;
    int64_t i64 = INT64_MIN;
    float f32 = 1.5f;
    double f64 = -0.1;
    put_key(&file, "u8", FATHOM_GGUF_UINT8), put_u8(&file, 200);
    put_key(&file, "i8", FATHOM_GGUF_INT8), put_u8(&file, 0xff);
    put_key(&file, "u16", FATHOM_GGUF_UINT16), put(&file, &u16, sizeof u16);
    put_key(&file, "i16", FATHOM_GGUF_INT16), put(&file, &i16, sizeof i16);
    put_key_u32(&file, "u32", 4000000000u);
    put_key(&file, "i32", FATHOM_GGUF_INT32), put(&file, &i32, sizeof i32);
    put_key(&file, "f32", FATHOM_GGUF_FLOAT32), put(&file, &f32, sizeof f32);
    put_key(&file, "true", FATHOM_GGUF_BOOL), put_u8(&file, 1);
    put_key(&file, "u64", FATHOM_GGUF_UINT64), put_u64(&file, UINT64_MAX);
    put_key(&file, "i64", FATHOM_GGUF_INT64), put(&file, &i64, sizeof i64);
    put_key(&file, "f64", FATHOM_GGUF_FLOAT64), put(&file, &f64, sizeof f64);
    put_key_string(&file, "text", "a \xe2\x96\x81 b");
}

static void reads_scalars(void **state)
{
    (void)state;
    fathom_gguf *gguf = NULL;
    int64_t integer = 77;
    double number = 77;
    struct fathom_gguf_string string;
    put_head(&file, 0, 12);
    put_scalars();
    check_ok(open_bytes(&file, &gguf));
    assert_int_equal(fathom_gguf_version(gguf), 3);
    assert_int_equal(fathom_gguf_file_bytes(gguf), file.n);
    assert_int_equal(fathom_gguf_entry_count(gguf), 12);
    assert_int_equal(as_int(gguf, "u8", 0), 200);
    assert_int_equal(as_int(gguf, "i8", 0), -1);
    assert_int_equal(as_int(gguf, "u16", 0), 65535);
    assert_int_equal(as_int(gguf, "i16", 0), -300);
    assert_int_equal(as_int(gguf, "u32", 0), 4000000000);
    assert_int_equal(as_int(gguf, "i32", 0), -70000);
    assert_int_equal(as_int(gguf, "true", 0), 1);
    assert_true(as_int(gguf, "i64", 0) == INT64_MIN);
    assert_true(as_float(gguf, "f32", 0) == 1.5);
    assert_true(as_float(gguf, "f64", 0) == -0.1);
    assert_true(as_float(gguf, "i16", 0) == -300);
    check_string(gguf, "text", 0, "a \xe2\x96\x81 b");

    // What a type cannot hold is refused, and the result left alone.
    assert_int_equal(fathom_gguf_as_int(gguf, find(gguf, "u64"), 0, &integer), FATHOM_EINVAL);
    assert_int_equal(fathom_gguf_as_int(gguf, find(gguf, "f32"), 0, &integer), FATHOM_EINVAL);
    assert_int_equal(fathom_gguf_as_int(gguf, find(gguf, "text"), 0, &integer), FATHOM_EINVAL);
    assert_int_equal(fathom_gguf_as_int(gguf, find(gguf, "u8"), 1, &integer), FATHOM_EINVAL);
    assert_int_equal(fathom_gguf_as_int(gguf, NULL, 0, &integer), FATHOM_EINVAL);
    assert_int_equal(fathom_gguf_as_float(gguf, find(gguf, "true"), 0, &number), FATHOM_EINVAL);
    assert_int_equal(fathom_gguf_as_string(gguf, find(gguf, "u8"), 0, &string), FATHOM_EINVAL);
    assert_int_equal(integer, 77);
    assert_true(number == 77);
    assert_null(fathom_gguf_find(gguf, "u"));
    assert_null(fathom_gguf_find(gguf, ""));
    assert_null(fathom_gguf_entry_at(gguf, 12));
    fathom_gguf_close(&gguf);
    assert_null(gguf);
    fathom_gguf_close(&gguf);
}

// Integers that a double holds exactly, however large, and others, however small the loss.
static void reads_large_integers_as_floats(void **state)
{
    (void)state;
    const struct {
        int64_t value;
        bool good;
    } cases[] = {
        {INT64_C(1) << 53, true},    {(INT64_C(1) << 53) + 1, false},
        {-(INT64_C(1) << 53), true}, {-(INT64_C(1) << 53) - 1, false},
        {INT64_C(1) << 62, true},    {INT64_MIN, true},
        {INT64_MAX, false},          {INT64_MIN + 1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fathom_gguf *gguf = NULL;
        double number = 0;
        put_head(&file, 0, 1);
        put_key(&file, "i", FATHOM_GGUF_INT64);
        put(&file, &cases[i].value, sizeof cases[i].value);
        check_ok(open_bytes(&file, &gguf));
        fathom_status status = fathom_gguf_as_float(gguf, find(gguf, "i"), 0, &number);
        assert_int_equal(status, cases[i].good ? FATHOM_OK : FATHOM_EINVAL);
        if (cases[i].good) assert_true((int64_t)number == cases[i].value);
        fathom_gguf_close(&gguf);
    }
}

static void reads_arrays(void **state)
{
    (void)state;
    fathom_gguf *gguf = NULL;
    int64_t integer = 0;
    put_head(&file, 0, 4);
    put_key_array(&file, "numbers", FATHOM_GGUF_UINT32, 1000);
    for (uint32_t i = 0; i < 1000; i++)
        put_u32(&file, i * i);
    put_key_array(&file, "words", FATHOM_GGUF_STRING, 3);
    put_string(&file, "");
    put_string(&file, "one");
    put_string(&file, "three");
    put_key_array(&file, "none", FATHOM_GGUF_STRING, 0);
    put_key_array(&file, "nested", FATHOM_GGUF_ARRAY, 2);
    put_u32(&file, FATHOM_GGUF_STRING), put_u64(&file, 1), put_string(&file, "inner");
    put_u32(&file, FATHOM_GGUF_UINT8), put_u64(&file, 2), put(&file, "ab", 2);
    check_ok(open_bytes(&file, &gguf));
    assert_int_equal(find(gguf, "numbers")->n_items, 1000);
    assert_int_equal(as_int(gguf, "numbers", 999), 999 * 999);
    check_string(gguf, "words", 0, "");
    check_string(gguf, "words", 2, "three");
    assert_int_equal(find(gguf, "none")->n_items, 0);
    assert_int_equal(fathom_gguf_as_int(gguf, find(gguf, "none"), 0, &integer), FATHOM_EINVAL);
    assert_int_equal(find(gguf, "nested")->item_type, FATHOM_GGUF_ARRAY);
    assert_int_equal(find(gguf, "nested")->n_items, 2);
    assert_int_equal(fathom_gguf_as_int(gguf, find(gguf, "nested"), 0, &integer), FATHOM_EINVAL);
    fathom_gguf_close(&gguf);
}

static void refuses_preambles(void **state)
{
    (void)state;
    const struct {
        uint32_t version;
        const char *words;
    } cases[] = {{0, "version 0"},
                 {1, "version 1"},
                 {4, "version 4"},
                 {0x02000000, "big-endian"},
                 {0x03000000, "big-endian"}};
    fathom_gguf *gguf = NULL;
    put_head(&file, 0, 0);
    file.data[0] = 'g';
    check_refused(&file, FATHOM_ECORRUPT, "no GGUF file, which would begin with \"GGUF\"");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_head(&file, 0, 0);
        memcpy(file.data + 4, &cases[i].version, 4);
        check_refused(&file, FATHOM_EUNSUPPORTED, cases[i].words);
    }
    put_head(&file, 0, 0);
    check_ok(open_bytes(&file, &gguf));
    fathom_gguf_close(&gguf);
    file.data[4] = 2;
    check_ok(open_bytes(&file, &gguf));
    assert_int_equal(fathom_gguf_version(gguf), 2);
    fathom_gguf_close(&gguf);
    for (file.n = 23; file.n > 0; file.n--)
        check_refused(&file, FATHOM_ECORRUPT,
                      file.n < 4 ? "would begin with \"GGUF\"" : "needed at offset");
}

static void refuses_counts(void **state)
{
    (void)state;
    const uint64_t counts[] = {2, 1u << 20, UINT64_C(1) << 58, UINT64_C(1) << 61, UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        put_head(&file, 0, counts[i]);
        check_refused(&file, FATHOM_ECORRUPT, "metadata entries");
        put_head(&file, counts[i], 0);
        check_refused(&file, FATHOM_ECORRUPT, "tensors");
        put_head(&file, 0, 1);
        put_key_array(&file, "k", FATHOM_GGUF_STRING, counts[i]);
        check_refused(&file, FATHOM_ECORRUPT, "strings");
        put_head(&file, 0, 1);
        put_key_array(&file, "k", FATHOM_GGUF_UINT64, counts[i]);
        check_refused(&file, FATHOM_ECORRUPT, "k: ");
        put_head(&file, 0, 1);
        put_key_array(&file, "k", FATHOM_GGUF_ARRAY, counts[i]);
        check_refused(&file, FATHOM_ECORRUPT, "k: ");
        put_head(&file, 0, 1);
        put_key(&file, "k", FATHOM_GGUF_STRING);
        put_u64(&file, counts[i]);
        check_refused(&file, FATHOM_ECORRUPT, "k: ");
        put_head(&file, 0, 1);
        put_u64(&file, counts[i] + (1 << 20));
        put_data(&file, 32, 32);
        check_refused(&file, FATHOM_ECORRUPT, "metadata entry 0: ");
    }
}

// Many tiny tables may not add up to much more than the file either: an entry with an array of one
// empty string takes 36 bytes of file and 120 of memory.
static void bounds_the_tables(void **state)
{
    (void)state;
    fathom_gguf *gguf = NULL;
    for (uint32_t n_entries = 5000; n_entries <= 15000; n_entries += 10000) {
        put_head(&file, 0, n_entries);
        for (uint32_t i = 0; i < n_entries; i++) {
            char key[8];
            snprintf(key, sizeof key, "%04x", i);
            put_key_array(&file, key, FATHOM_GGUF_STRING, 1);
            put_string(&file, "");
        }
        if (n_entries == 15000) {
            check_refused(&file, FATHOM_ECORRUPT, "strings cannot lie");
        } else {
            check_ok(open_bytes(&file, &gguf));
            check_string(gguf, "1000", 0, "");
            fathom_gguf_close(&gguf);
        }
    }
}

static void refuses_names(void **state)
{
    (void)state;
    static char long_name[65537 + 1];
    uint64_t dims[1] = {1};
    fathom_gguf *gguf = NULL;
    memset(long_name, 'x', sizeof long_name - 1);
    put_head(&file, 0, 1), put_key_u32(&file, "", 1);
    check_refused(&file, FATHOM_ECORRUPT, "name of 0 bytes");
    put_head(&file, 0, 1), put_key_u32(&file, long_name, 1);
    check_refused(&file, FATHOM_ECORRUPT, "name of 65537 bytes");
    long_name[65535] = 0;
    put_head(&file, 0, 1), put_key_u32(&file, long_name, 1);
    check_ok(open_bytes(&file, &gguf));
    assert_non_null(fathom_gguf_find(gguf, long_name));
    fathom_gguf_close(&gguf);
    put_head(&file, 0, 1), put_key_u32(&file, "a\x1b[2J", 1);
    check_refused(&file, FATHOM_ECORRUPT, "byte 0x1b");
    put_head(&file, 1, 0), put_tensor(&file, "", 0, 1, dims, 0), put_data(&file, 32, 32);
    check_refused(&file, FATHOM_ECORRUPT, "tensor 0: name of 0 bytes");
    put_head(&file, 0, 3);
    put_key_u32(&file, "b", 1), put_key_u32(&file, "a", 1), put_key_u32(&file, "b", 1);
    check_refused(&file, FATHOM_ECORRUPT, "metadata key b occurs twice");
    put_head(&file, 2, 0);
    put_tensor(&file, "w", 0, 1, dims, 0), put_tensor(&file, "w", 0, 1, dims, 32);
    put_data(&file, 32, 64);
    check_refused(&file, FATHOM_ECORRUPT, "tensor w occurs twice");
}

static void refuses_types_and_depth(void **state)
{
    (void)state;
    fathom_gguf *gguf = NULL;
    put_head(&file, 0, 1), put_key(&file, "k", 13), put_u64(&file, 0);
    check_refused(&file, FATHOM_ECORRUPT, "k: unknown type 13");
    put_head(&file, 0, 1), put_key_array(&file, "k", 0xffffffff, 0);
    check_refused(&file, FATHOM_ECORRUPT, "k: unknown type");
    for (int n_levels = 9; n_levels <= 10; n_levels++) {
        put_head(&file, 0, 1);
        put_key_array(&file, "k", FATHOM_GGUF_ARRAY, 1);
        for (int i = 2; i < n_levels; i++)
            put_u32(&file, FATHOM_GGUF_ARRAY), put_u64(&file, 1);
        put_u32(&file, FATHOM_GGUF_UINT8), put_u64(&file, 1), put_u8(&file, 7);
        if (n_levels == 10) {
            check_refused(&file, FATHOM_ECORRUPT, "nested");
        } else {
            check_ok(open_bytes(&file, &gguf));
            fathom_gguf_close(&gguf);
        }
    }
}

static void obeys_the_alignment(void **state)
{
    (void)state;
    const struct {
        uint32_t alignment;
        bool good;
    } cases[] = {{0, false}, {1, false},  {4, false},          {24, false},
                 {8, true},  {128, true}, {0x80000000, false}, {0xffffffff, false}};
    uint64_t dims[1] = {2};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fathom_gguf *gguf = NULL;
        uint32_t alignment = cases[i].alignment;
        put_head(&file, 1, 1);
        put_key_u32(&file, "general.alignment", alignment);
        put_tensor(&file, "w", FATHOM_TYPE_F32, 1, dims, alignment);
        if (cases[i].good) put_data(&file, alignment, alignment + 8);
        fathom_status status = open_bytes(&file, &gguf);
        assert_int_equal(status, cases[i].good ? FATHOM_OK : FATHOM_ECORRUPT);
        if (cases[i].good) {
            const uint8_t *data = fathom_gguf_tensor_find(gguf, "w")->data;
            assert_int_equal(data[0], (uint8_t)alignment);
            assert_int_equal((uintptr_t)data % alignment, 0);
        }
        fathom_gguf_close(&gguf);
    }
    put_head(&file, 0, 1);
    put_key_string(&file, "general.alignment", "32");
    check_refused(&file, FATHOM_ECORRUPT, "general.alignment: must be of type uint32");
}

static void reads_tensors(void **state)
{
    (void)state;
    uint64_t dims[4] = {64, 3, 2, 1}, odd[1] = {5};
    fathom_gguf *gguf = NULL;
    put_head(&file, 3, 0);
    put_tensor(&file, "q", FATHOM_TYPE_Q8_0, 4, dims, 0); // 2 blocks x 34 bytes x 6 rows = 408
    put_tensor(&file, "x", 99, 1, odd, 416);              // a type that nobody knows
    put_tensor(&file, "f", FATHOM_TYPE_F16, 1, odd, 448); // 10 bytes
    put_data(&file, 32, 458);                             // up to the last byte
    size_t data_at = file.n - 458;
    check_ok(open_bytes(&file, &gguf));
    assert_int_equal(fathom_gguf_tensor_count(gguf), 3);
    const struct fathom_gguf_tensor *tensor = fathom_gguf_tensor_find(gguf, "q");
    assert_int_equal(tensor->bytes, 408);
    assert_int_equal(tensor->n_dims, 4);
    assert_int_equal(tensor->dims[1], 3);
    assert_memory_equal(tensor->data, file.data + data_at, 408);
    tensor = fathom_gguf_tensor_find(gguf, "x");
    assert_int_equal(tensor->type, 99);
    assert_int_equal(tensor->bytes, 0);
    assert_null(tensor->data);
    tensor = fathom_gguf_tensor_at(gguf, 2);
    assert_int_equal(tensor->dims[1], 1);
    assert_memory_equal(tensor->data, file.data + data_at + 448, 10);
    assert_null(fathom_gguf_tensor_at(gguf, 3));
    assert_null(fathom_gguf_tensor_find(gguf, "w"));
    fathom_gguf_close(&gguf);
    file.n--;
    check_refused(&file, FATHOM_ECORRUPT, "f: data of 10 bytes");
}

static void refuses_tensors(void **state)
{
    (void)state;
    const uint64_t big = UINT64_C(1) << 32;
    const struct {
        uint32_t type, n_dims;
        uint64_t dims[4], offset;
        const char *words;
    } cases[] = {
        {0, 0, {1}, 0, "w: 0 dimensions"},
        {0, 5, {1, 1, 1, 1}, 0, "w: 5 dimensions"},
        {0, 2, {4, 0}, 0, "w: dimension of 0"},
        {0, 2, {big, big}, 0, "w: data of"},
        {0, 4, {big, big, big, big}, 0, "w: data of"},
        {0, 1, {UINT64_MAX}, 0, "w: data of"},
        {0, 1, {17}, 0, "w: data of 68 bytes"},
        {8, 1, {33}, 0, "w: rows of 33 values"},
        {12, 1, {32}, 0, "w: rows of 32 values"},
        {0, 1, {1}, 16, "w: data offset 16 is no multiple"},
        {0, 1, {1}, 96, "w: data of"},
        {0, 1, {1}, UINT64_MAX - 31, "w: data of"},
        {99, 1, {1}, UINT64_MAX - 31, "w: data of"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_head(&file, 1, 0);
        put_string(&file, "w");
        put_u32(&file, cases[i].n_dims);
        for (size_t j = 0; j < cases[i].n_dims && j < 4; j++)
            put_u64(&file, cases[i].dims[j]);
        put_u32(&file, cases[i].type);
        put_u64(&file, cases[i].offset);
        put_data(&file, 32, 64);
        check_refused(&file, FATHOM_ECORRUPT, cases[i].words);
    }
    uint64_t dims[1] = {16};
    put_head(&file, 2, 0);
    put_tensor(&file, "a", 0, 1, dims, 0), put_tensor(&file, "b", 0, 1, dims, 32);
    put_data(&file, 32, 96);
    check_refused(&file, FATHOM_ECORRUPT, "b: data offset 32 is inside the tensor before it");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_scalars),       cmocka_unit_test(reads_large_integers_as_floats),
        cmocka_unit_test(reads_arrays),        cmocka_unit_test(refuses_preambles),
        cmocka_unit_test(refuses_counts),      cmocka_unit_test(bounds_the_tables),
        cmocka_unit_test(refuses_names),       cmocka_unit_test(refuses_types_and_depth),
        cmocka_unit_test(obeys_the_alignment), cmocka_unit_test(reads_tensors),
        cmocka_unit_test(refuses_tensors),
    };
    return check_run("gguf", tests, sizeof tests / sizeof tests[0]);
}
