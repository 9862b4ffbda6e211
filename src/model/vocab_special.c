// Finding the spellings of special tokens in a text: the leftmost, and of those that begin there
// the longest. One walk over the text, and for each byte of a candidate one step down the sorted
// spellings: a look at the first and the last that are left, and a binary search where they part.
// So hundreds of special tokens cost no more than one, and the worst that a hostile file can do is
// the text's length times that of the longest spelling.

#include "src/base/status.h"
#include "src/model/vocab_impl.h"

#include <stdlib.h>
#include <string.h>

static int compare_specials(const void *a, const void *b)
{
    const struct special *left = a, *right = b;
    uint32_t bytes = left->bytes < right->bytes ? left->bytes : right->bytes;
    int order = memcmp(left->text, right->text, bytes);
    if (order != 0) return order;
    if (left->bytes != right->bytes) return left->bytes < right->bytes ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static bool is_listed(const struct token *token, bool user_only)
{
    if (token->piece_bytes == 0) return false;
    if (token->type == TOKEN_USER) return true;
    return !user_only && (token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN);
}

// Of items that are spelled alike, which now are neighbours, the first stays.
static void drop_doubles(struct special_list *list)
{
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < list->n_items; i++) {
        const struct special *item = &list->items[i];
        const struct special *kept = n_kept > 0 ? &list->items[n_kept - 1] : NULL;
        if (kept == NULL || kept->bytes != item->bytes ||
            memcmp(kept->text, item->text, item->bytes) != 0)
            list->items[n_kept++] = *item;
    }
    list->n_items = n_kept;
}

static fathom_status load_list(struct vocab *vocab, bool user_only, struct special_list *list)
{
    size_t n_items = 0;
    for (uint32_t id = 0; id < vocab->n_tokens; id++)
        n_items += is_listed(&vocab->tokens[id], user_only);
    FATHOM_TRY(
        arena_new(&vocab->arena, n_items, sizeof *list->items, "special tokens", &list->items));
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        const struct token *token = &vocab->tokens[id];
        if (!is_listed(token, user_only)) continue;
        list->items[list->n_items++] =
            (struct special){.text = token->piece, .bytes = token->piece_bytes, .id = (int32_t)id};
        list->starts[(unsigned char)token->piece[0]] = true;
    }
    if (n_items > 0) qsort(list->items, n_items, sizeof *list->items, compare_specials);
    drop_doubles(list);
    return FATHOM_OK;
}

fathom_status vocab_special_load(struct vocab *vocab)
{
    FATHOM_TRY(load_list(vocab, true, &vocab->user));
    return load_list(vocab, false, &vocab->specials);
}

static unsigned byte_at(const struct special_list *list, uint32_t item, size_t at)
{
    return (unsigned char)list->items[item].text[at];
}

// The first item of [begin, end), which agree in their first `at` bytes, whose byte there is c or
// above.
static uint32_t find_bound(const struct special_list *list, uint32_t begin, uint32_t end, size_t at,
                           unsigned c)
{
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        if (byte_at(list, middle, at) < c)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

const struct special *vocab_special_match(const struct special_list *list, const char *text,
                                          size_t text_bytes)
{
    const struct special *longest = NULL;
    uint32_t begin = 0, end = list->n_items;
    for (size_t at = 0; begin < end; at++) {
        if (list->items[begin].bytes == at) longest = &list->items[begin++];
        if (at == text_bytes || begin == end) break;
        unsigned c = (unsigned char)text[at];
        if (byte_at(list, begin, at) < c) begin = find_bound(list, begin, end, at, c);
        if (byte_at(list, end - 1, at) > c) end = find_bound(list, begin, end, at, c + 1);
    }
    return longest;
}

size_t vocab_special_find(const struct special_list *list, const char *text, size_t text_bytes,
                          size_t begin, const struct special **special)
{
    if (list->n_items == 0) return text_bytes;
    for (size_t at = begin; at < text_bytes; at++) {
        if (!list->starts[(unsigned char)text[at]]) continue;
        *special = vocab_special_match(list, text + at, text_bytes - at);
        if (*special != NULL) return at;
    }
    return text_bytes;
}
