// The flag parser. Spellings are llama.cpp's: one dash for short and some long names, two for long
// ones, the value in the next argument. No abbreviations and no bundling, so that a typing error is
// an error.

#include "tools/flags.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/say.h"

enum { HELP_COLUMN = 30 };

static const struct flag help_flags[] = {
    {"-h, --help", FLAG_ON, 0, NULL, "print this page"},
};

// Whether word is one of the words, which commas and blanks or bars separate.
static bool has_word(const char *words, const char *word)
{
    size_t bytes = strlen(word);
    while (*words != '\0') {
        size_t n = strcspn(words, ",|");
        if (n == bytes && memcmp(words, word, n) == 0) return true;
        words += n;
        words += strspn(words, ",| ");
    }
    return false;
}

static const struct flag *find(const struct flag_page *page, const char *name, void **options)
{
    for (size_t i = 0; i < page->n_groups; i++) {
        const struct flag_group *group = &page->groups[i];
        for (size_t j = 0; j < group->n_flags; j++) {
            if (!has_word(group->flags[j].names, name)) continue;
            *options = group->options;
            return &group->flags[j];
        }
    }
    return NULL;
}

bool flags_parse_size(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (*end == 'k' || *end == 'K') shift = 10;
    if (*end == 'm' || *end == 'M') shift = 20;
    if (*end == 'g' || *end == 'G') shift = 30;
    if (*end == 't' || *end == 'T') shift = 40;
    if (shift > 0) end++;
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) return false;
    if (value > UINT64_MAX >> shift) return false;
    *out = (uint64_t)value << shift;
    return true;
}

static bool parse_count(const char *text, uint32_t *out)
{
    uint64_t value;
    if (!flags_parse_size(text, &value) || value > UINT32_MAX) return false;
    *out = (uint32_t)value;
    return true;
}

static bool parse_counts(const char *text, struct flag_counts *out)
{
    struct flag_counts list = {.n = 0};
    for (;;) {
        char item[32];
        size_t bytes = strcspn(text, ",");
        if (bytes >= sizeof item || list.n == FLAG_LIST_MAX) return false;
        memcpy(item, text, bytes);
        item[bytes] = '\0';
        if (!parse_count(item, &list.items[list.n++])) return false;
        if (text[bytes] == '\0') break;
        text += bytes + 1;
    }
    *out = list;
    return true;
}

static bool parse_int(const char *text, int64_t *out)
{
    const bool negative = text[0] == '-';
    uint64_t value;
    if (!flags_parse_size(text + negative, &value) || value > INT64_MAX) return false;
    *out = negative ? -(int64_t)value : (int64_t)value;
    return true;
}

static bool parse_float(const char *text, float *out)
{
    char *end;
    float value = strtof(text, &end);
    if (end == text || *end != '\0' || !isfinite(value)) return false;
    *out = value;
    return true;
}

static bool set_texts(const char *text, struct flag_texts *list)
{
    if (list->n == FLAG_LIST_MAX) return false;
    list->items[list->n++] = text;
    return true;
}

// The member as a double, of a flag that takes one number.
static double number_of(const struct flag *flag, const void *options)
{
    const void *member = (const char *)options + flag->offset;
    if (flag->kind == FLAG_COUNT) return *(const uint32_t *)member;
    if (flag->kind == FLAG_INT) return (double)*(const int64_t *)member;
    return (double)*(const float *)member;
}

// Refuses a value, just set, that is none of those that the table allows.
static int check_value(const struct flag *flag, const void *options, const char *name,
                       const char *text)
{
    if (flag->value == NULL || text == NULL) return EXIT_GOOD; // a switch has no text
    if (strchr(flag->value, '|') != NULL && !has_word(flag->value, text))
        return say_error("%s %s: must be one of %s", name, text, flag->value);
    const char *dots = strstr(flag->value, "..");
    uint32_t most;
    if (dots == NULL || !parse_count(dots + 2, &most)) return EXIT_GOOD;
    uint32_t least = (uint32_t)strtoul(flag->value, NULL, 10);
    double value = number_of(flag, options);
    if (value >= least && value <= most) return EXIT_GOOD;
    return say_error("%s %s: must be from %u to %s", name, text, least, dots + 2);
}

// Sets the flag's member from the text of its value. Returns false if the text is no such value.
static bool set_value(const struct flag *flag, void *options, const char *text)
{
    void *member = (char *)options + flag->offset;
    switch (flag->kind) {
    case FLAG_ASK: // set from the beginning
        return true;
    case FLAG_ON:
    case FLAG_OFF:
        *(bool *)member = flag->kind == FLAG_ON;
        return true;
    case FLAG_TEXT:
        *(const char **)member = text;
        return true;
    case FLAG_TEXTS:
        return set_texts(text, member);
    case FLAG_COUNT:
        return parse_count(text, member);
    case FLAG_SIZE:
        return flags_parse_size(text, member);
    case FLAG_INT:
        return parse_int(text, member);
    case FLAG_FLOAT:
        return parse_float(text, member);
    case FLAG_COUNTS:
        return parse_counts(text, member);
    }
    return false;
}

static bool is_path(const struct flag *flag)
{
    return strncmp(flag->value, "FILE", 4) == 0 || strncmp(flag->value, "DIR", 3) == 0;
}

static const char *what_it_must_be(const struct flag *flag)
{
    const enum flag_kind kind = flag->kind;
    if (kind == FLAG_SIZE)
        return ": must be a whole number below 2^64, with or without K, M, G or T behind it";
    if (kind == FLAG_COUNT && strstr(flag->value, "..") != NULL)
        return ": must be a whole number in that range, with or without K, M or G behind it";
    if (kind == FLAG_COUNT)
        return ": must be a whole number from 0 to 4294967295, with or without K, M or G behind it";
    if (kind == FLAG_COUNTS)
        return ": must be whole numbers from 0 to 4294967295, with or without K, M or G behind "
               "them, and commas between";
    if (kind == FLAG_INT)
        return ": must be a whole number that fits 64 bits, with or without K, M, G or T behind it";
    if (kind == FLAG_FLOAT) return ": must be a number";
    return ": given too often";
}

static void print_default(const struct flag *flag, const void *options)
{
    const void *member = (const char *)options + flag->offset;
    const char *text = flag->kind == FLAG_TEXT ? *(const char *const *)member : NULL;
    if (text != NULL) printf(" [%s]", text);
    if (flag->kind == FLAG_COUNT) printf(" [%u]", *(const uint32_t *)member);
    if (flag->kind == FLAG_SIZE) printf(" [%llu]", (unsigned long long)*(const uint64_t *)member);
    if (flag->kind == FLAG_INT) printf(" [%lld]", (long long)*(const int64_t *)member);
    if (flag->kind == FLAG_FLOAT) printf(" [%g]", (double)*(const float *)member);
    if (flag->kind == FLAG_COUNTS) {
        const struct flag_counts *list = member;
        for (uint32_t i = 0; i < list->n; i++)
            printf("%s%u%s", i == 0 ? " [" : ",", list->items[i], i + 1 == list->n ? "]" : "");
    }
}

static void print_flags(const struct flag_group *group)
{
    printf("\n%s\n", group->title);
    for (size_t i = 0; i < group->n_flags; i++) {
        const struct flag *flag = &group->flags[i];
        int n = printf("  %s%s%s", flag->names, flag->value != NULL ? " " : "",
                       flag->value != NULL ? flag->value : "");
        if (n > HELP_COLUMN - 2) n = printf("\n") - 1;
        printf("%*s%s", HELP_COLUMN - n, "", flag->text);
        if (group->options != NULL) print_default(flag, group->options);
        printf("\n");
    }
}

static int print_page(const struct flag_page *page)
{
    printf("fathom %s %s\n\n%s\n", page->command, page->use, page->about);
    for (size_t i = 0; i < page->n_groups; i++)
        print_flags(&page->groups[i]);
    print_flags(&(struct flag_group){"Other", help_flags, 1, NULL});
    return EXIT_HELPED;
}

const char *flags_given(const struct flag_page *page, int argc, char **argv, const char *names)
{
    for (int i = 1; i < argc; i++) {
        void *options;
        if (has_word(names, argv[i])) return argv[i];
        const struct flag *flag = find(page, argv[i], &options);
        if (flag != NULL && flag->value != NULL) i++;
    }
    return NULL;
}

static int ask(const struct flag *flag, const void *options)
{
    int (*const *answer)(void) = (const void *)((const char *)options + flag->offset);
    return (*answer)();
}

// For those who know llama.cpp's: what stands in place of a flag that is none, or nothing.
static const char *advice_on(const char *name)
{
    static const struct {
        const char *names, *advice;
    } of_others[] = {
        {"-fa, --flash-attn", "attention is always of that kind, so leave it out; "},
        {"-hf, -hfr, --hf-repo, -mu, --model-url", "a model is a file: -m FILE; "},
        {"--mmap, --no-mmap, --mlock", "the file is always mapped; "},
        {"-nkvo, --no-kv-offload", "--kv-vram, --kv-ram and --kv-disk place the KV cache; "},
    };
    for (size_t i = 0; i < sizeof of_others / sizeof of_others[0]; i++)
        if (has_word(of_others[i].names, name)) return of_others[i].advice;
    return strchr(name, '=') != NULL ? "a value goes into the next argument; " : "";
}

int flags_parse(const struct flag_page *page, int argc, char **argv, const char **operand)
{
    // Help first: it must show the defaults, which the other flags are about to change.
    for (int i = 1; i < argc; i++)
        if (has_word(help_flags[0].names, argv[i])) return print_page(page);
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (name[0] != '-' || name[1] == '\0') {
            if (operand == NULL || *operand != NULL)
                return say_error("unexpected argument \"%s\"; see fathom %s --help", name,
                                 page->command);
            *operand = name;
            continue;
        }
        void *options = NULL;
        const struct flag *flag = find(page, name, &options);
        if (flag == NULL)
            return say_error("unknown flag %s; %ssee fathom %s --help", name, advice_on(name),
                             page->command);
        const char *text = NULL;
        if (flag->kind == FLAG_ASK) return ask(flag, options);
        if (flag->kind != FLAG_ON && flag->kind != FLAG_OFF) {
            if (i + 1 == argc) return say_error("%s needs a value: %s", name, flag->value);
            text = argv[++i];
        }
        if (text != NULL && text[0] == '\0' && is_path(flag))
            return say_error("%s: the name is empty: give %s", name, flag->value);
        if (!set_value(flag, options, text))
            return say_error("bad value \"%s\" for %s %s%s", text, name, flag->value,
                             what_it_must_be(flag));
        SAY_TRY(check_value(flag, options, name, text));
    }
    return EXIT_GOOD;
}
