// Tokenizing by byte-level BPE, as GPT-2 does: a pre-tokenizer cuts the text into words, and within
// a word the bytes are merged by the file's list of merges, first in the list first.
//
// Merges whose parts or whole are not in the vocabulary are ignored: nothing could print them.

#include "src/model/vocab_impl.h"

#include "src/base/status.h"
#include "src/model/utf8.h"

#include <string.h>

struct bpe_slot {
    uint64_t pair; // ids of left and right
    uint32_t rank;
    int32_t id_plus_1; // 0: empty
};

// Files spell a byte as a printable character: itself if it is one in Latin-1, else the next of
// those from U+0100 on. Returns -1 for a character that spells no byte.
static int decode_byte(uint32_t code)
{
    bool is_itself = (code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xff);
    if (is_itself && code != 0xad) return (int)code;
    if (code >= 0x100 && code <= 0x120) return (int)(code - 0x100);
    if (code >= 0x121 && code <= 0x142) return (int)(code - 0x121 + 0x7f);
    return code == 0x143 ? 0xad : -1;
}

bool vocab_bpe_decode(const char *text, size_t text_bytes, size_t out_bytes_max, char *out,
                      size_t *out_bytes)
{
    size_t n = 0;
    for (size_t at = 0; at < text_bytes;) {
        uint32_t code;
        at += utf8_next(text + at, text_bytes - at, &code);
        int byte = decode_byte(code);
        if (byte < 0 || n == out_bytes_max) return false;
        out[n++] = (char)byte;
    }
    *out_bytes = n;
    return true;
}

static struct bpe_slot *find_slot(const struct vocab *vocab, uint64_t pair)
{
    uint32_t at = (uint32_t)((pair * 0x9e3779b97f4a7c15u) >> vocab->merge_shift);
    for (;; at = (at + 1) & vocab->merge_mask) {
        struct bpe_slot *slot = &vocab->merges[at];
        if (slot->id_plus_1 == 0 || slot->pair == pair) return slot;
    }
}

static uint64_t join_ids(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

// Adds the merge "left right" as the file spells it. `key` is room for the longest key.
static void add_merge(struct vocab *vocab, struct fathom_gguf_string merge, uint32_t rank,
                      char *key)
{
    // Neither part is empty, so the space that parts them is not the first character.
    if (merge.bytes < 3) return;
    const char *space = memchr(merge.text + 1, ' ', merge.bytes - 1);
    if (space == NULL) return;
    size_t left_bytes, right_bytes;
    size_t spelled_bytes = (size_t)(space - merge.text);
    if (!vocab_bpe_decode(merge.text, spelled_bytes, vocab->key_bytes_max, key, &left_bytes) ||
        !vocab_bpe_decode(space + 1, merge.bytes - spelled_bytes - 1,
                          vocab->key_bytes_max - left_bytes, key + left_bytes, &right_bytes))
        return;
    int32_t left = vocab_table_find(vocab, key, left_bytes);
    int32_t right = vocab_table_find(vocab, key + left_bytes, right_bytes);
    int32_t whole = vocab_table_find(vocab, key, left_bytes + right_bytes);
    if (left < 0 || right < 0 || whole < 0) return;
    uint64_t pair = join_ids(left, right);
    struct bpe_slot *slot = find_slot(vocab, pair);
    if (slot->id_plus_1 == 0)
        *slot = (struct bpe_slot){.pair = pair, .rank = rank, .id_plus_1 = whole + 1};
}

static fathom_status load_merges(struct vocab *vocab, const struct metadata *metadata)
{
    static const char name[] = "tokenizer.ggml.merges";
    const struct fathom_gguf_entry *entry;
    FATHOM_TRY(metadata_array(metadata, name, FATHOM_GGUF_STRING, &entry));
    uint64_t n_merges = entry != NULL ? entry->n_items : 0;
    if (n_merges > INT32_MAX / 2)
        return status_set(FATHOM_ECORRUPT, "%s has %llu items, more than ranks can number", name,
                          (unsigned long long)n_merges);

    uint32_t n_slots_log2 = 4; // at most half of them get used
    while ((uint64_t)1 << n_slots_log2 < 2 * n_merges)
        n_slots_log2++;
    FATHOM_TRY(arena_new(&vocab->arena, (size_t)1 << n_slots_log2, sizeof *vocab->merges, "merges",
                         &vocab->merges));
    vocab->merge_mask = (uint32_t)(((uint64_t)1 << n_slots_log2) - 1);
    vocab->merge_shift = 64 - n_slots_log2;

    fathom_status status = FATHOM_OK;
    char *key = NULL;
    FATHOM_CHECK(mem_new(vocab->key_bytes_max, 1, "a merge", &key), out);
    for (uint32_t rank = 0; rank < n_merges; rank++) {
        struct fathom_gguf_string merge;
        FATHOM_CHECK(fathom_gguf_as_string(metadata_gguf(metadata), entry, rank, &merge), out);
        add_merge(vocab, merge, rank, key);
    }
out:
    mem_free(key);
    return status;
}

fathom_status vocab_bpe_load(struct vocab *vocab, const struct metadata *metadata)
{
    struct fathom_gguf_string name;
    FATHOM_TRY(metadata_string(metadata, "tokenizer.ggml.pre", "default", &name));
    FATHOM_TRY(pretoken_open(name.text, name.bytes, &vocab->pretoken));
    return load_merges(vocab, metadata);
}

// merge_find_fn: two symbols merge if the list says so.
static bool find_merge(const void *rules, const char *text, const struct merge_symbol *left,
                       const struct merge_symbol *right, struct merge_pair *pair)
{
    (void)text;
    if (left->id < 0 || right->id < 0) return false;
    const struct bpe_slot *slot = find_slot(rules, join_ids(left->id, right->id));
    if (slot->id_plus_1 == 0) return false;
    *pair = (struct merge_pair){.rank = slot->rank, .id = slot->id_plus_1 - 1};
    return true;
}

// pretoken_fn
static fathom_status encode_word(void *user, const char *word, size_t word_bytes)
{
    struct vocab_job *job = user;
    const struct vocab *vocab = job->vocab;
    if (pretoken_keeps_words(vocab->pretoken)) {
        int32_t id = vocab_table_find(vocab, word, word_bytes);
        if (id >= 0) {
            vocab_emit(job, id);
            return FATHOM_OK;
        }
    }
    merge_clear(&job->merger);
    for (size_t i = 0; i < word_bytes; i++)
        FATHOM_TRY(merge_append(&job->merger, 1, vocab->byte_ids[(unsigned char)word[i]]));
    FATHOM_TRY(merge_run(&job->merger, word));
    vocab_emit_symbols(job, word);
    return FATHOM_OK;
}

fathom_status vocab_bpe_encode(struct vocab_job *job, const char *text, size_t text_bytes)
{
    job->merger.rules = job->vocab;
    job->merger.find = find_merge;
    return pretoken_split(job->vocab->pretoken, text, text_bytes, encode_word, job);
}
