// Words of chance and filled forms. Everything goes by one generator, in the order of the calls, so
// that a seed gives the same facts again.

#include "tools/maker.h"

#include <string.h>

#include "tools/block.h"
#include "tools/say.h"

enum { N_DIGITS = 5, N_HASH = 8, N_VARIABLE = 5 };

static void make_hash(struct sentence *out, struct random *random)
{
    for (out->n = 0; out->n < N_HASH; out->n++)
        out->text[out->n] = "0123456789abcdef"[random_below(random, 16)];
    out->text[out->n] = '\0';
}

static void make_variable(struct sentence *out, struct random *random)
{
    for (out->n = 0; out->n < N_VARIABLE; out->n++)
        out->text[out->n] = (char)('A' + random_below(random, 26));
    out->text[out->n] = '\0';
}

const struct word_kind maker_key = {sentence_make_key, sizeof(struct word) - 1};
const struct word_kind maker_name = {sentence_make_word, 13};
const struct word_kind maker_hash = {make_hash, N_HASH};
const struct word_kind maker_variable = {make_variable, N_VARIABLE};

bool maker_has(const struct maker *maker, const char *text)
{
    for (size_t i = 0; i < maker->n_used; i++)
        if (strcmp(maker->used[i].text, text) == 0) return true;
    return false;
}

int maker_use(struct maker *maker, const struct word *word)
{
    SAY_TRY(block_grow(&maker->used, &maker->n_used_max, maker->n_used + 1, sizeof *maker->used));
    maker->used[maker->n_used++] = *word;
    return EXIT_GOOD;
}

int maker_word(struct maker *maker, const struct word_kind *kind, struct word *word)
{
    struct sentence made;
    *word = (struct word){0};
    if (maker->widest) {
        memset(word->text, 'x', kind->bytes_max);
        return EXIT_GOOD;
    }
    do {
        kind->make(&made, maker->random);
    } while (made.n > kind->bytes_max || maker_has(maker, made.text));
    memcpy(word->text, made.text, made.n);
    return maker_use(maker, word);
}

void maker_digits(struct maker *maker, struct word *word)
{
    *word = (struct word){0};
    for (int i = 0; i < N_DIGITS; i++)
        word->text[i] = (char)('0' + random_below(maker->random, 10));
}

int maker_fill(struct bytes *text, const char *form, const struct field *fields)
{
    for (;;) {
        const size_t plain = strcspn(form, "{");
        SAY_TRY(bytes_append(text, form, plain));
        form += plain;
        if (*form == '\0') return EXIT_GOOD;
        const size_t bytes = strcspn(++form, "}");
        const struct field *field = fields;
        while (strncmp(field->name, form, bytes) != 0 || field->name[bytes] != '\0')
            field++;
        SAY_TRY(bytes_append(text, field->value, strlen(field->value)));
        form += bytes + 1;
    }
}

int maker_fact(struct maker *maker, const char *form, const struct field *fields, bool answers)
{
    size_t part;
    if (answers)
        part = maker->n_answers++ % maker->n_depths;
    else
        part = random_below(maker->random, maker->n_depths);
    const double place = ((double)part + random_unit(maker->random)) / maker->n_depths;
    maker->fact.n = 0;
    SAY_TRY(maker_fill(&maker->fact, form, fields));
    return puzzle_add_fact(maker->puzzle, &maker->fact, place);
}

size_t maker_last_fact(const struct maker *maker)
{
    return maker->puzzle->n_facts - 1;
}

int maker_pairs(struct maker *maker, const char *form, size_t n, bool answers)
{
    maker->pairs = block_new(n + 1, sizeof *maker->pairs); // n may be 0
    maker->order = block_new(n + 1, sizeof *maker->order);
    if (maker->pairs == NULL || maker->order == NULL) return EXIT_BAD;
    for (uint32_t i = 0; i < n; i++) {
        struct pair *pair = &maker->pairs[i];
        SAY_TRY(maker_word(maker, &maker_key, &pair->key));
        maker_digits(maker, &pair->n);
        const struct field *fields = FIELDS({"key", pair->key.text}, {"n", pair->n.text});
        SAY_TRY(maker_fact(maker, form, fields, answers));
        pair->fact = maker_last_fact(maker);
        maker->order[i] = i;
    }
    maker->n_pairs = n;
    return EXIT_GOOD;
}

void maker_choose(struct maker *maker, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t chosen = i + random_below(maker->random, (uint32_t)(maker->n_pairs - i));
        uint32_t pair = maker->order[chosen];
        maker->order[chosen] = maker->order[i];
        maker->order[i] = pair;
    }
}

int maker_end_turn(struct maker *maker)
{
    SAY_TRY(puzzle_add_turn(maker->puzzle, &maker->ask, &maker->answer));
    maker->ask.n = maker->answer.n = 0;
    return EXIT_GOOD;
}

int maker_turn(struct maker *maker, const char *ask, const char *answer, const struct field *fields)
{
    SAY_TRY(maker_fill(&maker->ask, ask, fields));
    SAY_TRY(maker_fill(&maker->answer, answer, fields));
    return maker_end_turn(maker);
}

int maker_end_question(struct maker *maker)
{
    SAY_TRY(puzzle_add_asked(maker->puzzle, maker_last_fact(maker)));
    return puzzle_end_question(maker->puzzle);
}

void maker_free(struct maker *maker)
{
    block_free(maker->used);
    block_free(maker->pairs);
    block_free(maker->order);
    bytes_free(&maker->fact);
    bytes_free(&maker->ask);
    bytes_free(&maker->answer);
}
