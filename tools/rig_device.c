// The device on behalf of the commands: flags, the list, opening.

#include <stdio.h>
#include <string.h>

#include "fathom/device.h"
#include "tools/rig.h"
#include "tools/say.h"

#define OPTION(member) offsetof(struct rig_options, member)

static const struct flag device_flags[] = {
    {"-dev, --device", FLAG_TEXT, OPTION(device), "NAME",
     "where the model is computed: cpu, cuda (the first GPU that can be used), cuda:N, or auto: a "
     "GPU if there is one, else the CPU"},
    {"--list-devices", FLAG_ASK, OPTION(list_devices), NULL, "list them, and nothing else"},
    {"-t, --threads", FLAG_COUNT, OPTION(n_threads), "0..1024", "0: one per physical core"},
    {"--isa", FLAG_TEXT, OPTION(isa), "LIST",
     "what kernels may use: avx2, avx512, vnni, bf16, amx; none: plain C, slow and exact"},
    {"-lv, --verbosity", FLAG_INT, OPTION(log_level), "0..3",
     "messages up to 0 errors, 1 warnings, 2 information, 3 all"},
};

struct flag_group rig_device_flags(struct rig_options *options)
{
    return (struct flag_group){"Device", device_flags, sizeof device_flags / sizeof device_flags[0],
                               options};
}

int rig_list_devices(void)
{
    enum { LISTED_MAX = 32 };
    struct fathom_device_info infos[LISTED_MAX];
    const size_t n = fathom_device_list(infos, LISTED_MAX);
    for (size_t i = 0; i < n && i < LISTED_MAX; i++) {
        const struct fathom_device_info *info = &infos[i];
        const bool faulty = info->fault[0] != '\0';
        printf("%-8s %s%s%s%s\n", info->name, info->text, faulty && info->text[0] ? "; " : "",
               faulty ? "not usable: " : "", info->fault);
    }
    return EXIT_HELPED;
}

// Sets the bits of enum fathom_isa that the names stand for; each brings those that it builds on.
static int choose_isa(const struct rig_options *options, uint32_t *mask)
{
    enum { AVX512 = FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512 };
    static const struct {
        const char *name;
        uint32_t mask;
    } sets[] = {
        {"none", 0},
        {"avx2", FATHOM_ISA_AVX2},
        {"avx512", AVX512},
        {"vnni", AVX512 | FATHOM_ISA_AVX512_VNNI},
        {"bf16", AVX512 | FATHOM_ISA_AVX512_BF16},
        {"amx", AVX512 | FATHOM_ISA_AVX512_VNNI | FATHOM_ISA_AMX},
        {"all", FATHOM_ISA_ALL},
    };
    const size_t n_sets = sizeof sets / sizeof sets[0];
    const char *at = options->isa;
    for (*mask = 0;; at++) {
        size_t i = 0, bytes = strcspn(at, ",");
        while (i < n_sets &&
               (strlen(sets[i].name) != bytes || memcmp(sets[i].name, at, bytes) != 0))
            i++;
        if (i == n_sets)
            return say_error(
                "--isa %s: must be all, none, or some of avx2, avx512, vnni, bf16 and amx",
                options->isa);
        *mask |= sets[i].mask;
        at += bytes;
        if (*at == '\0') return EXIT_GOOD;
    }
}

// auto, but for what is the CPU's alone: rows that leave the hot arena.
static const char *choose_device(const struct rig_options *options)
{
    const char *mode = options->kv.mode != NULL ? options->kv.mode : "auto";
    const bool seals = strcmp(mode, "stream") == 0 || strcmp(mode, "sparse") == 0 ||
                       (strcmp(mode, "auto") == 0 && options->kv.vram_bytes > 0);
    if (strcmp(options->device, "auto") != 0 || !seals) return options->device;
    if (options->log_level >= FATHOM_LOG_WARN)
        say_note("device: auto takes the CPU, which alone seals rows of the KV cache");
    return "cpu";
}

int rig_check_device(const struct rig_options *options)
{
    uint32_t isa_mask;
    return choose_isa(options, &isa_mask);
}

int rig_open_device(struct rig *rig, const struct rig_options *options)
{
    struct fathom_device_params params;
    fathom_device_params_init(&params);
    rig->log_level = options->log_level;
    SAY_TRY(choose_isa(options, &params.isa_mask));
    params.n_threads = options->n_threads;
    params.name = choose_device(options);
    params.log = say_log;
    params.log_user = &rig->log_level;
    return say_status(fathom_device_open(&params, &rig->device));
}

void rig_place_layers(const struct rig_options *options, struct fathom_model_params *params)
{
    const int64_t n = options->n_gpu_layers;
    params->n_device_layers = n < 0                   ? FATHOM_LAYERS_FIT
                              : n < FATHOM_LAYERS_FIT ? (uint32_t)n
                                                      : FATHOM_LAYERS_ALL;
    if (options->n_ctx > 0) params->n_fit_tokens = options->n_ctx;
    params->n_fit_batch = options->n_batch;
}

void rig_say_placement(const struct rig *rig, const struct rig_options *options)
{
    const struct fathom_model_info *info = rig->info;
    if (rig->log_level < FATHOM_LOG_WARN) return;
    if (options->n_gpu_layers > 0 && fathom_device_free_bytes(rig->device) == 0)
        say_note("-ngl: makes no difference without a GPU (--device)");
    if (info->n_device_layers < info->n_layers)
        say_note("weights of %u of %u layers, %.1f MiB, stay in RAM and are copied to the GPU in "
                 "every pass",
                 info->n_layers - info->n_device_layers, info->n_layers,
                 (double)info->streamed_bytes / 1048576);
}
