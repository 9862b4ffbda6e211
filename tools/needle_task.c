// The table of tasks. Facts and questions come in an order of chance that a seed gives again.

#include "tools/needle_task.h"

#include <stdio.h>
#include <string.h>

#include "tools/block.h"
#include "tools/say.h"

enum { N_BETWEEN_MAX = 3 };

static const struct {
    const char *fact, *ask, *answer;
} niah = {
    .fact = "The secret number of {key} is {n}.",
    .ask = "Question: What is the secret number of {key}?\n"
           "Answer: The secret number of {key} is ",
    .answer = "{n}.\n",
};
static const struct {
    const char *fact, *ask, *answer;
} kvretrieval = {
    .fact = "{hash} -> {value};",
    .ask = "Lookup {hash} -> ",
    .answer = "{value};\n",
};
static const struct {
    const char *fact, *ask, *step, *last;
} vartrack = {
    .fact = "Variable {var} is {value}.",
    .ask = "Question: What is variable {var}?\nAnswer: ",
    .step = "Variable {var} is {value}. ",
    .last = "Variable {var} is {n}.\n",
};
static const struct {
    const char *fact, *ask, *answer, *later_fact, *later_ask, *later_answer;
} multiturn = {
    .fact = "The guard of {key} is {name}.",
    .ask = "Question: Who is the guard of {key}?\nAnswer: The guard of {key} is ",
    .answer = "{name}.\n",
    .later_fact = "The secret number of {name} is {n}.",
    .later_ask = "Question: What is the secret number of that guard?\n"
                 "Answer: The secret number of ",
    .later_answer = "{name} is {n}.\n",
};
static const struct {
    const char *fact, *ask, *item, *begin, *line;
} longgen = {
    .fact = "The secret number of {key} is {n}.",
    .ask = "Question: What are the secret numbers of these?\n",
    .item = "{i}. {key}\n",
    .begin = "Answer:\n",
    .line = "{i}. {key} is {n}.\n",
};

// The number of a key: a fact, and the question for it.
static int ask_number(struct maker *maker, const struct word *key)
{
    struct word n;
    maker_digits(maker, &n);
    const struct field *fields = FIELDS({"key", key->text}, {"n", n.text});
    SAY_TRY(maker_fact(maker, niah.fact, fields, true));
    SAY_TRY(maker_turn(maker, niah.ask, niah.answer, fields));
    return maker_end_question(maker);
}

static int make_niah(struct maker *maker)
{
    for (uint32_t i = 0; i < maker->n_needles; i++) {
        struct word key;
        SAY_TRY(maker_word(maker, &maker_key, &key));
        SAY_TRY(ask_number(maker, &key));
    }
    return EXIT_GOOD;
}

// The first or the second half of a key, with its blank.
static int make_half(struct maker *maker, bool second, struct word *half)
{
    struct sentence key;
    do {
        sentence_make_key(&key, maker->random);
        char *blank = strchr(key.text, ' ');
        *half = (struct word){0};
        if (second)
            memcpy(half->text, blank, strlen(blank));
        else
            memcpy(half->text, key.text, (size_t)(blank - key.text));
    } while (maker_has(maker, half->text));
    return maker_use(maker, half);
}

// Of as few first and as few second words as will do, so that keys share them.
static int make_multikey(struct maker *maker)
{
    const uint32_t n = maker->n_needles;
    uint32_t n_halves = 1;
    while ((uint64_t)n_halves * n_halves < n)
        n_halves++;
    SAY_TRY(block_grow(&maker->used, &maker->n_used_max, 2 * n_halves, sizeof *maker->used));
    struct word half;
    for (uint32_t i = 0; i < 2 * n_halves; i++)
        SAY_TRY(make_half(maker, i >= n_halves, &half));
    for (uint32_t i = 0; i < n; i++) {
        // Combinations in an order that uses all words evenly: a diagonal after the other.
        const uint32_t first = i % n_halves, second = (first + i / n_halves) % n_halves;
        struct word key = maker->used[first];
        strcat(key.text, maker->used[n_halves + second].text);
        if (maker->widest) SAY_TRY(maker_word(maker, &maker_key, &key));
        SAY_TRY(ask_number(maker, &key));
    }
    return EXIT_GOOD;
}

static int make_kvretrieval(struct maker *maker)
{
    for (uint32_t i = 0; i < maker->n_needles; i++) {
        struct word hash, value;
        SAY_TRY(maker_word(maker, &maker_hash, &hash));
        SAY_TRY(maker_word(maker, &maker_hash, &value));
        const struct field *fields = FIELDS({"hash", hash.text}, {"value", value.text});
        SAY_TRY(maker_fact(maker, kvretrieval.fact, fields, true));
        SAY_TRY(maker_turn(maker, kvretrieval.ask, kvretrieval.answer, fields));
        SAY_TRY(maker_end_question(maker));
    }
    return EXIT_GOOD;
}

static int make_chain(struct maker *maker)
{
    const uint32_t n = maker->n_each;
    struct word var, value, n_text;
    SAY_TRY(maker_word(maker, &maker_variable, &var));
    SAY_TRY(maker_fill(&maker->ask, vartrack.ask, FIELDS({"var", var.text})));
    maker_digits(maker, &n_text);
    for (uint32_t i = 0; i < n; i++, var = value) {
        const bool last = i + 1 == n;
        value = n_text;
        if (!last) SAY_TRY(maker_word(maker, &maker_variable, &value));
        const struct field *fields =
            FIELDS({"var", var.text}, {"value", value.text}, {"n", value.text});
        SAY_TRY(maker_fact(maker, vartrack.fact, fields, last));
        SAY_TRY(maker_fill(&maker->answer, last ? vartrack.last : vartrack.step, fields));
    }
    SAY_TRY(maker_end_turn(maker));
    return maker_end_question(maker);
}

static int make_vartrack(struct maker *maker)
{
    for (uint32_t i = 0; i < maker->n_needles / maker->n_each; i++)
        SAY_TRY(make_chain(maker));
    return EXIT_GOOD;
}

static int make_guard(struct maker *maker)
{
    struct word key, name, n;
    SAY_TRY(maker_word(maker, &maker_key, &key));
    SAY_TRY(maker_word(maker, &maker_name, &name));
    maker_digits(maker, &n);
    const struct field *fields = FIELDS({"key", key.text}, {"name", name.text}, {"n", n.text});
    SAY_TRY(maker_fact(maker, multiturn.fact, fields, false));
    SAY_TRY(maker_turn(maker, multiturn.ask, multiturn.answer, fields));
    size_t n_max = maker->n_pairs < N_BETWEEN_MAX ? maker->n_pairs : N_BETWEEN_MAX;
    size_t n_between = maker->widest ? n_max : random_below(maker->random, (uint32_t)n_max + 1);
    maker_choose(maker, n_between);
    for (size_t i = 0; i < n_between; i++) {
        const struct pair *pair = &maker->pairs[maker->order[i]];
        SAY_TRY(maker_turn(maker, niah.ask, niah.answer,
                           FIELDS({"key", pair->key.text}, {"n", pair->n.text})));
    }
    SAY_TRY(maker_fact(maker, multiturn.later_fact, fields, true));
    SAY_TRY(maker_turn(maker, multiturn.later_ask, multiturn.later_answer, fields));
    return maker_end_question(maker);
}

// A third of the needles are guards, a third their numbers, a third is asked for in between.
static int make_multiturn(struct maker *maker)
{
    const uint32_t n = maker->n_needles;
    if (n < 2) return say_error("--needles %u: a guard and a number take 2 at least", n);
    const uint32_t n_guards = n < 6 ? 1 : n / 3;
    SAY_TRY(maker_pairs(maker, niah.fact, n - 2 * n_guards, false));
    for (uint32_t i = 0; i < n_guards; i++)
        SAY_TRY(make_guard(maker));
    return EXIT_GOOD;
}

static int make_list(struct maker *maker, uint32_t n)
{
    maker_choose(maker, n);
    SAY_TRY(maker_fill(&maker->ask, longgen.ask, NULL));
    for (uint32_t i = 0; i < n; i++) {
        const struct pair *pair = &maker->pairs[maker->order[i]];
        char number[16];
        snprintf(number, sizeof number, "%u", i + 1);
        const struct field *fields =
            FIELDS({"i", number}, {"key", pair->key.text}, {"n", pair->n.text});
        SAY_TRY(maker_fill(&maker->ask, longgen.item, fields));
        SAY_TRY(maker_fill(&maker->answer, longgen.line, fields));
        SAY_TRY(puzzle_add_asked(maker->puzzle, pair->fact));
    }
    SAY_TRY(maker_fill(&maker->ask, longgen.begin, NULL));
    SAY_TRY(maker_end_turn(maker));
    return puzzle_end_question(maker->puzzle);
}

static int make_longgen(struct maker *maker)
{
    SAY_TRY(maker_pairs(maker, longgen.fact, maker->n_needles, true));
    for (uint32_t i = 0; i < maker->n_needles && i < NEEDLE_QUESTIONS_MAX; i++)
        SAY_TRY(make_list(maker, maker->n_each));
    return EXIT_GOOD;
}

// ---- The table ----------------------------------------------------------------------------------

const struct needle_task needle_tasks[NEEDLE_TASKS] = {
    {
        .name = "niah",
        .text = "questions about needles in long texts: score and speed",
        .about =
            "Hides \"The secret number of KEY is DDDDD.\" among filler sentences and asks for\n"
            "the numbers. An answer counts when all five digits are right.",
        .part = "digit",
        .fixed = true,
        .n_each = 1,
        .make = make_niah,
        .judge = judge_characters,
    },
    {
        .name = "multikey",
        .text = "niah, with needles that share their words",
        .about = "As niah, but the keys combine a few first with a few second words, so that each\n"
                 "shares its words with others.",
        .part = "digit",
        .fixed = true,
        .n_each = 1,
        .make = make_multikey,
        .judge = judge_characters,
    },
    {
        .name = "kvretrieval",
        .text = "random values of random keys",
        .about =
            "Hides \"HASH -> HASH;\" among filler sentences and asks what a hash leads to. An\n"
            "answer counts when all eight digits are right.",
        .part = "digit",
        .fixed = true,
        .n_each = 1,
        .make = make_kvretrieval,
        .judge = judge_characters,
    },
    {
        .name = "vartrack",
        .text = "chains of variables that end in a number",
        .about = "Hides chains, \"Variable ABCDE is FGHIJ.\" to \"Variable VWXYZ is DDDDD.\", and\n"
                 "asks for the first variable of one. An answer counts when its last number is\n"
                 "right; \"chains\" are the answers of which every step is.",
        .part = "chain",
        .each = "--hops",
        .each_text = "needles of a chain: variables from the one asked for to the number",
        .n_each = 2,
        .make = make_vartrack,
        .judge = judge_last_number,
    },
    {
        .name = "multiturn",
        .text = "questions about answers to earlier questions",
        .about =
            "Asks for the guard of a key, then for none to three numbers as niah does, then for\n"
            "\"the secret number of that guard\". What the model answers stays in the sequence.\n"
            "The last answer counts, name and number; \"turns\" are all answers.",
        .part = "turn",
        .n_each = 1,
        .make = make_multiturn,
        .judge = judge_turns,
    },
    {
        .name = "longgen",
        .text = "long answers, of which each line needs another needle",
        .about =
            "Hides what niah hides and asks for many numbers at once, in a list. The score is\n"
            "the share of right lines, for each needs its own needle; an answer is exact when\n"
            "all its lines are right.",
        .part = "line",
        .by_part = true,
        .each = "--items",
        .each_text = "needles that a question asks for, and lines of its answer; by itself no more "
                     "than --needles",
        .n_each = 16,
        .make = make_longgen,
        .judge = judge_lines,
    },
    {
        .name = "recall",
        .text = "niah's questions: what each layer's KV heads miss of exact attention",
        .about =
            "Asks what niah asks, and compares each decoded token's attention with exact\n"
            "attention: the share of the mass that what was read holds (coverage), the estimate\n"
            "and the bound of it, and the error of the output, |o - o_exact| / |o_exact|, all\n"
            "means, for each layer and KV head.",
        .part = "digit",
        .fixed = true,
        .n_each = 1,
        .by_head = true,
        .make = make_niah,
        .judge = judge_characters,
    },
};
