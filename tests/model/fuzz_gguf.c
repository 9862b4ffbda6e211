// Hostile GGUF files: 100,000 seeded mutants of three good headers, each opened and, if it is
// taken, read in every corner. Nothing may crash or leak (the sanitizers tell), and opening may not
// allocate more than the file's size and a constant.
//
//     fuzz_gguf [SEED [N_MUTANTS]]

#include "fathom/gguf.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/model/metadata.h"
#include "src/model/vocab.h"

#include "tests/check.h"
#include "tests/model/gguf_bytes.h"

enum {
    N_MUTANTS_DEFAULT = 100000,
    HEADER_BYTES_MAX = 16 * 1024,  // of the mutated part; the needle model's header is smaller
    SLACK_BYTES = (1 << 20) + 512, // the reader's 1 MiB, and the handle
};

static uint64_t seed = 20250817;
static size_t n_mutants = N_MUTANTS_DEFAULT;
static size_t allocated_bytes; // since it was last set to 0
static uint64_t sink;          // keeps reads alive

// The linker puts this in the place of mem_new: see meson.build.
fathom_status __real_mem_new(size_t count, size_t item_bytes, const char *what, void *out);
fathom_status __wrap_mem_new(size_t count, size_t item_bytes, const char *what, void *out);
fathom_status __wrap_mem_new(size_t count, size_t item_bytes, const char *what, void *out)
{
    allocated_bytes += count * item_bytes;
    return __real_mem_new(count, item_bytes, what, out);
}

struct tally {
    size_t n_opened, n_refused, n_vocabs, n_tokenized;
};

static uint64_t pick_extreme(struct rng *rng, size_t file_bytes)
{
    const uint64_t values[] = {
        0,          1,          2,         3,          7,
        8,          9,          12,        13,         31,
        32,         64,         255,       1u << 16,   INT32_MAX,
        1u << 31,   UINT32_MAX, INT64_MAX, UINT64_MAX, UINT64_C(1) << 60,
        file_bytes, 1 << 20,    100000,    1u << 30,   file_bytes - rng_below(rng, 64),
    };
    return values[rng_below(rng, sizeof values / sizeof values[0])];
}

// One change; bytes->n stays within HEADER_BYTES_MAX.
static void mutate(struct rng *rng, struct bytes *bytes, size_t file_bytes)
{
    uint32_t n = (uint32_t)bytes->n;
    uint32_t at = rng_below(rng, n);
    uint32_t run = 1 + rng_below(rng, 40);
    uint64_t value = pick_extreme(rng, file_bytes);
    if (run > n - at) run = n - at;
    switch (rng_below(rng, 8)) {
    case 0:
        bytes->data[at] ^= (uint8_t)(1u << rng_below(rng, 8));
        break;
    case 1:
        bytes->data[at] = (uint8_t)rng_u64(rng);
        break;
    case 2:
        if (n - at >= 4) memcpy(bytes->data + at, &value, 4);
        break;
    case 3:
        if (n - at >= 8) memcpy(bytes->data + at, &value, 8);
        break;
    case 4: // the counts and the version, more often than chance would
        at = 4 + 4 * rng_below(rng, 5);
        if (n >= 32) memcpy(bytes->data + at, &value, at == 4 ? 4 : 8);
        break;
    case 5: // duplicate a run, or insert it anew
        if (n + run > HEADER_BYTES_MAX) break;
        memmove(bytes->data + at + run, bytes->data + at, n - at);
        if (rng_below(rng, 2) == 0)
            for (uint32_t i = 0; i < run; i++)
                bytes->data[at + i] = (uint8_t)rng_u64(rng);
        bytes->n += run;
        break;
    case 6: // delete a run
        if (n <= run + 24) break;
        memmove(bytes->data + at, bytes->data + at + run, n - at - run);
        bytes->n -= run;
        break;
    default:
        memmove(bytes->data + rng_below(rng, n - run + 1), bytes->data + at, run);
    }
}

static void read_entry(const fathom_gguf *gguf, const struct fathom_gguf_entry *entry)
{
    const uint64_t indices[] = {0, entry->n_items / 2, entry->n_items - 1, entry->n_items,
                                UINT64_MAX};
    for (size_t i = 0; i < sizeof indices / sizeof indices[0]; i++) {
        struct fathom_gguf_string string = {0};
        int64_t integer = 0;
        double number = 0;
        fathom_status status = fathom_gguf_as_int(gguf, entry, indices[i], &integer);
        status &= fathom_gguf_as_float(gguf, entry, indices[i], &number);
        status &= fathom_gguf_as_string(gguf, entry, indices[i], &string);
        assert_true(indices[i] < entry->n_items || status < 0);
        sink += (uint64_t)integer + (number > 0);
        if (string.bytes > 0)
            sink += (uint8_t)string.text[0] + (uint8_t)string.text[string.bytes - 1];
    }
}

static void read_all(const fathom_gguf *gguf)
{
    uint64_t data_bytes = 0;
    for (size_t i = 0; i < fathom_gguf_entry_count(gguf); i++)
        read_entry(gguf, fathom_gguf_entry_at(gguf, i));
    for (size_t i = 0; i < fathom_gguf_tensor_count(gguf); i++) {
        const struct fathom_gguf_tensor *tensor = fathom_gguf_tensor_at(gguf, i);
        const uint8_t *data = tensor->data;
        if (data != NULL) sink += (uint64_t)data[0] + data[tensor->bytes - 1];
        data_bytes += tensor->bytes;
    }
    assert_true(data_bytes <= fathom_gguf_file_bytes(gguf));
    sink += fathom_gguf_find(gguf, "general.name") != NULL;
    sink += fathom_gguf_tensor_find(gguf, "output.weight") != NULL;
}

static void read_vocab(const struct metadata *metadata, struct tally *tally)
{
    static const char text[] = "Hello, w\xc3\xb6rld 12345 <s> \xf0\x9f\x98\x80 \xff  x";
    struct vocab *vocab = NULL;
    int32_t ids[64];
    size_t n_ids = 0;
    if (vocab_open(metadata, &vocab) < 0) return;
    tally->n_vocabs++;
    if (vocab_tokenize(vocab, text, sizeof text - 1, 0, ids, 64, &n_ids) == FATHOM_OK) {
        tally->n_tokenized++;
        for (size_t i = 0; i < n_ids; i++) {
            size_t n_bytes = 0;
            assert_true(ids[i] >= 0 && (uint32_t)ids[i] < vocab_count(vocab));
            const char *piece = vocab_text(vocab, ids[i], true, &n_bytes);
            if (n_bytes > 0) sink += (uint8_t)piece[n_bytes - 1];
        }
    }
    vocab_close(&vocab);
}

static void read_metadata(const fathom_gguf *gguf, struct tally *tally)
{
    struct metadata *metadata = NULL;
    uint32_t u32 = 0;
    float f32 = 0;
    if (metadata_open(gguf, NULL, 0, &metadata) < 0) return;
    fathom_status status = metadata_u32(metadata, "%s.block_count", 3, &u32);
    status |= metadata_f32(metadata, "%s.rope.freq_base", 1, &f32);
    sink += (uint64_t)u32 + (f32 > 2) + (status < 0);
    read_vocab(metadata, tally);
    metadata_close(&metadata);
}

static void open_mutant(const char *path, size_t file_bytes, struct tally *tally)
{
    fathom_gguf *gguf = NULL;
    allocated_bytes = 0;
    fathom_status status = fathom_gguf_open(path, &gguf);
    if (allocated_bytes > file_bytes + SLACK_BYTES)
        fail_msg("%zu bytes allocated for a file of %zu", allocated_bytes, file_bytes);
    if (status < 0) {
        assert_null(gguf);
        assert_non_null(strstr(fathom_last_error(), path));
        tally->n_refused++;
        return;
    }
    tally->n_opened++;
    read_all(gguf);
    read_metadata(gguf, tally);
    fathom_gguf_close(&gguf);
}

// The first bytes of `file` are replaced by mutants of `header`; what follows stays.
static void fuzz(const char *name, int file, size_t file_bytes, const struct bytes *header)
{
    static struct bytes mutant;
    struct tally tally = {0};
    struct rng rng;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    rng_init(&rng, seed);
    for (size_t i = 0; i < (n_mutants + 2) / 3; i++) {
        size_t bytes = file_bytes;
        mutant.n = header->n;
        memcpy(mutant.data, header->data, header->n);
        for (uint32_t n_changes = 1 + rng_below(&rng, 3); n_changes > 0; n_changes--)
            mutate(&rng, &mutant, file_bytes);
        assert_int_equal(pwrite(file, mutant.data, mutant.n, 0), (ssize_t)mutant.n);
        if (rng_below(&rng, 8) == 0) {
            bytes = 1 + rng_below(&rng, (uint32_t)(rng_below(&rng, 2) ? mutant.n : file_bytes));
            assert_int_equal(ftruncate(file, (off_t)bytes), 0);
        }
        open_mutant(path, bytes, &tally);
        if (bytes < file_bytes) assert_int_equal(ftruncate(file, (off_t)file_bytes), 0);
    }
    close(file);
    printf("%s: seed %llu, %zu mutants opened, %zu refused, %zu vocabularies, %zu tokenized\n",
           name, (unsigned long long)seed, tally.n_opened, tally.n_refused, tally.n_vocabs,
           tally.n_tokenized);
    // Mutants that all fail at the magic, or all pass, would test nothing.
    assert_true(tally.n_opened > n_mutants / 75);
    assert_true(tally.n_refused > n_mutants / 75);
}

// The first three tokens are special, then come bytes (SPM) or characters (BPE), then pieces that
// merging makes.
enum { N_FIRST = 3, N_BYTES = 256, N_CHARS = 95, N_PIECES = 8 };

static void put_spm(struct bytes *bytes)
{
    static const char *const pieces[N_PIECES] = {"\xe2\x96\x81", "H",  "e",    "l",
                                                 "He",           "ll", "Hell", "\xe2\x96\x81Hell"};
    const uint32_t n_tokens = N_FIRST + N_BYTES + N_PIECES;
    put_key_string(bytes, "tokenizer.ggml.model", "llama");
    put_key_array(bytes, "tokenizer.ggml.tokens", FATHOM_GGUF_STRING, n_tokens);
    put_string(bytes, "<unk>"), put_string(bytes, "<s>"), put_string(bytes, "</s>");
    for (uint32_t i = 0; i < N_BYTES; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", i);
        put_string(bytes, text);
    }
    for (uint32_t i = 0; i < N_PIECES; i++)
        put_string(bytes, pieces[i]);
    put_key_array(bytes, "tokenizer.ggml.token_type", FATHOM_GGUF_INT32, n_tokens);
    for (uint32_t i = 0; i < n_tokens; i++)
        put_u32(bytes, i == 0 ? 2 : i < N_FIRST ? 3 : i < N_FIRST + N_BYTES ? 6 : 1);
    put_key_array(bytes, "tokenizer.ggml.scores", FATHOM_GGUF_FLOAT32, n_tokens);
    for (uint32_t i = 0; i < n_tokens; i++) {
        float score = -(float)i;
        put(bytes, &score, sizeof score);
    }
}

static void put_bpe(struct bytes *bytes)
{
    static const char *const merges[] = {"H e", "l l", "He ll", "\xc4\xa0 w"};
    static const char *const pieces[N_PIECES] = {"\xc4\xa0",  "He",       "ll",       "Hell",
                                                 "\xc4\xa0w", "\xc3\x83", "\xc2\xb6", "12"};
    const uint32_t n_tokens = N_FIRST + N_CHARS + N_PIECES;
    put_key_string(bytes, "tokenizer.ggml.model", "gpt2");
    put_key_array(bytes, "tokenizer.ggml.tokens", FATHOM_GGUF_STRING, n_tokens);
    put_string(bytes, "<unk>"), put_string(bytes, "<s>"), put_string(bytes, "</s>");
    for (uint32_t i = 0; i < N_CHARS; i++) {
        char text[2] = {(char)(' ' + i), 0};
        put_string(bytes, text);
    }
    for (uint32_t i = 0; i < N_PIECES; i++)
        put_string(bytes, pieces[i]);
    put_key_array(bytes, "tokenizer.ggml.token_type", FATHOM_GGUF_INT32, n_tokens);
    for (uint32_t i = 0; i < n_tokens; i++)
        put_u32(bytes, i < N_FIRST ? 3 : 1);
    put_key_array(bytes, "tokenizer.ggml.merges", FATHOM_GGUF_STRING, 4);
    for (uint32_t i = 0; i < 4; i++)
        put_string(bytes, merges[i]);
    put_key_string(bytes, "tokenizer.ggml.pre", "llama-bpe");
}

// A file with most types, a vocabulary of four entries or five, and tensors.
static void fuzz_small(const char *name, void (*put_vocab)(struct bytes *), uint64_t n_vocab)
{
    static struct bytes small;
    uint64_t dims[4] = {32, 2, 2, 1};
    put_head(&small, 3, n_vocab + 10);
    put_key_string(&small, "general.architecture", "llama");
    put_key_u32(&small, "general.alignment", 32);
    put_key(&small, "u8", FATHOM_GGUF_UINT8), put_u8(&small, 1);
    put_key(&small, "i16", FATHOM_GGUF_INT16), put(&small, "ab", 2);
    put_key(&small, "f32", FATHOM_GGUF_FLOAT32), put_u32(&small, 0x3f800000);
    put_key(&small, "f64", FATHOM_GGUF_FLOAT64), put_u64(&small, 1);
    put_key(&small, "bool", FATHOM_GGUF_BOOL), put_u8(&small, 1);
    put_key_array(&small, "nested", FATHOM_GGUF_ARRAY, 2);
    put_u32(&small, FATHOM_GGUF_STRING), put_u64(&small, 1), put_string(&small, "x");
    put_u32(&small, FATHOM_GGUF_INT64), put_u64(&small, 1), put_u64(&small, 1);
    put_key_u32(&small, "tokenizer.ggml.bos_token_id", 1);
    put_key_u32(&small, "tokenizer.ggml.eos_token_id", 2);
    put_vocab(&small);
    put_tensor(&small, "token_embd.weight", FATHOM_TYPE_F32, 2, dims, 0);
    put_tensor(&small, "output.weight", FATHOM_TYPE_Q4_0, 3, dims, 256);
    put_tensor(&small, "other", 99, 1, dims, 352);
    put_data(&small, 32, 512);
    int file = memfd_create("small", MFD_CLOEXEC);
    assert_int_equal(write(file, small.data, small.n), (ssize_t)small.n);
    fuzz(name, file, small.n, &small);
}

static void spm_header(void **state)
{
    (void)state;
    fuzz_small("spm", put_spm, 4);
}

static void bpe_header(void **state)
{
    (void)state;
    fuzz_small("bpe", put_bpe, 5);
}

static void needle_header(void **state)
{
    (void)state;
    static struct bytes needle;
    static uint8_t all[4 << 20];
    char path[4096];
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/tools/needle/needle.gguf", root != NULL ? root : ".");
    FILE *from = fopen(path, "rb");
    if (from == NULL) check_skip("no %s", path);
    size_t n_bytes = fread(all, 1, sizeof all, from);
    fclose(from);
    assert_true(n_bytes > HEADER_BYTES_MAX && n_bytes < sizeof all);
    fathom_gguf *gguf = NULL;
    check_ok(fathom_gguf_open(path, &gguf));
    // Tensor data follow the header.
    size_t data_bytes = 0;
    for (size_t i = 0; i < fathom_gguf_tensor_count(gguf); i++)
        data_bytes += fathom_gguf_tensor_at(gguf, i)->bytes;
    fathom_gguf_close(&gguf);
    put(&needle, all, n_bytes - data_bytes);
    assert_true(needle.n < HEADER_BYTES_MAX);
    int file = memfd_create("needle", MFD_CLOEXEC);
    assert_int_equal(write(file, all, n_bytes), (ssize_t)n_bytes);
    fuzz("needle", file, n_bytes, &needle);
}

// Tables that leave a quarter of each of the arena's chunks unused: what is wasted counts too.
static void wasteful_tables(void **state)
{
    (void)state;
    enum { N_TABLES = 600, N_STRINGS = 2048 };
    static struct bytes head;
    char path[64], key[16];
    fathom_gguf *gguf = NULL;
    int file = memfd_create("wasteful", MFD_CLOEXEC);
    off_t at = 0;
    assert_true(file >= 0);
    put_head(&head, 0, N_TABLES);
    for (int i = 0; i < N_TABLES; i++) {
        snprintf(key, sizeof key, "%d", i);
        put_key_array(&head, key, FATHOM_GGUF_STRING, N_STRINGS);
        assert_int_equal(pwrite(file, head.data, head.n, at), (ssize_t)head.n);
        at += (off_t)head.n + N_STRINGS * 8; // a string's length, 0, is what a gap reads as
        head.n = 0;
    }
    assert_int_equal(ftruncate(file, at), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    allocated_bytes = 0;
    assert_int_equal(fathom_gguf_open(path, &gguf), FATHOM_ECORRUPT);
    assert_true(allocated_bytes <= (size_t)at + SLACK_BYTES);
    assert_true(allocated_bytes > (size_t)at); // the slack is there to be used
    close(file);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spm_header),
        cmocka_unit_test(bpe_header),
        cmocka_unit_test(needle_header),
        cmocka_unit_test(wasteful_tables),
    };
    if (argc > 1) seed = strtoull(argv[1], NULL, 10);
    if (argc > 2) n_mutants = strtoull(argv[2], NULL, 10);
    return check_run("fuzz_gguf", tests, sizeof tests / sizeof tests[0]);
}
