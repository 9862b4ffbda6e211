// Spherical k-means on centred vectors, in matrix products.
//
// x - mean is assigned to the centroid of unit length with the greatest inner product; a centroid
// becomes the mean of its members, centred and scaled to unit length. The first centroids are
// evenly spaced vectors. Products run in bf16: it decides between centroids that are nearly equally
// good, and nothing else.

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
};

struct kmeans {
    const struct kmeans_args *args;
    const struct matmul_kernel *kernel;
    size_t x_row_bytes;
    size_t panel_bytes;
    float *mean;      // [d]
    uint8_t *packed;  // [n] activations of x - mean
    uint8_t *panels;  // of the centroids
    float *centroids; // [m, d], of unit length
    uint16_t *rows;   // [panel_rows, d] bf16
    float *sums;      // [m, d]
    uint32_t *counts; // [m]
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
    k->packed = take(base, &used, n * k->x_row_bytes);
    k->panels = take(base, &used, (m + panel_rows - 1) / panel_rows * k->panel_bytes);
    k->centroids = take(base, &used, (size_t)m * d * f32);
    k->rows = take(base, &used, (size_t)panel_rows * d * sizeof(uint16_t));
    k->sums = take(base, &used, (size_t)m * d * f32);
    k->counts = take(base, &used, m * sizeof(uint32_t));
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

static void prepare(struct kmeans *k)
{
    const struct kmeans_args *a = k->args;
    float centred[D_MAX];
    memset(k->mean, 0, a->d * sizeof *k->mean);
    for (uint32_t i = 0; i < a->n; i++)
        vector_add(k->mean, a->x + (size_t)i * a->d, 1.0f, a->d);
    vector_scale(k->mean, 1.0f / (float)a->n, a->d);
    for (uint32_t i = 0; i < a->n; i++) {
        memcpy(centred, a->x + (size_t)i * a->d, a->d * sizeof *centred);
        vector_add(centred, k->mean, -1.0f, a->d);
        k->kernel->pack_x(k->packed + i * k->x_row_bytes, centred, a->d);
    }
    for (uint32_t c = 0; c < a->m; c++) {
        const size_t row = (size_t)((2 * (uint64_t)c + 1) * a->n / (2 * (uint64_t)a->m));
        float *centroid = k->centroids + (size_t)c * a->d;
        memcpy(centroid, a->x + row * a->d, a->d * sizeof *centroid);
        vector_add(centroid, k->mean, -1.0f, a->d);
        normalise(centroid, a->d);
    }
}

static void pack_centroids(const struct kmeans *k, const struct kmeans_args *a)
{
    const uint32_t panel_rows = k->kernel->panel_rows;
    for (uint32_t c = 0; c < a->m; c += panel_rows) {
        const uint32_t n_rows = a->m - c < panel_rows ? a->m - c : panel_rows;
        a->kernels->convert(TYPE, k->centroids + (size_t)c * a->d, k->rows, (size_t)n_rows * a->d);
        k->kernel->pack_panel(k->panels + c / panel_rows * k->panel_bytes, k->rows, n_rows, a->d);
    }
}

// The first of the greatest values.
static uint32_t find_greatest(const float *x, uint32_t n)
{
    float best[SUM_LANES];
    uint32_t i = 0;
    for (uint32_t j = 0; j < SUM_LANES; j++)
        best[j] = -INFINITY;
    for (; i + SUM_LANES <= n; i += SUM_LANES)
        for (uint32_t j = 0; j < SUM_LANES; j++)
            best[j] = x[i + j] > best[j] ? x[i + j] : best[j];
    for (; i < n; i++)
        best[0] = x[i] > best[0] ? x[i] : best[0];
    for (uint32_t j = 1; j < SUM_LANES; j++)
        best[0] = best[j] > best[0] ? best[j] : best[0];
    for (i = 0; i + 1 < n && x[i] != best[0]; i++) {
    }
    return i;
}

// Labels every vector.
static void assign(const struct kmeans *k)
{
    const struct kmeans_args *a = k->args;
    pack_centroids(k, a);
    for (uint32_t begin = 0; begin < a->n; begin += TILE_ROWS) {
        const uint32_t n_rows = a->n - begin < TILE_ROWS ? a->n - begin : TILE_ROWS;
        const struct matmul_args product = {
            .panels = k->panels,
            .n_rows = a->m,
            .n_cols = a->d,
            .n_tokens = n_rows,
            .x = k->packed + begin * k->x_row_bytes,
            .out = k->products,
            .out_stride = a->m,
        };
        k->kernel->run(&product);
        for (uint32_t i = 0; i < n_rows; i++)
            a->label[begin + i] = find_greatest(k->products + (size_t)i * a->m, a->m);
    }
}

// A cluster without members keeps its centroid.
static void update(const struct kmeans *k)
{
    const struct kmeans_args *a = k->args;
    memset(k->sums, 0, (size_t)a->m * a->d * sizeof *k->sums);
    memset(k->counts, 0, a->m * sizeof *k->counts);
    for (uint32_t i = 0; i < a->n; i++) {
        vector_add(k->sums + (size_t)a->label[i] * a->d, a->x + (size_t)i * a->d, 1.0f, a->d);
        k->counts[a->label[i]]++;
    }
    for (uint32_t c = 0; c < a->m; c++) {
        float *sum = k->sums + (size_t)c * a->d;
        if (k->counts[c] == 0) continue;
        vector_add(sum, k->mean, -(float)k->counts[c], a->d);
        normalise(sum, a->d);
        memcpy(k->centroids + (size_t)c * a->d, sum, a->d * sizeof *sum);
    }
}

void kmeans_run(const struct kmeans_args *args)
{
    struct kmeans k = {.args = args};
    lay_out(&k, args->kernels, args->n, args->d, args->m, args->scratch);
    prepare(&k);
    for (uint32_t round = 0; round < args->n_rounds; round++) {
        assign(&k);
        update(&k);
    }
    assign(&k);
}
