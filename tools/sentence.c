// A small grammar. Words and shares are those that the needle model was trained on; other models
// read them as plain English.

#include "tools/sentence.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "fathom/types.h"

// clang-format off
static const char *const adjectives[] = {
    "amber", "brave", "calm", "crimson", "dusty", "early", "faint", "gentle", "golden", "grey",
    "hidden", "icy", "jolly", "keen", "lazy", "little", "lucky", "mellow", "misty", "noble", "old",
    "pale", "proud", "quick", "quiet", "rapid", "red", "rough", "royal", "rusty", "sharp", "silent",
    "silver", "small", "smooth", "soft", "solid", "stormy", "strange", "strong", "sunny", "swift",
    "tall", "tender", "tiny", "warm", "wild", "wise", "young",
};
static const char *const nouns[] = {
    "anchor", "apple", "arrow", "badger", "barrel", "beacon", "bell", "bird", "boat", "bottle",
    "bridge", "brook", "candle", "castle", "cedar", "cloud", "coin", "comet", "copper", "coral",
    "crane", "crow", "deer", "desert", "dolphin", "dragon", "drum", "eagle", "engine", "falcon",
    "farm", "feather", "fern", "field", "fire", "fish", "flag", "flower", "forest", "fox", "garden",
    "gate", "ghost", "glacier", "goose", "harbor", "hawk", "hill", "horse", "island", "ivory",
    "jacket", "jungle", "kettle", "king", "kite", "lake", "lamp", "lantern", "leaf", "lion",
    "maple", "market", "meadow", "mill", "mirror", "moon", "moth", "mountain", "needle", "night",
    "oak", "ocean", "orchid", "otter", "owl", "palace", "panther", "pebble", "pepper", "pine",
    "planet", "pond", "prince", "queen", "rabbit", "raven", "river", "robin", "rocket", "rose",
    "sailor", "salmon", "shadow", "shell", "ship", "snow", "spider", "spring", "star", "stone",
    "storm", "summer", "swan", "table", "temple", "thunder", "tiger", "tower", "tree", "turtle",
    "valley", "village", "violin", "wagon", "walnut", "water", "whale", "willow", "wind", "window",
    "winter", "wolf", "wood",
};
static const char *const verbs[] = {
    "follows", "watches", "finds", "leaves", "carries", "builds", "crosses", "paints", "guards",
    "hears", "holds", "keeps", "likes", "meets", "misses", "moves", "needs", "opens", "passes",
    "pulls", "reaches", "reads", "sees", "sells", "sends", "shows", "takes", "touches", "visits",
    "wants",
};
static const char *const adverbs[] = {
    "again", "quickly", "slowly", "today", "often", "never", "always", "quietly", "gladly", "soon",
    "twice", "early", "late", "together", "alone",
};
static const char *const prepositions[] = {
    "near", "under", "over", "behind", "beside", "past", "into", "from", "with", "without",
    "across", "beyond",
};
static const char *const conjunctions[] = {
    "and", "but", "while", "because", "so", "when", "until", "although",
};
static const char *const onsets[] = {
    "b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z", "br",
    "cr", "dr", "gr", "st", "tr", "pl", "sh", "th", "ch",
};
static const char *const vowels[] = {"a", "e", "i", "o", "u", "ai", "ea", "oo"};
static const char *const codas[] = {"l", "m", "n", "r", "s", "t", "k"};
// clang-format on

#define PICK(list) (list)[random_below(random, (uint32_t)(sizeof(list) / sizeof(list)[0]))]

static void add(struct sentence *out, const char *format, ...) FATHOM_PRINTF(2);
static void add(struct sentence *out, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    int n = vsnprintf(out->text + out->n, sizeof out->text - out->n, format, list);
    va_end(list);
    out->n += n > 0 ? (size_t)n : 0;
    if (out->n >= sizeof out->text) out->n = sizeof out->text - 1;
}

static void add_made_word(struct sentence *out, struct random *random)
{
    uint32_t n = random_below(random, 3) == 0 ? 3 : 2;
    for (uint32_t i = 0; i < n; i++) {
        add(out, "%s", PICK(onsets));
        add(out, "%s", PICK(vowels));
    }
    if (random_unit(random) < 0.4) add(out, "%s", PICK(codas));
}

static void add_noun_phrase(struct sentence *out, struct random *random)
{
    double x = random_unit(random);
    if (x < 0.35) {
        add(out, "the %s", PICK(nouns));
    } else if (x < 0.8) {
        add(out, "the %s ", PICK(adjectives));
        add(out, "%s", PICK(nouns));
    } else if (x < 0.9) {
        add(out, "a %s", PICK(nouns));
    } else {
        add_made_word(out, random);
    }
}

static void add_clause(struct sentence *out, struct random *random)
{
    add_noun_phrase(out, random);
    add(out, " %s ", PICK(verbs));
    add_noun_phrase(out, random);
    double x = random_unit(random);
    if (x < 0.3) {
        add(out, " %s ", PICK(prepositions));
        add_noun_phrase(out, random);
    } else if (x < 0.5) {
        add(out, " %s", PICK(adverbs));
    }
}

static void add_count(struct sentence *out, struct random *random)
{
    add(out, "In %u there were ", 1000 + random_below(random, 1101));
    add(out, "%u ", 2 + random_below(random, 998));
    add(out, "%ss ", PICK(nouns));
    add(out, "%s ", PICK(prepositions));
    add_noun_phrase(out, random);
}

void sentence_make(struct sentence *out, struct random *random)
{
    out->n = 0;
    double x = random_unit(random);
    if (x < 0.04) {
        add_count(out, random);
    } else {
        add_clause(out, random);
        if (x < 0.35) {
            add(out, " %s ", PICK(conjunctions));
            add_clause(out, random);
        }
        out->text[0] = (char)toupper((unsigned char)out->text[0]);
    }
    add(out, ".");
}

void sentence_make_key(struct sentence *out, struct random *random)
{
    out->n = 0;
    double x = random_unit(random);
    bool first_known = x < 0.45 || (x >= 0.7 && x < 0.85);
    bool second_known = x < 0.45 || x >= 0.85;
    if (first_known)
        add(out, "%s", PICK(adjectives));
    else
        add_made_word(out, random);
    add(out, " ");
    if (second_known)
        add(out, "%s", PICK(nouns));
    else
        add_made_word(out, random);
}

void sentence_make_word(struct sentence *out, struct random *random)
{
    out->n = 0;
    add_made_word(out, random);
}
