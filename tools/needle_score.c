// Counting answers, and the three forms of the result: a table, JSON, and a line of JSON for each
// question.

#include "tools/needle_score.h"

#include <stdio.h>
#include <string.h>

#include "tools/block.h"
#include "tools/output.h"
#include "tools/say.h"

int needle_score_open(struct needle_score *score, const struct needle_task *task,
                      const struct needle_options *options, uint32_t n_tokens)
{
    *score = (struct needle_score){.task = task, .options = options, .n_tokens = n_tokens};
    score->depths = block_new(options->n_depths, sizeof *score->depths);
    return score->depths != NULL ? EXIT_GOOD : EXIT_BAD;
}

void needle_score_free(struct needle_score *score)
{
    block_free(score->depths);
    block_free(score->decode_ms);
    *score = (struct needle_score){0};
}

int needle_score_add_decode(struct needle_score *score, double ms)
{
    SAY_TRY(block_grow(&score->decode_ms, &score->n_decoded_max, score->n_decoded + 1,
                       sizeof *score->decode_ms));
    score->decode_ms[score->n_decoded++] = ms;
    return EXIT_GOOD;
}

void needle_score_add_reads(struct needle_score *score, const struct fathom_kv_stats *before,
                            const struct fathom_kv_stats *after)
{
    score->n_layer_steps += after->n_steps - before->n_steps;
    score->read_bytes += after->read_bytes - before->read_bytes;
}

// By a decoded token in a layer; 0 where none was decoded.
static double read_kib(const struct needle_score *score)
{
    if (score->n_layer_steps == 0) return 0;
    return (double)score->read_bytes / (double)score->n_layer_steps / 1024;
}

static double share_of(size_t n_right, size_t n)
{
    return (double)n_right / (double)n;
}

static double share_of_parts(const struct needle_score *score)
{
    return share_of(score->parts.n_right, score->parts.n);
}

static double share_exact(const struct needle_score *score)
{
    return share_of(score->n_exact, score->n_questions);
}

double needle_score_share(const struct needle_score *score)
{
    return score->task->by_part ? share_of_parts(score) : share_exact(score);
}

// ---- A line for each question -------------------------------------------------------------------

// A model may write bytes that are no UTF-8, which JSON cannot hold.
static json_t *build_text(const char *text, size_t bytes)
{
    json_t *string = json_stringn(text, bytes);
    if (string != NULL) return string;
    char *ascii = block_new(bytes + 1, 1);
    if (ascii == NULL) return NULL;
    for (size_t i = 0; i < bytes; i++)
        ascii[i] = (char)((unsigned char)text[i] < 0x80 ? text[i] : '?');
    string = json_stringn(ascii, bytes);
    block_free(ascii);
    return string;
}

static json_t *build_answer(const struct puzzle *puzzle, size_t at)
{
    size_t bytes;
    const char *text = judge_trim(puzzle_text(puzzle, at), &bytes);
    return build_text(text, bytes);
}

// The mean divergence; null where it was not asked for.
static json_t *build_mean(const struct needle_kl *kl)
{
    return kl->n > 0 ? json_real(kl->sum / (double)kl->n) : json_null();
}

static int print_line(json_t *json)
{
    if (json == NULL) return say_error("cannot build a line of JSON");
    json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(json);
    printf("\n");
    return output_check();
}

static int print_question(const struct needle_score *score, const struct puzzle *puzzle,
                          const struct question *question, const struct needle_kl *kl, bool exact,
                          struct judgement judgement)
{
    char part[32];
    snprintf(part, sizeof part, "%s_score", score->task->part);
    const struct turn *last = &puzzle->turns[question->turn + question->n_turns - 1];
    json_t *line = json_pack(
        "{s:s, s:i, s:I, s:i, s:f, s:o, s:o, s:b, s:f, s:o}", "task", score->task->name, "length",
        (int)score->n_tokens, "seed", (json_int_t)score->options->seed, "index",
        (int)score->n_questions, "depth", question->depth, "expected",
        build_answer(puzzle, last->answer), "got", build_answer(puzzle, last->got), "exact", exact,
        part, share_of(judgement.n_right, judgement.n), "kld", build_mean(kl));
    if (score->options->dense_too)
        json_object_set_new(line, "read",
                            json_string(needle_score_is_dense(score) ? "all" : "picked"));
    return print_line(line);
}

int needle_score_print_heads(const struct needle_score *score, json_t *heads)
{
    size_t i;
    json_t *head;
    json_array_foreach(heads, i, head)
    {
        json_t *line = json_pack("{s:s, s:i, s:I}", "task", score->task->name, "length",
                                 (int)score->n_tokens, "seed", (json_int_t)score->options->seed);
        json_object_update(line, head);
        SAY_TRY(print_line(line));
    }
    return EXIT_GOOD;
}

int needle_score_add(struct needle_score *score, struct puzzle *puzzle,
                     const struct question *question, const struct needle_kl *kl)
{
    struct judgement parts = score->task->judge(puzzle, question);
    bool exact = true;
    for (size_t i = 0; i < question->n_asked; i++) {
        const struct asked *asked = &puzzle->asked[question->asked + i];
        const uint32_t n_depths = score->options->n_depths;
        struct share *depth = &score->depths[(size_t)(puzzle->facts[asked->fact].place * n_depths)];
        depth->n++;
        depth->n_right += asked->right;
        exact = exact && asked->right;
    }
    if (strcmp(score->options->format, "jsonl") == 0 && !score->task->by_head)
        SAY_TRY(print_question(score, puzzle, question, kl, exact, parts));
    score->parts.n += parts.n;
    score->parts.n_right += parts.n_right;
    score->kl.sum += kl->sum;
    score->kl.n += kl->n;
    score->n_exact += exact;
    score->n_questions++;
    return EXIT_GOOD;
}

// ---- A row for each length ----------------------------------------------------------------------

// Per cent, from the beginning of the text to its end.
static void print_depths(const struct needle_score *score)
{
    const uint32_t n = score->options->n_depths;
    for (uint32_t i = 0; i < n && n > 1; i++) {
        const struct share *share = &score->depths[i];
        if (share->n == 0)
            printf(" -");
        else
            printf(" %.0f", 100 * share_of(share->n_right, share->n));
    }
    if (n > 1) printf(" |");
}

void needle_score_print_header(const struct needle_score *score)
{
    const bool kl_dense = score->options->kl_dense, dense_too = score->options->dense_too;
    const bool depths = score->options->n_depths > 1;
    char parts[32];
    snprintf(parts, sizeof parts, "%ss %%", score->task->part);
    printf("| %8s | %7s | %9s | %8s | %8s | %13s | %15s |%s%s%s\n", "tokens", "needles",
           "questions", "exact %", parts, "prefill tok/s", "decode ms/token",
           kl_dense ? "      KLD |" : "", dense_too ? " KiB read/token/layer | read   |" : "",
           depths ? " % by depth |" : "");
    printf("| %.7s: | %.6s: | %.8s: | %.7s: | %.7s: | %.12s: | %.14s: |%s%s%s\n", "--------",
           "--------", "--------", "--------", "--------", "----------------", "----------------",
           kl_dense ? " -------: |" : "", dense_too ? " -------------------: | ------ |" : "",
           depths ? " ---------- |" : "");
}

int needle_score_print_row(const struct needle_score *score)
{
    char decode[32] = "-"; // where every answer ended at once
    if (score->n_decoded > 0) snprintf(decode, sizeof decode, "%.3f", score->decode.median);
    printf("| %8u | %7u | %9zu | %8.2f | %8.2f | %13.1f | %15s |", score->n_tokens,
           score->options->n_needles, score->n_questions, 100 * share_exact(score),
           100 * share_of_parts(score), (double)score->n_prefill / score->prefill_ms * 1e3, decode);
    if (score->kl.n > 0)
        printf(" %8.5f |", score->kl.sum / (double)score->kl.n);
    else if (score->options->kl_dense)
        printf(" %8s |", "-");
    if (score->options->dense_too)
        printf(" %20.1f | %s |", read_kib(score),
               needle_score_is_dense(score) ? "all   " : "picked");
    print_depths(score);
    printf("\n");
    return output_check();
}

static double number(const json_t *json, const char *key)
{
    return json_number_value(json_object_get(json, key));
}

int needle_score_print_cache(const json_t *kv)
{
    const double mib = 1 << 20;
    printf(
        "\nKV cache: %.1f MiB hot, %.1f MiB in RAM (%.1f MiB of it index), %.1f MiB on disk; %.2f "
        "%% of the sealed keys picked",
        number(kv, "device_bytes") / mib, number(kv, "host_bytes") / mib,
        number(kv, "index_bytes") / mib, number(kv, "disk_bytes") / mib,
        100 * number(kv, "picked_share"));
    if (number(kv, "n_verified") > 0)
        printf(", verified coverage %.4f", number(kv, "verified_coverage"));
    else if (number(kv, "n_covered") > 0)
        printf(", estimated coverage %.4f", number(kv, "coverage_estimate"));
    printf("\n");
    return output_check();
}

static json_t *build_depths(const struct needle_score *score)
{
    json_t *depths = json_array();
    const uint32_t n = score->options->n_depths;
    for (uint32_t i = 0; i < n; i++) {
        const struct share *share = &score->depths[i];
        json_array_append_new(
            depths,
            json_pack("{s:f, s:i, s:i, s:o}", "depth", (i + 0.5) / n, "asked", (int)share->n,
                      "right", (int)share->n_right, "score",
                      share->n > 0 ? json_real(share_of(share->n_right, share->n)) : json_null()));
    }
    return depths;
}

json_t *needle_score_json(const struct needle_score *score, json_t *kv)
{
    char parts[32];
    snprintf(parts, sizeof parts, "%s_score", score->task->part);
    return json_pack(
        "{s:s, s:I, s:s?, s:i, s:i, s:i, s:i, s:f, s:f, s:i, s:i, s:f, s:f, s:o, s:f, s:o, s:i, "
        "s:o, s:o}",
        "task", score->task->name, "seed", (json_int_t)score->options->seed, "chat_template",
        score->options->chat_template, "length", (int)score->n_tokens, "needles",
        (int)score->options->n_needles, "questions", (int)score->n_questions, "exact",
        (int)score->n_exact, "score", needle_score_share(score), parts, share_of_parts(score),
        "prefills", (int)score->n_texts, "prefill_tokens", (int)score->n_prefill, "prefill_ms",
        score->prefill_ms, "prefill_ms_per_token", score->prefill_ms / (double)score->n_prefill,
        "decode_ms_per_token", score->n_decoded > 0 ? json_real(score->decode.median) : json_null(),
        "read_kib_per_token_layer", read_kib(score), "kld", build_mean(&score->kl), "kld_tokens",
        (int)score->kl.n, "depths", build_depths(score), "kv", kv);
}

// ---- What would be asked ------------------------------------------------------------------------

static json_t *build_turns(const struct puzzle *puzzle, const struct question *question)
{
    json_t *turns = json_array();
    for (size_t i = 0; i < question->n_turns; i++) {
        const struct turn *turn = &puzzle->turns[question->turn + i];
        json_array_append_new(turns, json_pack("{s:s, s:s}", "ask", puzzle_text(puzzle, turn->ask),
                                               "answer", puzzle_text(puzzle, turn->answer)));
    }
    return turns;
}

int needle_score_show(const struct needle_score *score, const struct puzzle *puzzle,
                      const char *text, size_t n)
{
    json_t *questions = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(questions,
                              json_pack("{s:f, s:o}", "depth", puzzle->questions[i].depth, "turns",
                                        build_turns(puzzle, &puzzle->questions[i])));
    return print_line(json_pack("{s:s, s:i, s:I, s:s, s:o}", "task", score->task->name, "length",
                                (int)score->n_tokens, "seed", (json_int_t)score->options->seed,
                                "text", text, "questions", questions));
}
