// Opening and feeding a model on behalf of the commands. Owns no policy but the defaults of flags.

#include "tools/rig.h"

#include <math.h>
#include <string.h>

#include "tools/block.h"
#include "tools/interrupt.h"
#include "tools/kv_report.h"
#include "tools/output.h"
#include "tools/say.h"
#include "tools/timer.h"

enum { N_CTX_LEAST = 4096 };

const struct rig_options rig_defaults = {
    .device = "cpu", // not auto, while no GPU has run the CUDA device
    .list_devices = rig_list_devices,
    .n_gpu_layers = -1,
    .isa = "all",
    .log_level = FATHOM_LOG_WARN,
    .n_batch = 512,
    .type_default = "f16",
    .yarn_ext_factor = -1,
    .kv = KV_OPTION_DEFAULTS,
};

#define OPTION(member) offsetof(struct rig_options, member)

static const struct flag file_flags[] = {
    {"-m, --model", FLAG_TEXT, OPTION(path), "FILE", "the GGUF file"},
    {"--override-kv", FLAG_TEXTS, OPTION(overrides), "KEY=TYPE:V",
     "change a metadata value (int, float, bool, str); may be repeated"},
};

static const struct flag context_flags[] = {
    {"-ngl, --gpu-layers, --n-gpu-layers", FLAG_INT, OPTION(n_gpu_layers), "N",
     "layers, the last ones, whose weights lie in a GPU's memory; those of the others stay in RAM "
     "and are copied in every pass; below 0: as many as fit"},
    {"-c, --ctx-size", FLAG_COUNT, OPTION(n_ctx), "N",
     "context in tokens; 0: the model's if memory holds it (bench, eval: what the tests take)"},
    {"-b, --batch-size", FLAG_COUNT, OPTION(n_batch), "1..1M", "most tokens in one pass"},
    {"-ctk, --cache-type-k", FLAG_TEXT, OPTION(type_k), "f16|bf16|f32",
     "type of keys; default: f16 (eval logits: f32); for q8, q4 or q2 see --kv-type"},
    {"-ctv, --cache-type-v", FLAG_TEXT, OPTION(type_v), "f16|bf16|f32",
     "of values, likewise; must be the keys'"},
    {"--rope-scaling", FLAG_TEXT, OPTION(rope_scaling), "none|linear|yarn",
     "default: the model's, or linear if --rope-scale is given"},
    {"--rope-scale", FLAG_FLOAT, OPTION(rope_scale), "X", "stretch factor; 0: the model's"},
    {"--rope-freq-base", FLAG_FLOAT, OPTION(rope_freq_base), "X", "base; 0: the model's"},
    {"--yarn-orig-ctx", FLAG_COUNT, OPTION(yarn_orig_ctx), "N",
     "context that the model was trained with; 0: the model's"},
    {"--yarn-ext-factor", FLAG_FLOAT, OPTION(yarn_ext_factor), "X",
     "share of extrapolation; below 0: the model's, or 1"},
    {"--yarn-attn-factor", FLAG_FLOAT, OPTION(yarn_attn_factor), "X",
     "scale of cos and sin; 0: the model's, or 1"},
    {"--yarn-beta-fast", FLAG_FLOAT, OPTION(yarn_beta_fast), "X",
     "pairs that turn more often in that context are not stretched; 0: the model's, or 32"},
    {"--yarn-beta-slow", FLAG_FLOAT, OPTION(yarn_beta_slow), "X",
     "pairs that turn less often are stretched in full; 0: the model's, or 1"},
};

struct flag_group rig_file_flags(struct rig_options *options)
{
    return (struct flag_group){"Model", file_flags, sizeof file_flags / sizeof file_flags[0],
                               options};
}

struct flag_group rig_context_flags(struct rig_options *options)
{
    return (struct flag_group){"Layers and context", context_flags,
                               sizeof context_flags / sizeof context_flags[0], options};
}

static bool report_load(uint64_t done, uint64_t total, void *user)
{
    struct progress *progress = user;
    progress->total = total;
    progress_add(progress, done > progress->done ? done - progress->done : 0);
    return !interrupt_seen();
}

static int32_t choose_kv_type(const struct rig_options *options)
{
    const char *name = options->type_k != NULL ? options->type_k : options->type_default;
    if (options->kv.type != NULL && options->kv.type[0] != 'q') name = options->kv.type;
    if (strcmp(name, "f32") == 0) return FATHOM_TYPE_F32;
    return strcmp(name, "bf16") == 0 ? FATHOM_TYPE_BF16 : FATHOM_TYPE_F16;
}

static int open_model(struct rig *rig, const struct rig_options *options)
{
    if (options->path == NULL) return say_error("no model: give -m FILE");
    struct fathom_model_params params;
    fathom_model_params_init(&params);
    struct progress progress;
    progress_begin(&progress, "loading", "bytes", 0);
    params.device = rig->device;
    params.progress = report_load;
    params.progress_user = &progress;
    params.overrides = options->overrides.items;
    params.n_overrides = options->overrides.n;
    params.fit_kv_type = choose_kv_type(options);
    rig_place_layers(options, &params);
    int code = say_status(fathom_model_open(options->path, &params, &rig->model));
    progress_end(&progress);
    if (code == EXIT_GOOD) rig->info = fathom_model_info(rig->model);
    if (code == EXIT_GOOD && rig->device != NULL) rig_say_placement(rig, options);
    return code;
}

static void choose_scaling(const struct rig_options *options, struct fathom_rope *rope)
{
    const char *name = options->rope_scaling;
    int32_t old = rope->scaling;
    if (name == NULL && options->rope_scale > 0 && old == FATHOM_ROPE_SCALING_NONE) name = "linear";
    if (name == NULL) return;
    if (strcmp(name, "none") == 0)
        rope->scaling = FATHOM_ROPE_SCALING_NONE;
    else if (strcmp(name, "linear") == 0)
        rope->scaling = FATHOM_ROPE_SCALING_LINEAR;
    else
        rope->scaling = FATHOM_ROPE_SCALING_YARN;
    if (rope->scaling == FATHOM_ROPE_SCALING_YARN && old != FATHOM_ROPE_SCALING_YARN) {
        rope->ext_factor = 1;
        rope->attn_factor = 1;
        rope->beta_fast = 32;
        rope->beta_slow = 1;
    }
}

static void choose_rope(const struct rig_options *options, uint32_t n_tokens_train,
                        struct fathom_rope *rope)
{
    choose_scaling(options, rope);
    if (options->rope_scale > 0) rope->factor = options->rope_scale;
    if (options->rope_freq_base > 0) rope->base = options->rope_freq_base;
    if (options->yarn_orig_ctx > 0) rope->n_orig_tokens = options->yarn_orig_ctx;
    if (options->yarn_ext_factor >= 0) rope->ext_factor = options->yarn_ext_factor;
    if (options->yarn_attn_factor > 0) rope->attn_factor = options->yarn_attn_factor;
    if (options->yarn_beta_fast > 0) rope->beta_fast = options->yarn_beta_fast;
    if (options->yarn_beta_slow > 0) rope->beta_slow = options->yarn_beta_slow;
    if (rope->scaling == FATHOM_ROPE_SCALING_YARN && rope->n_orig_tokens == 0)
        rope->n_orig_tokens = n_tokens_train;
}

// Flags that the scaling, which the model or the user chose, leaves nothing to do.
static void say_idle_rope(const struct rig_options *o, const struct fathom_rope *rope)
{
    const bool yarn = rope->scaling == FATHOM_ROPE_SCALING_YARN;
    const bool linear = rope->scaling == FATHOM_ROPE_SCALING_LINEAR;
    const bool longrope = rope->scaling == FATHOM_ROPE_SCALING_LONGROPE;
    const bool of_yarn = o->yarn_ext_factor >= 0 || o->yarn_beta_fast > 0 || o->yarn_beta_slow > 0;
    if (o->log_level < FATHOM_LOG_WARN) return;
    if (o->rope_scale > 0 && !yarn && !linear)
        say_note("--rope-scale: makes no difference without --rope-scaling linear or yarn");
    if ((of_yarn && !yarn) || (o->yarn_orig_ctx > 0 && !yarn && !longrope))
        say_note("--yarn-*: makes no difference without --rope-scaling yarn");
}

// What the scaling starts from.
static uint32_t unscaled_tokens(const struct fathom_model_info *info,
                                const struct fathom_rope *rope)
{
    return rope->n_orig_tokens > 0 ? rope->n_orig_tokens : info->n_tokens_train;
}

// Tokens that the model can be trusted with: those it was trained with, stretched by the scaling
// that the flags ask for.
static double trusted_tokens(const struct fathom_model_info *info, const struct fathom_rope *rope)
{
    double n = info->n_tokens_train;
    bool stretched =
        rope->scaling == FATHOM_ROPE_SCALING_LINEAR || rope->scaling == FATHOM_ROPE_SCALING_YARN;
    double base = unscaled_tokens(info, rope);
    if (stretched && base * (double)rope->factor > n) n = base * (double)rope->factor;
    return n;
}

// The --rope-scale that stretches what the model was trained on to the context.
static double needed_scale(const struct rig *rig, const struct fathom_rope *rope)
{
    return ceil(10.0 * rig->n_ctx / unscaled_tokens(rig->info, rope)) / 10;
}

bool rig_is_dense(const struct rig *rig)
{
    return fathom_engine_kv(fathom_runner_engine(rig->runner))->mode == FATHOM_KV_DENSE;
}

// Said where the cache is more than rows in RAM, or the user asked for a mode.
static void say_plan(const struct rig *rig, const struct rig_options *options)
{
    const fathom_engine *engine = fathom_runner_engine(rig->runner);
    if (rig->log_level < FATHOM_LOG_WARN) return;
    if (!rig_is_dense(rig) || options->kv.mode != NULL)
        say_note("KV cache %s", fathom_engine_plan(engine));
    kv_flags_say_idle(&options->kv, engine, rig->info->n_layers);
}

void rig_say_unpicked(const struct rig *rig)
{
    const struct fathom_kv_params *kv = fathom_engine_kv(fathom_runner_engine(rig->runner));
    const bool seals = rig->n_ctx >= (uint64_t)kv->n_sink + kv->n_window + kv->n_segment;
    const bool picks = seals && (kv->mode == FATHOM_KV_SPARSE || kv->mode == FATHOM_KV_AUTO) &&
                       kv->n_dense_layers < rig->info->n_layers;
    if (picks && kv->prefill == FATHOM_PREFILL_DENSE && rig->n_batch > 1 &&
        rig->log_level >= FATHOM_LOG_WARN)
        say_note("steps of more than one token read all rows here, as in a prompt: give -b 1 to "
                 "measure what decoding picks, or --kv-prefill sparse");
}

// Tokens whose rows fit into RAM, beside the weights, and onto the disk, which takes what a limited
// RAM does not. Or into what the weights and a runner leave free on a GPU.
static uint64_t count_fitting(const struct rig *rig, const struct rig_options *options,
                              const struct fathom_runner_params *params)
{
    const struct fathom_model_info *info = rig->info;
    const uint64_t machine_bytes = block_machine_bytes();
    const uint64_t device_bytes = fathom_device_free_bytes(rig->device);
    uint64_t bytes = params->kv.host_bytes > 0 ? params->kv.disk_bytes : 0;
    if (machine_bytes > info->weight_bytes) bytes += machine_bytes - info->weight_bytes;
    const uint64_t kept =
        device_bytes / FATHOM_FIT_MARGIN + fathom_runner_bytes(rig->model, options->n_batch);
    if (device_bytes > 0) bytes = device_bytes > kept ? device_bytes - kept : 0;
    uint64_t bits = params->kv_type == FATHOM_TYPE_F32 ? 32 : 16;
    if (params->kv.codec != FATHOM_CODEC_PLAIN && params->kv.mode != FATHOM_KV_DENSE)
        bits = (uint64_t)params->kv.codec;
    const uint64_t values = (uint64_t)info->n_layers * info->n_kv_heads * (info->d_k + info->d_v);
    return bytes / (values * bits / 8 + 1);
}

// As asked for, or the model's; but what a file says is no reason to reserve more than there is.
static uint32_t choose_context(const struct rig *rig, const struct rig_options *options,
                               const struct fathom_runner_params *params)
{
    const uint32_t n_train = rig->info->n_tokens_train;
    const uint32_t n_wanted = options->n_ctx > 0 ? options->n_ctx : n_train;
    const bool warns = rig->log_level >= FATHOM_LOG_WARN;
    uint64_t n = count_fitting(rig, options, params);
    n = n > N_CTX_LEAST ? n & ~1023ull : N_CTX_LEAST; // a round number, for it is an estimate
    if (n >= n_wanted) return n_wanted;
    if (options->n_ctx > 0) {
        if (warns)
            say_note("memory holds about %llu tokens, and -c asks for %u: a smaller one is safer",
                     (unsigned long long)n, n_wanted);
        return n_wanted;
    }
    if (warns)
        say_note("a context of %llu tokens, which is what memory holds of the model's %u: -c N "
                 "chooses another",
                 (unsigned long long)n, n_train);
    return (uint32_t)n;
}

// Where memory gave out and the library cannot name the flag, for it knows no -c.
static int say_memory(fathom_status status)
{
    const char *text = fathom_last_error();
    const bool named = strstr(text, "--kv-") != NULL || strstr(text, "--device") != NULL;
    if (status != FATHOM_ENOMEM || named) return say_status(status);
    return say_error("%s: give a smaller -c or -b, or --kv-mode sparse with fewer bits (--kv-type) "
                     "or a disk (--kv-ram and --kv-disk)",
                     text);
}

static int open_runner(struct rig *rig, const struct rig_options *options)
{
    struct fathom_runner_params params;
    fathom_runner_params_init(&params, rig->model);
    params.kv_type = choose_kv_type(options);
    SAY_TRY(kv_flags_read(&options->kv, &params.kv, &params.kv_type));
    SAY_TRY(kv_flags_check_layers(&options->kv, rig->info->n_layers));
    choose_rope(options, rig->info->n_tokens_train, &params.rope);
    say_idle_rope(options, &params.rope);
    rig->n_ctx = choose_context(rig, options, &params);
    rig->n_batch = options->n_batch < rig->n_ctx ? options->n_batch : rig->n_ctx;
    params.n_tokens_max = rig->n_ctx;
    params.n_batch = rig->n_batch;
    if (params.kv.positions == FATHOM_POSITIONS_TRUE && rig->log_level >= FATHOM_LOG_WARN &&
        rig->n_ctx > trusted_tokens(rig->info, &params.rope))
        say_note("a context of %u tokens is more than the %u the model was trained with: "
                 "--rope-scaling yarn with --rope-scale %g, or --kv-positions collapsed, may help",
                 rig->n_ctx, rig->info->n_tokens_train, needed_scale(rig, &params.rope));
    SAY_TRY(say_memory(fathom_runner_open(rig->model, &params, &rig->runner)));
    say_plan(rig, options);
    SAY_TRY(say_memory(fathom_seq_create(fathom_runner_engine(rig->runner), &rig->seq)));
    rig->logits = block_new(rig->info->n_vocab, sizeof *rig->logits);
    return rig->logits != NULL ? EXIT_GOOD : EXIT_BAD;
}

// Whether a type was asked for, and another one than that.
static bool is_other(const char *type, const char *than)
{
    return type != NULL && strcmp(type, than) != 0;
}

static int check_types(const struct rig_options *options)
{
    const char *fallback = options->type_default;
    const char *k = options->type_k != NULL ? options->type_k : fallback;
    const char *v = options->type_v != NULL ? options->type_v : fallback;
    const char *all = options->kv.type; // of all keys and values, if it is no code
    if (all != NULL && all[0] != 'q') {
        if (!is_other(options->type_k, all) && !is_other(options->type_v, all)) return EXIT_GOOD;
        return say_error("--kv-type %s is the type of all keys and values: leave out -ctk and -ctv",
                         all);
    }
    if (strcmp(k, v) == 0) return EXIT_GOOD;
    return say_error("-ctk %s and -ctv %s must be the same type: give both", k, v);
}

// What can be told without a model, before minutes go by with loading one.
static int check_options(const struct rig_options *options)
{
    struct fathom_kv_params kv;
    int32_t kv_type;
    if (options->path == NULL) return say_error("no model: give -m FILE");
    SAY_TRY(kv_flags_read(&options->kv, &kv, &kv_type));
    if (options->rope_scale != 0 && options->rope_scale < 1)
        return say_error("--rope-scale %g: must be 1 or more", (double)options->rope_scale);
    if (options->rope_freq_base != 0 && options->rope_freq_base <= 1)
        return say_error("--rope-freq-base %g: must be above 1", (double)options->rope_freq_base);
    if (options->n_ctx > RIG_CTX_MAX)
        return say_error("-c %u: a context has at most %d tokens", options->n_ctx, RIG_CTX_MAX);
    SAY_TRY(check_types(options));
    SAY_TRY(rig_check_device(options));
    SAY_TRY(output_check_other(options->kv.stats, options->path));
    for (size_t i = 0; i < sizeof options->files / sizeof options->files[0]; i++)
        SAY_TRY(output_check_other(options->kv.stats, options->files[i]));
    return output_try_file(options->kv.stats);
}

int rig_open(struct rig *rig, const struct rig_options *options)
{
    double start_ms = timer_now_ms();
    *rig = (struct rig){0};
    SAY_TRY(check_options(options));
    SAY_TRY(rig_open_device(rig, options));
    SAY_TRY(open_model(rig, options));
    SAY_TRY(open_runner(rig, options));
    rig->load_ms = timer_now_ms() - start_ms;
    return EXIT_GOOD;
}

int rig_open_vocabulary(struct rig *rig, const struct rig_options *options)
{
    *rig = (struct rig){.log_level = options->log_level};
    return open_model(rig, options);
}

int rig_report(const struct rig *rig, const struct rig_options *options, int code)
{
    if (rig->runner == NULL) return code;
    const bool failed = code != EXIT_GOOD && code != EXIT_INTERRUPTED;
    const fathom_engine *engine = fathom_runner_engine(rig->runner);
    if (!failed && rig->log_level >= FATHOM_LOG_WARN) SAY_TRY(kv_report_say(engine));
    const int written = kv_report_write(engine, options->kv.stats);
    return code != EXIT_GOOD ? code : written;
}

void rig_close(struct rig *rig)
{
    block_free(rig->logits);
    fathom_runner_close(&rig->runner);
    fathom_model_close(&rig->model);
    fathom_device_close(&rig->device);
}
