// The small parts of src/base: status, log, number types, hash, clock.

#include "tests/check.h"

#include "fathom/version.h"
#include "src/base/clock.h"
#include "src/base/dtype.h"
#include "src/base/hash.h"
#include "src/base/log.h"
#include "src/base/status.h"

#include <pthread.h>
#include <string.h>

static void test_status_text(void **state)
{
    (void)state;
    assert_int_equal(status_set(FATHOM_EINVAL, "n_heads=%u: must be above 0", 0u), FATHOM_EINVAL);
    assert_string_equal(fathom_last_error(), "n_heads=0: must be above 0");
    assert_int_equal(status_prefix(FATHOM_ECORRUPT, "file %s", "a.gguf"), FATHOM_ECORRUPT);
    assert_string_equal(fathom_last_error(), "file a.gguf: n_heads=0: must be above 0");
    // The text as its own argument.
    status_set(FATHOM_EIO, "again, %s", fathom_last_error());
    assert_string_equal(fathom_last_error(), "again, file a.gguf: n_heads=0: must be above 0");
}

static void test_status_cut(void **state)
{
    char text[3000];
    (void)state;
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    status_set(FATHOM_EIO, "%s", text);
    assert_int_equal(strlen(fathom_last_error()), 1023);
    status_prefix(FATHOM_EIO, "%s", "ab");
    assert_int_equal(strlen(fathom_last_error()), 1023);
    assert_memory_equal(fathom_last_error(), "ab: xxx", 7);
    status_prefix(FATHOM_EIO, "%s", text);
    assert_int_equal(strlen(fathom_last_error()), 1023);
    assert_null(strchr(fathom_last_error(), 'a'));
}

static void *fail_elsewhere(void *arg)
{
    const char **seen = arg;
    // Compared here: the text dies with its thread.
    if (strcmp(fathom_last_error(), "") == 0) seen[0] = "empty at first";
    status_set(FATHOM_EFULL, "theirs");
    if (strcmp(fathom_last_error(), "theirs") == 0) seen[1] = "own text";
    return NULL;
}

static void test_status_is_per_thread(void **state)
{
    const char *seen[2] = {NULL, NULL};
    pthread_t thread;
    (void)state;
    status_set(FATHOM_EFULL, "mine");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, seen), 0);
    pthread_join(thread, NULL);
    assert_non_null(seen[0]);
    assert_non_null(seen[1]);
    assert_string_equal(fathom_last_error(), "mine");
}

static fathom_status try_it(fathom_status inner)
{
    FATHOM_TRY(inner);
    return FATHOM_OK;
}

static void test_status_names(void **state)
{
    char version[32];
    (void)state;
    assert_string_equal(fathom_status_name(FATHOM_OK), "OK");
    assert_string_equal(fathom_status_name(FATHOM_ECANCELLED), "ECANCELLED");
    for (fathom_status code = FATHOM_ECANCELLED; code <= FATHOM_PARTIAL; code++)
        assert_string_not_equal(fathom_status_name(code), "UNKNOWN");
    assert_string_equal(fathom_status_name(-1000), "UNKNOWN");
    assert_int_equal(try_it(FATHOM_EIO), FATHOM_EIO);
    assert_int_equal(try_it(FATHOM_PARTIAL), FATHOM_OK);
    snprintf(version, sizeof version, "%d.%d.%d", FATHOM_VERSION_MAJOR, FATHOM_VERSION_MINOR,
             FATHOM_VERSION_PATCH);
    assert_string_equal(fathom_version(), version);
}

struct line {
    int level;
    char text[2048];
};

static void keep_line(int level, const char *text, void *user)
{
    struct line *line = user;
    line->level = level;
    snprintf(line->text, sizeof line->text, "%s", text);
}

static void test_log(void **state)
{
    struct line line = {0};
    struct log log = {keep_line, &line};
    (void)state;
    log_write(&log, FATHOM_LOG_WARN, "pool: started, n_threads=%d", 7);
    assert_int_equal(line.level, FATHOM_LOG_WARN);
    assert_string_equal(line.text, "pool: started, n_threads=7");
    log_write(&log, FATHOM_LOG_INFO, "%2000d", 1);
    assert_int_equal(strlen(line.text), 1023);
    log.fn = NULL;
    log_write(&log, FATHOM_LOG_INFO, "nobody hears this");
}

// Bytes of a block as the GGUF specification's structs have them, summed by field.
static void test_dtype_table(void **state)
{
    size_t count;
    const struct dtype *all = dtype_all(&count);
    (void)state;
    assert_int_equal(count, 11);
    for (size_t i = 0; i < count; i++) {
        assert_ptr_equal(dtype_find(all[i].type), &all[i]);
        assert_ptr_equal(dtype_find_name(all[i].name), &all[i]);
        assert_true(i == 0 || all[i - 1].type < all[i].type);
        assert_int_equal(dtype_row_bytes(all[i].type, 0), 0);
        assert_int_equal(dtype_row_bytes(all[i].type, 3 * (size_t)all[i].block_values),
                         3 * (size_t)all[i].block_bytes);
    }
    assert_null(dtype_find(4));
    assert_null(dtype_find(-1));
    assert_null(dtype_find_name("q9_9"));
    assert_int_equal(dtype_find_name("q8_0")->type, FATHOM_TYPE_Q8_0);
    assert_int_equal(dtype_find_name("bf16")->type, FATHOM_TYPE_BF16);
    static const struct {
        int32_t type;
        size_t bytes; // of 4096 values, as published model files have them
    } rows[] = {
        {FATHOM_TYPE_F32, 16384}, {FATHOM_TYPE_F16, 8192},  {FATHOM_TYPE_BF16, 8192},
        {FATHOM_TYPE_Q4_0, 2304}, {FATHOM_TYPE_Q4_1, 2560}, {FATHOM_TYPE_Q5_0, 2816},
        {FATHOM_TYPE_Q5_1, 3072}, {FATHOM_TYPE_Q8_0, 4352}, {FATHOM_TYPE_Q4_K, 2304},
        {FATHOM_TYPE_Q5_K, 2816}, {FATHOM_TYPE_Q6_K, 3360},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(dtype_row_bytes(rows[i].type, 4096), rows[i].bytes);
}

// The vectors of xxHash's own self-test, over its own sequence of bytes.
static void test_hash(void **state)
{
    static const struct {
        size_t bytes;
        uint64_t seed;
        uint64_t hash;
    } vectors[] = {
        {0, 0, 0x2d06800538d394c2},   {0, 0x9e3779b185ebca8d, 0xa8a6b918b2f0364a},
        {1, 0, 0xc44bdff4074eecdb},   {1, 0x9e3779b185ebca8d, 0x032be332dd766ef8},
        {403, 0, 0xcdeb804d65c6dea4}, {2048, 0, 0xdd59e2c3a5f038e0},
    };
    unsigned char bytes[2048];
    uint64_t next = 2654435761;
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(next >> 56);
        next *= 0x9e3779b185ebca8d;
    }
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++)
        assert_int_equal(hash_bytes(bytes, vectors[i].bytes, vectors[i].seed), vectors[i].hash);
}

static void test_clock(void **state)
{
    (void)state;
    uint64_t begin_ns = clock_ns();
    const struct timespec wait = {.tv_nsec = 2000000};
    nanosleep(&wait, NULL);
    uint64_t ns = clock_ns() - begin_ns;
    assert_in_range(ns, 2000000, 60000000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_text),
        cmocka_unit_test(test_status_cut),
        cmocka_unit_test(test_status_is_per_thread),
        cmocka_unit_test(test_status_names),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_dtype_table),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_clock),
    };
    return check_run("t_base", tests, sizeof tests / sizeof tests[0]);
}
