// Spherical k-means on centred vectors, in matrix products.
//
// x - mean is assigned to the centroid of unit length with the greatest inner product; a centroid
// becomes the mean of its members, centred and scaled to unit length. The first centroids are
// evenly spaced vectors. Products run in bf16: it decides between centroids that are nearly equally
// good, and nothing else.
//
// Comparing every vector with every centroid in every round would cost n * m * n_rounds. So many
// clusters are found in two levels: about sqrt(m) large ones, then small ones inside each; only the
// last assignment looks at all. Units come out 1 % wider than by looking at all in every round
// (SIFT vectors and random topics, 8192 to 512).

#include "index/kmeans.h"

#include <math.h>
#include <string.h>

#include "index/vectors.h"
#include "src/base/mem.h"

enum {
    TYPE = FATHOM_TYPE_BF16,
    TILE_ROWS = 48, // of x in one product; a multiple of the kernels' tiles, and m x TILE_ROWS
                    // products stay in the second-level cache
    D_MAX = 256,
    ONE_LEVEL_MAX = 64, // clusters
};

// Vectors order[row ..] and the centroids that they may belong to.
struct part {
    uint32_t row;
    uint32_t n_rows;
    uint32_t centroid;
    uint32_t m;
};

struct kmeans {
    const struct kmeans_args *args;
    const struct matmul_kernel *kernel;
    size_t x_row_bytes;
    size_t panel_bytes;
    float *mean;      // [d]
    uint32_t *order;  // [n] vectors, those of a large cluster together
    uint32_t *label;  // [n] by place in that order: the centroid
    uint8_t *packed;  // [n] activations of x - mean, likewise
    uint8_t *panels;  // of the centroids
    float *centroids; // [m, d], of unit length
    uint16_t *rows;   // [panel_rows, d] bf16
    float *sums;      // [m, d]
    uint32_t *counts; // [m + 1]
    float *products;  // [TILE_ROWS, m]
};

static void *take(uint8_t *base, size_t *used, size_t bytes)
{
    uint8_t *at = base != NULL ? base + *used : NULL;
    *used += size_round(bytes, MEM_ALIGN_BYTES);
    return at;
}

// Places the arrays in the scratch at base, or only counts the bytes when it is NULL.
static size_t lay_out(struct kmeans *k, const struct kernel_table *kernels, uint32_t n, uint32_t d,
                      uint32_t m, uint8_t *base)
{
    const size_t f32 = sizeof(float);
    size_t used = 0;
    k->kernel = &kernels->matmul[TYPE];
    k->x_row_bytes = k->kernel->x_row_bytes(d);
    k->panel_bytes = k->kernel->panel_bytes(d);
    const uint32_t panel_rows = k->kernel->panel_rows;
    k->mean = take(base, &used, d * f32);
    k->order = take(base, &used, n * sizeof(uint32_t));
    k->label = take(base, &used, n * sizeof(uint32_t));
    k->packed = take(base, &used, n * k->x_row_bytes);
    k->panels = take(base, &used, (m + panel_rows - 1) / panel_rows * k->panel_bytes);
    k->centroids = take(base, &used, (size_t)m * d * f32);
    k->rows = take(base, &used, (size_t)panel_rows * d * sizeof(uint16_t));
    k->sums = take(base, &used, (size_t)m * d * f32);
    k->counts = take(base, &used, (m + 1) * sizeof(uint32_t));
    k->products = take(base, &used, (size_t)TILE_ROWS * m * f32);
    return used;
}

size_t kmeans_scratch_bytes(const struct kernel_table *kernels, uint32_t n, uint32_t d, uint32_t m)
{
    struct kmeans k;
    return lay_out(&k, kernels, n, d, m, NULL);
}

static void normalise(float *x, uint32_t d)
{
    const float norm = sqrtf(vector_dot(x, x, d));
    if (norm > 0) vector_scale(x, 1.0f / norm, d);
}

static const float *vector_at(const struct kmeans *k, uint32_t i)
{
    return k->args->x + (size_t)k->order[i] * k->args->d;
}

static void find_mean(const struct kmeans *k)
{
    const struct kmeans_args *a = k->args;
    memset(k->mean, 0, a->d * sizeof *k->mean);
    for (uint32_t i = 0; i < a->n; i++)
        vector_add(k->mean, a->x + (size_t)i * a->d, 1.0f, a->d);
    vector_scale(k->mean, 1.0f / (float)a->n, a->d);
}

static void pack_vectors(const struct kmeans *k)
{
    const struct kmeans_args *a = k->args;
    float centred[D_MAX];
    for (uint32_t i = 0; i < a->n; i++) {
        memcpy(centred, vector_at(k, i), a->d * sizeof *centred);
        vector_add(centred, k->mean, -1.0f, a->d);
        k->kernel->pack_x(k->packed + i * k->x_row_bytes, centred, a->d);
    }
}

// Evenly spaced vectors of the part.
static void choose_first(const struct kmeans *k, const struct part *part)
{
    const uint32_t d = k->args->d;
    for (uint32_t c = 0; c < part->m; c++) {
        const uint64_t at = (2 * (uint64_t)c + 1) * part->n_rows / (2 * (uint64_t)part->m);
        float *centroid = k->centroids + (size_t)(part->centroid + c) * d;
        memcpy(centroid, vector_at(k, part->row + (uint32_t)at), d * sizeof *centroid);
        vector_add(centroid, k->mean, -1.0f, d);
        normalise(centroid, d);
    }
}

static void pack_centroids(const struct kmeans *k, const struct part *part)
{
    const struct kmeans_args *a = k->args;
    const uint32_t panel_rows = k->kernel->panel_rows;
    for (uint32_t c = 0; c < part->m; c += panel_rows) {
        const uint32_t n_rows = part->m - c < panel_rows ? part->m - c : panel_rows;
        a->kernels->convert(TYPE, k->centroids + (size_t)(part->centroid + c) * a->d, k->rows,
                            (size_t)n_rows * a->d);
        k->kernel->pack_panel(k->panels + c / panel_rows * k->panel_bytes, k->rows, n_rows, a->d);
    }
}

// The first of the greatest values.
static uint32_t find_greatest(const float *x, uint32_t n)
{
    enum { LANES = 8 };
    float best[LANES];
    uint32_t i = 0;
    for (uint32_t j = 0; j < LANES; j++)
        best[j] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t j = 0; j < LANES; j++)
            best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
    for (uint32_t j = 0; i + j < n; j++)
        best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
    for (uint32_t half = LANES / 2; half > 0; half /= 2)
        for (uint32_t j = 0; j < half; j++)
            best[j] = best[j + half] > best[j] ? best[j + half] : best[j];
    for (i = 0; i + LANES <= n; i += LANES) {
        int32_t n_equal = 0;
        for (uint32_t j = 0; j < LANES; j++)
            n_equal += x[i + j] == best[0];
        if (n_equal > 0) break;
    }
    while (i + 1 < n && x[i] != best[0])
        i++;
    return i;
}

// Labels every vector of the part with the nearest of its centroids.
static void assign(const struct kmeans *k, const struct part *part)
{
    const struct kmeans_args *a = k->args;
    pack_centroids(k, part);
    for (uint32_t begin = 0; begin < part->n_rows; begin += TILE_ROWS) {
        const uint32_t n_rows = part->n_rows - begin < TILE_ROWS ? part->n_rows - begin : TILE_ROWS;
        const struct matmul_args product = {
            .panels = k->panels,
            .n_rows = part->m,
            .n_cols = a->d,
            .n_tokens = n_rows,
            .x = k->packed + (part->row + begin) * k->x_row_bytes,
            .out = k->products,
            .out_stride = part->m,
        };
        k->kernel->run(&product);
        for (uint32_t i = 0; i < n_rows; i++)
            k->label[part->row + begin + i] =
                part->centroid + find_greatest(k->products + (size_t)i * part->m, part->m);
    }
}

// A cluster without members keeps its centroid.
static void update(const struct kmeans *k, const struct part *part)
{
    const uint32_t d = k->args->d;
    const uint32_t end = part->centroid + part->m;
    memset(k->sums + (size_t)part->centroid * d, 0, (size_t)part->m * d * sizeof *k->sums);
    memset(k->counts + part->centroid, 0, part->m * sizeof *k->counts);
    for (uint32_t i = part->row; i < part->row + part->n_rows; i++) {
        vector_add(k->sums + (size_t)k->label[i] * d, vector_at(k, i), 1.0f, d);
        k->counts[k->label[i]]++;
    }
    for (uint32_t c = part->centroid; c < end; c++) {
        float *sum = k->sums + (size_t)c * d;
        if (k->counts[c] == 0) continue;
        vector_add(sum, k->mean, -(float)k->counts[c], d);
        normalise(sum, d);
        memcpy(k->centroids + (size_t)c * d, sum, d * sizeof *sum);
    }
}

static void refine(const struct kmeans *k, const struct part *part, uint32_t n_rounds)
{
    for (uint32_t round = 0; round < n_rounds; round++) {
        assign(k, part);
        update(k, part);
    }
}

// Brings the vectors of each label together; counts[c] becomes where those of label c begin.
static void sort_by_label(const struct kmeans *k, uint32_t n_labels)
{
    const uint32_t n = k->args->n;
    uint32_t begin = 0;
    for (uint32_t c = 0; c < n_labels; c++) {
        const uint32_t count = k->counts[c];
        k->counts[c] = begin;
        begin += count;
    }
    for (uint32_t i = 0; i < n; i++) // all vectors in order so far: i is the vector
        k->order[k->counts[k->label[i]]++] = i;
    for (uint32_t c = n_labels; c > 0; c--)
        k->counts[c] = k->counts[c - 1];
    k->counts[0] = 0;
}

// Large clusters, then small ones inside each, as many as its share of the vectors asks for.
static void find_two_levels(const struct kmeans *k)
{
    enum { LARGE_MAX = 256 };
    const struct kmeans_args *a = k->args;
    const struct part all = {.n_rows = a->n, .m = (uint32_t)sqrtf((float)a->m)};
    uint32_t begin[LARGE_MAX + 1];
    choose_first(k, &all);
    refine(k, &all, (a->n_rounds + 1) / 2); // small ones will mend them
    sort_by_label(k, all.m);
    pack_vectors(k);
    memcpy(begin, k->counts, (all.m + 1) * sizeof *begin);
    for (uint32_t c = 0; c < all.m; c++) {
        const uint64_t first = (uint64_t)begin[c] * a->m / a->n;
        const uint64_t end = (uint64_t)begin[c + 1] * a->m / a->n;
        const struct part part = {.row = begin[c],
                                  .n_rows = begin[c + 1] - begin[c],
                                  .centroid = (uint32_t)first,
                                  .m = (uint32_t)(end - first)};
        if (part.m == 0) continue;
        choose_first(k, &part);
        refine(k, &part, a->n_rounds);
    }
}

void kmeans_run(const struct kmeans_args *args)
{
    struct kmeans k = {.args = args};
    const struct part all = {.n_rows = args->n, .m = args->m};
    if (args->n == 0) return; // nothing to label, and no mean
    lay_out(&k, args->kernels, args->n, args->d, args->m, args->scratch);
    for (uint32_t i = 0; i < args->n; i++)
        k.order[i] = i;
    find_mean(&k);
    pack_vectors(&k);
    if (args->m > ONE_LEVEL_MAX) {
        find_two_levels(&k);
    } else {
        choose_first(&k, &all);
        refine(&k, &all, args->n_rounds);
    }
    assign(&k, &all);
    for (uint32_t i = 0; i < args->n; i++)
        args->label[k.order[i]] = k.label[i];
}
