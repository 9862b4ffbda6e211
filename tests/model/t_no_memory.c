// Running out of memory: opening a model, a runner and a sequence, tokenizing and feeding, with
// the first allocation failing, then the second, and so on until all goes well. Each failure must
// be told, leave nothing behind (the address sanitizer looks) and leave what was open usable.
//
// The linker wraps the functions that allocate; what they call of each other is not counted.

#include "tests/check.h"

#include <string.h>

#include "fathom/model.h"
#include "src/base/mem.h"
#include "src/base/status.h"

static size_t n_left = SIZE_MAX; // allocations that succeed before one fails

fathom_status __real_mem_new(size_t count, size_t item_bytes, const char *what, void *out);
fathom_status __wrap_mem_new(size_t count, size_t item_bytes, const char *what, void *out);
fathom_status __real_mem_grow(size_t old_count, size_t new_count, size_t item_bytes,
                              const char *what, void *block);
fathom_status __wrap_mem_grow(size_t old_count, size_t new_count, size_t item_bytes,
                              const char *what, void *block);
fathom_status __real_mem_reserve(size_t bytes, enum mem_pages pages, const char *what, void **out);
fathom_status __wrap_mem_reserve(size_t bytes, enum mem_pages pages, const char *what, void **out);

static bool fails(void)
{
    return n_left != SIZE_MAX && n_left-- == 0;
}

fathom_status __wrap_mem_new(size_t count, size_t item_bytes, const char *what, void *out)
{
    if (fails()) return status_set(FATHOM_ENOMEM, "%s: made to fail", what);
    return __real_mem_new(count, item_bytes, what, out);
}

fathom_status __wrap_mem_grow(size_t old_count, size_t new_count, size_t item_bytes,
                              const char *what, void *block)
{
    if (fails()) return status_set(FATHOM_ENOMEM, "%s: made to fail", what);
    return __real_mem_grow(old_count, new_count, item_bytes, what, block);
}

fathom_status __wrap_mem_reserve(size_t bytes, enum mem_pages pages, const char *what, void **out)
{
    if (fails()) return status_set(FATHOM_ENOMEM, "%s: made to fail", what);
    return __real_mem_reserve(bytes, pages, what, out);
}

struct opened {
    fathom_device *device;
    fathom_model *model;
    fathom_runner *runner;
    fathom_sampler *sampler;
    struct fathom_seq seq;
};

static const char *needle_model(void)
{
    static char path[4096];
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/tools/needle/needle.gguf", root != NULL ? root : ".");
    return path;
}

static fathom_status open_device(struct opened *o)
{
    struct fathom_device_params params;
    fathom_device_params_init(&params);
    params.n_threads = 2;
    return fathom_device_open(&params, &o->device);
}

static fathom_status open_rest(struct opened *o)
{
    struct fathom_model_params model;
    struct fathom_runner_params runner;
    struct fathom_sampler_params sampler;
    fathom_model_params_init(&model);
    model.device = o->device;
    FATHOM_TRY(fathom_model_open(needle_model(), &model, &o->model));
    fathom_runner_params_init(&runner, o->model);
    runner.n_tokens_max = 64;
    FATHOM_TRY(fathom_runner_open(o->model, &runner, &o->runner));
    FATHOM_TRY(fathom_seq_create(fathom_runner_engine(o->runner), &o->seq));
    fathom_sampler_params_init(&sampler);
    return fathom_sampler_open(&sampler, fathom_model_info(o->model)->n_vocab, &o->sampler);
}

static fathom_status use(struct opened *o, int32_t *id)
{
    static const char text[] = "The secret number";
    static const struct fathom_chat_message turn = {"user", text};
    int32_t ids[64];
    size_t n = 0;
    FATHOM_TRY(fathom_chat_tokenize(o->model, "llama2", &turn, 1, true, ids, 64, &n));
    FATHOM_TRY(fathom_tokenize(o->model, text, strlen(text), FATHOM_TOKENIZE_BOS, ids, 64, &n));
    return fathom_runner_feed_pick(o->runner, o->seq, ids, (uint32_t)n, o->sampler, id);
}

static void close_all(struct opened *o)
{
    fathom_sampler_close(&o->sampler);
    fathom_runner_close(&o->runner);
    fathom_model_close(&o->model);
    fathom_device_close(&o->device);
}

static void check_told(fathom_status status)
{
    assert_int_equal(status, FATHOM_ENOMEM);
    assert_non_null(strstr(fathom_last_error(), "made to fail"));
}

static void opening(void **state)
{
    (void)state;
    size_t n = 0;
    for (;; n++) {
        struct opened o = {0};
        n_left = n;
        fathom_status status = open_device(&o);
        if (status == FATHOM_OK) status = open_rest(&o);
        n_left = SIZE_MAX;
        if (status != FATHOM_OK) check_told(status);
        close_all(&o);
        if (status == FATHOM_OK) break;
    }
    printf("%zu allocations\n", n);
    assert_true(n > 50);
}

// What is open stays usable, and gives the same.
static void using(void **state)
{
    (void)state;
    struct opened o = {0};
    int32_t wanted = -1, id = -1;
    uint32_t n_tokens = 1;
    size_t n = 0;
    check_ok(open_device(&o));
    check_ok(open_rest(&o));
    fathom_engine *engine = fathom_runner_engine(o.runner);
    check_ok(use(&o, &wanted));
    for (;; n++) {
        check_ok(fathom_seq_truncate(engine, o.seq, 0));
        n_left = n;
        fathom_status status = use(&o, &id);
        n_left = SIZE_MAX;
        if (status == FATHOM_OK) break;
        check_told(status);
        check_ok(fathom_seq_count(engine, o.seq, &n_tokens));
        assert_int_equal(n_tokens, 0);
    }
    printf("%zu allocations\n", n);
    assert_true(n > 0);
    close_all(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening),
        cmocka_unit_test(using),
    };
    return check_run("no memory", tests, sizeof tests / sizeof *tests);
}
