// How an index lies in memory: one block, without pointers, for all selectors.
//
//     head | unit_begin | positions | radius spread reps (units) | coarse_radius ... (groups)
//          | mid half rest (boxes) | values | outliers | block_rows | k_min k_step keys
//
// Parts that a form does not have take no bytes. COARSE_UNITS consecutive units make a group, which
// has a representative of its own: the coarse level, of the cluster selector only.

#ifndef FATHOM_INDEX_INDEX_LAYOUT_H
#define FATHOM_INDEX_INDEX_LAYOUT_H

#include "src/iface/selector.h"

enum {
    INDEX_MAGIC = 0x58444946, // "FIDX"
    INDEX_VERSION = 1,
    COARSE_UNITS = 32, // two blocks of representatives
    UNIT_SPLIT = 4,    // a cluster above so many times unit_tokens becomes several units
    BLOCK_KEYS = 4,    // that represent a block; InfLLM, Xiao et al. 2024, section 3.2
};

// All that sizes and offsets depend on.
struct index_form {
    int32_t kind;
    uint32_t d_k;
    uint32_t d_v;
    uint32_t unit_tokens;
    uint32_t n_rows;
    uint32_t q8;       // representatives
    uint32_t box;      // 1: boxes are kept
    uint32_t key_bits; // of stage-2 keys in the index, or 0
    uint32_t values;   // 1: value sums are kept
};

struct index_head {
    uint32_t magic;
    uint32_t version;
    struct index_form form;
    uint32_t n_units;
    uint32_t block_keys; // that represent a block: BLOCK_KEYS, or 0: all of them
    float rep_norm;      // no representative, box centre included, is longer
    float half_norm;     // no box's half diagonal is
    float radius_max;    // of units and groups
    float key_error;     // a stage-2 key differs from its row by at most so much (Euclidean)
    uint64_t bytes;
    uint64_t hash; // of all the other bytes
};

// Offsets in bytes from the head. n: units_max; c: groups_max.
struct index_layout {
    uint32_t units_max;
    uint32_t groups_max;  // 0: no coarse level
    size_t unit_begin;    // u32 [n + 1]
    size_t positions;     // u16 [n_rows]
    size_t radius;        // f32 [n]: greatest distance of a key from the representative
    size_t spread;        // f32 [n]: mean squared distance
    size_t reps;          // rep blocks of n vectors
    size_t coarse_radius; // f32 [c]
    size_t coarse_spread; // f32 [c]
    size_t coarse_reps;   // rep blocks of c vectors
    size_t mid;           // rep blocks of n: centres of the boxes
    size_t half;          // rep blocks of n: half their widths
    size_t box_rest;      // f32 [n]: what `half` lacks (Euclidean)
    size_t values;        // f16 [n, d_v]: means of the values
    size_t outliers;      // u8 [n]: 1: always picked
    size_t block_rows;    // u16 [n, BLOCK_KEYS]: positions
    size_t k_min;         // f32 [d_k], of the stage-2 keys
    size_t k_step;        // f32 [d_k]
    size_t keys;          // [n_rows][kv_code_bytes], in unit order
    size_t bytes;
};

struct index_form index_form_of(const struct selector_params *params, uint32_t n_rows);
void index_layout_of(const struct index_form *form, struct index_layout *layout);

static inline uint32_t round_to_lanes(uint32_t n)
{
    return (n + REP_LANES - 1) / REP_LANES * REP_LANES;
}
static inline uint32_t groups_of(uint32_t n_units)
{
    return (n_units + COARSE_UNITS - 1) / COARSE_UNITS;
}
// Bytes of the rep blocks of n vectors.
static inline size_t reps_bytes(bool q8, uint32_t d, uint32_t n)
{
    return round_to_lanes(n) / REP_LANES * rep_block_bytes(q8, d);
}

// The part of an index that begins at an offset of its layout.
static inline const void *index_at(const void *index, size_t offset)
{
    return (const uint8_t *)index + offset;
}
static inline void *index_part(void *index, size_t offset)
{
    return (uint8_t *)index + offset;
}

uint64_t index_hash(const void *index);
// ECORRUPT names what is wrong.
fathom_status index_check(const struct index_form *form, const void *index, size_t bytes);

#endif
