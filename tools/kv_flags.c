// The flags of the tiered KV cache: their table, and what their values mean.

#include "tools/kv_flags.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/say.h"

#define OPTION(member) offsetof(struct kv_options, member)

static const struct flag table[] = {
    {"--kv-mode", FLAG_TEXT, OPTION(mode), "dense|stream|sparse|auto",
     "all rows hot; cold ones all read; or picked; auto: dense until --kv-vram is full, then "
     "sparse"},
    {"--kv-prefill", FLAG_TEXT, OPTION(prefill), "dense|sparse", "what steps of many tokens read"},
    {"--kv-selector", FLAG_TEXT, OPTION(selector), "cluster|chunk|block|flat",
     "how rows are grouped (in mode stream too) and picked; flat scores every key"},
    {"--kv-budget", FLAG_TEXT, OPTION(budget), "N or X%", "tokens picked, or share of the sealed"},
    {"--kv-sink", FLAG_COUNT, OPTION(n_sink), "0..1M", "first tokens, always read"},
    {"--kv-window", FLAG_COUNT, OPTION(n_window), "0..16M", "newest tokens, always read"},
    {"--kv-segment", FLAG_COUNTS, OPTION(segment), "A[,B]",
     "tokens sealed at once, and merged later; B: 8 times A"},
    {"--kv-unit", FLAG_COUNT, OPTION(n_unit), "0..64k",
     "tokens of a unit, at most B of --kv-segment; 0: the selector's own"},
    {"--kv-type", FLAG_TEXT, OPTION(type), "f16|bf16|q8|q4|q2",
     "of sealed rows, from when segments are merged; f16 and bf16: of all rows"},
    {"--kv-index-type", FLAG_TEXT, OPTION(index_type), "f16|q8", "of representatives"},
    {"--kv-rank-by", FLAG_TEXT, OPTION(rank_by), "mean|ball|box",
     "units by their mean key, or by the most that keys in their ball or box can score"},
    {"--kv-positions", FLAG_TEXT, OPTION(positions), "true|collapsed",
     "collapsed: sealed keys are all equally far, for contexts longer than trained on"},
    {"--kv-stage2", FLAG_TEXT, OPTION(stage2), "off|q4|q8",
     "codes of the keys that score the candidates token by token"},
    {"--kv-candidates", FLAG_FLOAT, OPTION(candidates), "1..1000000",
     "of stage 2, times the budget; at least 4096 tokens"},
    {"--kv-coverage", FLAG_TEXT, OPTION(coverage), "X[,bound]",
     "raise budgets until the estimate (or the bound) of the coverage is X; 0: off"},
    {"--kv-threshold", FLAG_TEXT, OPTION(threshold), "X or auto",
     "of the budget, pick what lies in units that hold more than this share; 0: off"},
    {"--kv-estimate", FLAG_TEXT, OPTION(estimate), "on|off",
     "add the estimate of unread rows: more exact, and slower"},
    {"--kv-vram", FLAG_SIZE, OPTION(vram_bytes), "SIZE",
     "hot rows (in RAM, without a GPU); 0: auto"},
    {"--kv-ram", FLAG_SIZE, OPTION(ram_bytes), "SIZE",
     "sealed rows, index, search, staging, scratch; 0: no limit"},
    {"--kv-disk", FLAG_SIZE, OPTION(disk_bytes), "SIZE",
     "rows that --kv-ram does not hold; 0: none"},
    {"--kv-disk-path", FLAG_TEXT, OPTION(disk_path), "DIR", "where; default: " KV_DISK_PATH},
    {"--kv-disk-writes-per-day", FLAG_SIZE, OPTION(disk_day_bytes), "SIZE",
     "most that this process writes there in 24 hours; 0: no limit"},
    {"--kv-deadline", FLAG_FLOAT, OPTION(deadline_ms), "0..1000000",
     "milliseconds that a layer's step of one token waits for the disk; what is late is estimated; "
     "0: no end"},
    {"--kv-verify", FLAG_TEXT, OPTION(verify), "X%",
     "decode steps compared with exact attention to the rows as they are stored"},
    {"--kv-dense-layers", FLAG_COUNT, OPTION(n_dense_layers), "0..4k",
     "first layers that read everything"},
    {"--kv-stats", FLAG_TEXT, OPTION(stats), "FILE or -",
     "write what the cache did, as JSON (reads, picks and times are of decoded tokens); -: to "
     "standard output, behind all else, if that is no JSON"},
    {"--deterministic", FLAG_ON, OPTION(deterministic), NULL,
     "the same seed gives the same bits on any number of threads: always so without --kv-deadline"},
};

struct flag_group kv_flags(struct kv_options *options)
{
    return (struct flag_group){"KV cache", table, sizeof table / sizeof table[0], options};
}

// Place of word among n words; the table has made sure that it is there.
static int32_t place_of(const char *word, const char *const *words, int32_t n)
{
    int32_t i = 0;
    while (i + 1 < n && strcmp(words[i], word) != 0)
        i++;
    return i;
}

// "X%" as a share.
static bool parse_percent(const char *text, float *share)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || strcmp(end, "%") != 0 || !(value >= 0 && value <= 100)) return false;
    *share = (float)(value / 100);
    return true;
}

static int read_budget(const char *text, struct fathom_kv_params *kv)
{
    kv->budget_tokens = 0;
    if (parse_percent(text, &kv->budget_share) && kv->budget_share > 0) return EXIT_GOOD;
    if (flags_parse_size(text, &kv->budget_tokens) && kv->budget_tokens > 0) return EXIT_GOOD;
    return say_error(
        "--kv-budget %s: must be a number of tokens above 0, or a share above 0%% and up to 100%%",
        text);
}

static int read_coverage(const char *text, struct fathom_kv_params *kv)
{
    char *end;
    double value = strtod(text, &end);
    kv->coverage = (float)value;
    kv->coverage_bound = strcmp(end, ",bound") == 0;
    bool whole = end != text && (*end == '\0' || kv->coverage_bound);
    if (whole && value >= 0 && value <= 1) return EXIT_GOOD;
    return say_error("--kv-coverage %s: must be 0 to 1, or the same with \",bound\" behind it",
                     text);
}

static int read_threshold(const char *text, struct fathom_kv_params *kv)
{
    char *end;
    kv->threshold_auto = strcmp(text, "auto") == 0;
    if (kv->threshold_auto) return EXIT_GOOD;
    double value = strtod(text, &end);
    kv->threshold = (float)value;
    if (end != text && *end == '\0' && value >= 0 && value <= 1) return EXIT_GOOD;
    return say_error("--kv-threshold %s: must be 0 to 1, or auto", text);
}

static int read_deadline(const struct kv_options *options, struct fathom_kv_params *kv)
{
    const float ms = options->deadline_ms;
    if (ms > 0 && options->deterministic)
        return say_error("--kv-deadline %g: what is late differs from run to run, which "
                         "--deterministic rules out",
                         (double)ms);
    // Below a microsecond it is still a deadline.
    kv->disk_deadline_us = ms > 0 && ms < 1e-3f ? 1 : (uint32_t)(ms * 1e3f + 0.5f);
    return EXIT_GOOD;
}

static int read_segment(const struct flag_counts *list, struct fathom_kv_params *kv)
{
    enum { RATIO = 8, LEAST = 16, MOST = 65536 };
    kv->n_segment = list->items[0];
    kv->n_merged = list->n > 1 ? list->items[1] : RATIO * list->items[0];
    if (list->n > 2) return say_error("--kv-segment: two sizes at most");
    if (kv->n_segment < LEAST || kv->n_segment > MOST / RATIO)
        return say_error("--kv-segment %u: must be %d to %d", kv->n_segment, LEAST, MOST / RATIO);
    if (kv->n_merged > MOST || kv->n_merged <= kv->n_segment || kv->n_merged % kv->n_segment != 0)
        return say_error("--kv-segment %u,%u: the second must be a multiple of the first, at least "
                         "twice it and at most %d",
                         kv->n_segment, kv->n_merged, MOST);
    return EXIT_GOOD;
}

static void read_type(const char *type, struct fathom_kv_params *kv, int32_t *kv_type)
{
    if (type == NULL) return;
    if (type[0] == 'q')
        kv->codec = type[1] - '0'; // enum fathom_kv_codec counts bits
    else
        *kv_type = strcmp(type, "bf16") == 0 ? FATHOM_TYPE_BF16 : FATHOM_TYPE_F16;
}

static void read_words(const struct kv_options *options, struct fathom_kv_params *kv)
{
    // In the order of the library's enumerations.
    static const char *const modes[] = {"auto", "dense", "stream", "sparse"};
    static const char *const selectors[] = {"cluster", "chunk", "block", "flat"};
    static const char *const ranks[] = {"ball", "mean", "box"};
    static const char *const bits[] = {"off", "q4", "q8"};
    kv->mode = options->mode != NULL ? place_of(options->mode, modes, 4) : FATHOM_KV_AUTO;
    kv->prefill = strcmp(options->prefill, "sparse") == 0;
    kv->selector = place_of(options->selector, selectors, 4);
    kv->rank_by = place_of(options->rank_by, ranks, 3);
    kv->positions = strcmp(options->positions, "collapsed") == 0;
    kv->stage2_bits = 4 * place_of(options->stage2, bits, 3);
    kv->index_q8 = strcmp(options->index_type, "q8") == 0;
    kv->estimate = strcmp(options->estimate, "on") == 0;
}

int kv_flags_read(const struct kv_options *options, struct fathom_kv_params *kv, int32_t *kv_type)
{
    fathom_kv_params_init(kv);
    read_words(options, kv);
    read_type(options->type, kv, kv_type);
    SAY_TRY(read_budget(options->budget, kv));
    SAY_TRY(read_coverage(options->coverage, kv));
    SAY_TRY(read_threshold(options->threshold, kv));
    SAY_TRY(read_deadline(options, kv));
    SAY_TRY(read_segment(&options->segment, kv));
    kv->candidates = options->candidates;
    if (!parse_percent(options->verify, &kv->verify_share))
        return say_error("--kv-verify %s: must be from 0%% to 100%%, with the %% sign",
                         options->verify);
    if (options->n_unit > kv->n_merged)
        return say_error("--kv-unit %u: a unit lies in one segment, which has at most %u tokens "
                         "(--kv-segment)",
                         options->n_unit, kv->n_merged);
    if (options->disk_path != NULL && options->disk_bytes == 0)
        return say_error("--kv-disk-path %s: needs --kv-disk SIZE", options->disk_path);
    kv->n_sink = options->n_sink;
    kv->n_window = options->n_window;
    kv->n_unit = options->n_unit;
    kv->n_dense_layers = options->n_dense_layers;
    kv->device_bytes = options->vram_bytes;
    kv->host_bytes = options->ram_bytes;
    kv->disk_bytes = options->disk_bytes;
    kv->disk_day_bytes = options->disk_day_bytes;
    if (kv->disk_bytes > 0)
        kv->disk_path = options->disk_path != NULL ? options->disk_path : KV_DISK_PATH;
    return EXIT_GOOD;
}

int kv_flags_check_layers(const struct kv_options *options, uint32_t n_layers)
{
    if (options->n_dense_layers <= n_layers) return EXIT_GOOD;
    return say_error("--kv-dense-layers %u: must be 0 to %u, the number of layers",
                     options->n_dense_layers, n_layers);
}

static bool holds_same(const struct flag *flag, const void *a, const void *b)
{
    const void *in_a = (const char *)a + flag->offset, *in_b = (const char *)b + flag->offset;
    if (flag->kind == FLAG_COUNTS) return memcmp(in_a, in_b, sizeof(struct flag_counts)) == 0;
    if (flag->kind == FLAG_SIZE) return memcmp(in_a, in_b, sizeof(uint64_t)) == 0;
    if (flag->kind != FLAG_TEXT) return memcmp(in_a, in_b, sizeof(uint32_t)) == 0;
    const char *text_a = *(const char *const *)in_a, *text_b = *(const char *const *)in_b;
    return text_a == text_b || (text_a != NULL && text_b != NULL && strcmp(text_a, text_b) == 0);
}

static bool matters_in_dense(const struct kv_options *options, const struct flag *flag)
{
    if (flag->kind == FLAG_ON || flag->offset == OPTION(mode) || flag->offset == OPTION(stats))
        return true;
    if (flag->offset == OPTION(type)) return options->type == NULL || options->type[0] != 'q';
    return flag->offset == OPTION(vram_bytes);
}

static bool is_among(const struct flag *flag, const size_t *offsets, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (flag->offset == offsets[i]) return true;
    return false;
}

static bool matters_in_stream(const struct flag *flag)
{
    static const size_t of_picks[] = {
        OPTION(budget),    OPTION(rank_by),        OPTION(candidates), OPTION(coverage),
        OPTION(threshold), OPTION(estimate),       OPTION(verify),     OPTION(deadline_ms),
        OPTION(prefill),   OPTION(n_dense_layers), OPTION(stage2),
    };
    return !is_among(flag, of_picks, sizeof of_picks / sizeof of_picks[0]);
}

// Whether the other flags, and what the engine made of them, leave it anything to do.
static bool matters_beside(const struct kv_options *options, const struct flag *flag,
                           const struct fathom_kv_params *kv)
{
    // A unit of flat is a key, and stands for itself.
    static const size_t of_units[] = {OPTION(n_unit), OPTION(index_type), OPTION(rank_by),
                                      OPTION(stage2), OPTION(candidates)};
    static const size_t of_disk[] = {OPTION(disk_bytes), OPTION(disk_path), OPTION(disk_day_bytes),
                                     OPTION(deadline_ms)};
    if (flag->offset == OPTION(candidates) && strcmp(options->stage2, "off") == 0) return false;
    if (strcmp(options->selector, "flat") == 0 &&
        is_among(flag, of_units, sizeof of_units / sizeof of_units[0]))
        return false;
    return kv->disk_bytes > 0 || !is_among(flag, of_disk, sizeof of_disk / sizeof of_disk[0]);
}

void kv_flags_say_idle(const struct kv_options *options, const fathom_engine *engine,
                       uint32_t n_layers)
{
    const struct kv_options defaults = KV_OPTION_DEFAULTS;
    const struct fathom_kv_params *kv = fathom_engine_kv(engine);
    const bool dense = kv->mode == FATHOM_KV_DENSE, stream = kv->mode == FATHOM_KV_STREAM;
    const char *plan = fathom_engine_plan(engine);
    char names[1024] = "";
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const struct flag *flag = &table[i];
        bool idle = (dense && !matters_in_dense(options, flag)) ||
                    (stream && !matters_in_stream(flag)) || !matters_beside(options, flag, kv);
        if (!idle || holds_same(flag, options, &defaults)) continue;
        bytes += (size_t)snprintf(names + bytes, sizeof names - bytes, "%s%s",
                                  bytes > 0 ? ", " : "", flag->names);
    }
    if (bytes > 0)
        say_note("with these settings the KV cache (%.*s) makes no use of %s",
                 (int)strcspn(plan, ":"), plan, names);
    if (!dense && !stream && kv->n_dense_layers == n_layers)
        say_note("--kv-dense-layers %u: all layers read everything, so nothing is picked",
                 n_layers);
}

bool kv_flags_print_stats(const struct kv_options *options)
{
    return options->stats != NULL && strcmp(options->stats, "-") == 0;
}

int kv_flags_check_stats(const struct kv_options *options, const char *format)
{
    if (!kv_flags_print_stats(options) || strcmp(format, "md") == 0) return EXIT_GOOD;
    return say_error("--kv-stats -: standard output has the result in JSON; name a file");
}
