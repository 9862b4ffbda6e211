// The flags of the tiered KV cache, shared by every command that opens an engine.

#ifndef FATHOM_TOOLS_KV_FLAGS_H
#define FATHOM_TOOLS_KV_FLAGS_H

#include <stdbool.h>

#include "fathom/fathom.h"
#include "tools/flags.h"

struct kv_options {
    const char *mode; // NULL: not given, auto
    const char *prefill;
    const char *selector;
    const char *budget;
    uint32_t n_sink;
    uint32_t n_window;
    struct flag_counts segment; // tokens sealed at once, and merged if given
    uint32_t n_unit;
    const char *type; // NULL: as the flags of the cache's type say, plain
    const char *index_type;
    const char *rank_by;
    const char *positions;
    const char *stage2;
    float candidates;
    const char *coverage;
    const char *threshold;
    const char *estimate;
    uint64_t vram_bytes;
    uint64_t ram_bytes;
    uint64_t disk_bytes;
    const char *disk_path; // NULL: KV_DISK_PATH
    uint64_t disk_day_bytes;
    float deadline_ms;
    const char *verify;
    uint32_t n_dense_layers;
    const char *stats;  // file, "-" or NULL
    bool deterministic; // nothing to choose: the engine always is, without a deadline
};

#define KV_DISK_PATH "/var/tmp"

// The library's defaults (fathom_kv_params_init), as text; a test compares both.
#define KV_OPTION_DEFAULTS                                                                         \
    {                                                                                              \
        .prefill = "dense", .selector = "cluster", .budget = "2%", .n_sink = 64, .n_window = 512,  \
        .segment = {{1024, 8192}, 2}, .index_type = "q8", .rank_by = "ball", .positions = "true",  \
        .stage2 = "q4", .candidates = 2, .coverage = "0", .threshold = "0", .estimate = "off",     \
        .verify = "0%"                                                                             \
    }

struct flag_group kv_flags(struct kv_options *options);

// Turns the options into parameters: *kv, which need not be initialised, and *kv_type, which stays
// as it is unless --kv-type names a plain type. Says which flag is wrong.
int kv_flags_read(const struct kv_options *options, struct fathom_kv_params *kv, int32_t *kv_type);
// Whether --kv-stats names standard output.
bool kv_flags_print_stats(const struct kv_options *options);
// For commands whose result goes to standard output in that form: an error where JSON would get the
// cache's behind its own.
int kv_flags_check_stats(const struct kv_options *options, const char *format);

// What can be told once the number of layers is known.
int kv_flags_check_layers(const struct kv_options *options, uint32_t n_layers);

// Names the options that differ from the defaults in vain, in one line, and says so if no layer
// picks.
void kv_flags_say_idle(const struct kv_options *options, const fathom_engine *engine,
                       uint32_t n_layers);

#endif
