// GGUF files on disk: what cannot be opened, real files of others, and a real file cut everywhere.

#include "fathom/gguf.h"

#include "tests/check.h"
#include "tests/model/gguf_bytes.h"

#include <dirent.h>

static void names_bad_files(void **state)
{
    (void)state;
    char folder[] = "/tmp/fathom-gguf-XXXXXX", path[64];
    fathom_gguf *gguf = NULL;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(fathom_gguf_open(folder, &gguf), FATHOM_EIO);
    assert_non_null(strstr(fathom_last_error(), "Is a directory"));
    assert_non_null(strstr(fathom_last_error(), folder));
    snprintf(path, sizeof path, "%s/file", folder);
    assert_int_equal(fathom_gguf_open(path, &gguf), FATHOM_EIO);
    assert_non_null(strstr(fathom_last_error(), "No such file"));
    assert_non_null(strstr(fathom_last_error(), path));
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(fathom_gguf_open(path, &gguf), FATHOM_EIO);
    assert_non_null(strstr(fathom_last_error(), "not a regular file"));
    unlink(path);
    FILE *empty = fopen(path, "w");
    assert_non_null(empty);
    fclose(empty);
    assert_int_equal(fathom_gguf_open(path, &gguf), FATHOM_EIO);
    assert_non_null(strstr(fathom_last_error(), "empty"));
    unlink(path);
    rmdir(folder);
    assert_int_equal(fathom_gguf_open(NULL, &gguf), FATHOM_EINVAL);
    assert_null(gguf);
}

static void opens_reference_files(void **state)
{
    (void)state;
    const struct {
        const char *name, *architecture, *key;
        uint64_t n_items;
    } cases[] = {
        {"malformed/empty.gguf", "llama", "general.architecture", 1},
        {"tokenizers/ggml-vocab-deepseek-coder.gguf", "llama", "tokenizer.ggml.merges", 31757},
        {"tokenizers/ggml-vocab-gpt-2.gguf", "gpt2", "tokenizer.ggml.tokens", 50257},
        {"tokenizers/ggml-vocab-llama-spm.gguf", "llama", "tokenizer.ggml.scores", 32000},
    };
    fathom_gguf *gguf = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_ok(fathom_gguf_open(check_data(cases[i].name), &gguf));
        check_string(gguf, "general.architecture", 0, cases[i].architecture);
        assert_int_equal(find(gguf, cases[i].key)->n_items, cases[i].n_items);
        assert_int_equal(fathom_gguf_tensor_count(gguf), 0);
        fathom_gguf_close(&gguf);
    }
    assert_int_equal(fathom_gguf_open(check_data("malformed/tiny.gguf"), &gguf), FATHOM_ECORRUPT);
    assert_non_null(strstr(fathom_last_error(), "test.weight.0"));
    assert_int_equal(fathom_gguf_open(check_data("malformed/tiny.safetensors"), &gguf),
                     FATHOM_ECORRUPT);
}

static size_t count_open_files(void)
{
    size_t n_files = 0;
    DIR *folder = opendir("/proc/self/fd");
    assert_non_null(folder);
    while (readdir(folder) != NULL)
        n_files++;
    closedir(folder);
    return n_files;
}

static bool is_mapped(const char *name)
{
    char line[512];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps) != NULL)
        found = found || strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

// Copies the needle model to a file in memory; -1 if the source tree lacks it.
static int copy_needle(size_t *n_bytes)
{
    static uint8_t block[1 << 16];
    char path[4096];
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/tools/needle/needle.gguf", root != NULL ? root : ".");
    FILE *from = fopen(path, "rb");
    if (from == NULL) return -1;
    int to = memfd_create("needle-copy", MFD_CLOEXEC);
    size_t n_read;
    *n_bytes = 0;
    while ((n_read = fread(block, 1, sizeof block, from)) > 0) {
        assert_int_equal(write(to, block, n_read), (ssize_t)n_read);
        *n_bytes += n_read;
    }
    fclose(from);
    return to;
}

static void refuses_cut_files(void **state)
{
    (void)state;
    size_t n_bytes = 0;
    char path[64];
    fathom_gguf *gguf = NULL;
    int cut = copy_needle(&n_bytes);
    if (cut < 0) check_skip("no tools/needle/needle.gguf");
    snprintf(path, sizeof path, "/proc/self/fd/%d", cut);
    check_ok(fathom_gguf_open(path, &gguf));
    assert_true(is_mapped("needle-copy"));
    const struct fathom_gguf_tensor *tensor = fathom_gguf_tensor_find(gguf, "token_embd.weight");
    assert_non_null(tensor);
    assert_int_equal(tensor->bytes, 128 * 258 * 2);
    check_string(gguf, "tokenizer.ggml.tokens", 257, "</s>");
    fathom_gguf_close(&gguf);

    size_t n_files = count_open_files();
    size_t n_cuts = 0;
    for (size_t at = n_bytes - 1; at > 0; at = at > 4096 ? (at - 1) / 4096 * 4096 : at - 1) {
        assert_int_equal(ftruncate(cut, (off_t)at), 0);
        fathom_status status = fathom_gguf_open(path, &gguf);
        if (status != FATHOM_ECORRUPT || gguf != NULL || fathom_last_error()[0] == 0)
            fail_msg("cut to %zu bytes: status %d", at, status);
        n_cuts++;
    }
    assert_true(n_cuts >= 4095 + n_bytes / 4096);
    assert_int_equal(count_open_files(), n_files);
    assert_false(is_mapped("needle-copy"));
    close(cut);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_bad_files),
        cmocka_unit_test(opens_reference_files),
        cmocka_unit_test(refuses_cut_files),
    };
    return check_run("gguf_files", tests, sizeof tests / sizeof tests[0]);
}
