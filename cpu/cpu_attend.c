// The CPU device's work on cached rows: rotate and store new ones, attend to stored ones.
//
// Work is shared out so that a result never depends on the number of threads: shares of the keys
// are cut by a rule that looks at the number of keys alone, and merged in order.

#include "cpu/cpu_private.h"

#include <string.h>

#include "src/base/dtype.h"
#include "src/base/status.h"

// ---- Storing ------------------------------------------------------------------------------------

struct store_share {
    const struct cpu_device *cpu;
    const struct store_rows_args *args;
    size_t value_bytes;
};

static void store_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct store_share *share = arg;
    const struct store_rows_args *a = share->args;
    const struct kernel_table *kernels = &share->cpu->kernels;
    float *rotated = cpu_rotated(share->cpu, thread);
    for (size_t t = begin; t < end; t++) {
        for (uint32_t h = 0; h < a->n_heads; h++) {
            const float *x = a->dev_x + (t * a->n_heads + h) * a->d;
            uint8_t *row =
                (uint8_t *)a->dev_rows + h * a->head_stride_bytes + (a->row + t) * a->row_bytes;
            if (a->dev_cos_sin != NULL) {
                memcpy(rotated, x, a->d * sizeof *x);
                kernels->rope(rotated, a->dev_cos_sin + t * a->n_rot, 1, a->d, a->n_rot,
                              a->pairing);
                x = rotated;
            }
            kernels->convert(a->type, x, row, a->d);
        }
    }
}

fathom_status cpu_attend_store_rows(fathom_device *device, const struct store_rows_args *args)
{
    const struct cpu_device *cpu = (const struct cpu_device *)device;
    struct store_share share = {.cpu = cpu, .args = args};
    pool_for(cpu->pool, args->n_tokens, 16, store_range, &share);
    return FATHOM_OK;
}

// ---- Attending ----------------------------------------------------------------------------------
//
// A work item is one KV head, a tile of tokens and a share of the keys. With few tokens (decode)
// the keys are cut, so that all threads have work; with many (prefill) the tokens are.

enum {
    TILE_TOKENS = 64,      // tokens of one item at most
    SPLIT_KEYS = 2048,     // keys of one share at least, when keys are cut
    SPLITS_MAX = 64,       // shares at most
    SPLIT_TOKENS_MAX = 16, // more tokens than that are not cut by keys
};

struct attend_share {
    const struct cpu_device *cpu;
    const struct dense_attend_args *args;
    uint32_t group;
    uint32_t n_splits;
    uint32_t split_keys;
    uint32_t tile_tokens;
    uint32_t n_tiles;
    float *part_o;   // [n_splits][n_tokens, n_heads, d_v]
    float *part_lse; // [n_splits][n_tokens, n_heads]
};

// The query heads of one KV head, rotated, side by side: [n_tokens, group, d_k].
static const float *rotate_tile(const struct attend_share *share, uint32_t kv_head, uint32_t first,
                                uint32_t n_tokens, uint32_t thread)
{
    const struct dense_attend_args *a = share->args;
    const size_t group_values = (size_t)share->group * a->d_k;
    float *rotated = cpu_rotated(share->cpu, thread);
    for (uint32_t t = 0; t < n_tokens; t++) {
        float *q = rotated + t * group_values;
        const size_t token = first + t;
        memcpy(q, a->dev_q + (token * a->n_heads + kv_head * share->group) * a->d_k,
               group_values * sizeof *q);
        if (a->dev_cos_sin != NULL)
            share->cpu->kernels.rope(q, a->dev_cos_sin + token * a->n_rot, share->group, a->d_k,
                                     a->n_rot, a->pairing);
    }
    return rotated;
}

static void attend_item(const struct attend_share *share, size_t item, uint32_t thread)
{
    const struct dense_attend_args *a = share->args;
    const uint32_t split = (uint32_t)(item % share->n_splits);
    const uint32_t kv_head = (uint32_t)(item / share->n_splits % a->n_kv_heads);
    // The last tiles see the most keys: they go first, so that threads end together.
    const uint32_t tile = share->n_tiles - 1 - (uint32_t)(item / share->n_splits / a->n_kv_heads);
    const uint32_t first = tile * share->tile_tokens;
    const uint32_t left = a->n_tokens - first;
    const uint32_t n_tokens = left < share->tile_tokens ? left : share->tile_tokens;
    const uint32_t key = split * share->split_keys;
    const uint32_t keys_left = a->n_keys - key;
    const size_t out_row = (size_t)first * a->n_heads + kv_head * share->group;
    const size_t n_rows = (size_t)a->n_tokens * a->n_heads;
    const struct attend_args attend = {
        .q = rotate_tile(share, kv_head, first, n_tokens, thread),
        .q_stride = (size_t)share->group * a->d_k,
        .n_tokens = n_tokens,
        .group = share->group,
        .d_k = a->d_k,
        .d_v = a->d_v,
        .kv_type = a->kv_type,
        .k = (const uint8_t *)a->dev_k + kv_head * a->k_head_stride_bytes + key * a->k_row_bytes,
        .v = (const uint8_t *)a->dev_v + kv_head * a->v_head_stride_bytes + key * a->v_row_bytes,
        .k_stride_bytes = a->k_row_bytes,
        .v_stride_bytes = a->v_row_bytes,
        .n_keys = keys_left < share->split_keys ? keys_left : share->split_keys,
        .n_visible = (int64_t)a->n_keys - a->n_tokens + first + 1 - key,
        .n_window = a->n_window,
        .scale = a->scale,
        .o = share->part_o + (split * n_rows + out_row) * a->d_v,
        .o_stride = (size_t)a->n_heads * a->d_v,
        .lse = share->part_lse + split * n_rows + out_row,
        .lse_stride = a->n_heads,
        .scratch = cpu_attend_scratch(share->cpu, thread),
    };
    share->cpu->kernels.attend(&attend);
}

static void attend_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    for (size_t item = begin; item < end; item++)
        attend_item(arg, item, thread);
}

// Cuts the keys in equal shares of a whole number of SPLIT_KEYS.
static void cut_keys(struct attend_share *share)
{
    const struct dense_attend_args *a = share->args;
    const uint32_t n_blocks = (a->n_keys + SPLIT_KEYS - 1) / SPLIT_KEYS;
    const uint32_t share_blocks =
        a->n_tokens > SPLIT_TOKENS_MAX ? n_blocks : (n_blocks + SPLITS_MAX - 1) / SPLITS_MAX;
    share->split_keys = share_blocks * SPLIT_KEYS;
    share->n_splits = (n_blocks + share_blocks - 1) / share_blocks;
}

static uint32_t tile_tokens(const struct attend_share *share)
{
    const size_t row_bytes = (size_t)share->group * share->args->d_k * sizeof(float);
    const size_t fit = CPU_ROTATED_BYTES / row_bytes; // >= 1: at most 256 x 256 values
    return fit < TILE_TOKENS ? (uint32_t)fit : TILE_TOKENS;
}

fathom_status cpu_attend_dense(fathom_device *device, const struct dense_attend_args *args)
{
    const struct cpu_device *cpu = (const struct cpu_device *)device;
    const size_t n_rows = (size_t)args->n_tokens * args->n_heads;
    struct attend_share share = {
        .cpu = cpu, .args = args, .group = args->n_heads / args->n_kv_heads};
    if (n_rows == 0) return FATHOM_OK;
    cut_keys(&share);
    share.tile_tokens = tile_tokens(&share);
    share.n_tiles = (args->n_tokens + share.tile_tokens - 1) / share.tile_tokens;

    const size_t part_values = n_rows * args->d_v;
    const size_t o_values = share.n_splits > 1 ? share.n_splits * part_values : 0;
    if ((o_values + share.n_splits * n_rows) * sizeof(float) > CPU_PARTIAL_BYTES)
        return status_set(FATHOM_ENOMEM,
                          "attention partials of %u tokens and %u heads exceed "
                          "%d MiB: use a smaller batch",
                          args->n_tokens, args->n_heads, CPU_PARTIAL_BYTES >> 20);
    share.part_lse = share.n_splits > 1 || args->dev_lse == NULL ? cpu->partials : args->dev_lse;
    share.part_o = share.n_splits > 1 ? cpu->partials + share.n_splits * n_rows : args->dev_out;
    pool_for(cpu->pool, (size_t)share.n_splits * args->n_kv_heads * share.n_tiles, 1, attend_range,
             &share);
    if (share.n_splits == 1) return FATHOM_OK;

    const struct merge_args merge = {
        .n_parts = share.n_splits,
        .n_rows = n_rows,
        .d_v = args->d_v,
        .o = share.part_o,
        .part_stride_o = part_values,
        .lse = share.part_lse,
        .part_stride_lse = n_rows,
        .out_o = args->dev_out,
        .out_lse = args->dev_lse,
    };
    cpu->kernels.merge(&merge);
    return FATHOM_OK;
}
