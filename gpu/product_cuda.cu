// Products of few tokens with packed weights of any type (gpu/product_rows.h).
//
//     kernel         block           bytes moved                  flops
//     pack_quants_x  8 groups of 32  6.5 a value of x             6 a value
//     pack_floats_x  256 values      8 a value of x               -
//     decode         8 warps         the weights; x is cached     2 a weight and token
//
// A warp has two rows, and each of its lanes every 32nd group of them. Lanes load 16 bytes each, of
// the next group before they multiply this one, and what they unpack meets all tokens. x comes in
// planes too: of quants 80 bytes a group and token, five times 16, which two rows share; it is
// small, is read by every warp, and stays in the first-level cache.
//
// The last steps are those of the emulated and of any device alike: products of bytes and their
// sums are exact, and floats are summed in a fixed order.

#include "gpu/product_cuda.h"

#include "gpu/product_rows.cuh"
#include "gpu/warp.cuh"

enum {
    ROWS = 2,         // of a warp
    GROUP_BYTES = 80, // of quantised activations: upper bytes, lower bytes, struct x_scale
    X_PLANES = 5,     // of 16 bytes of a group
    X_MAX = 127 << 7,
    LOWER_BITS = 7, // of an activation's lower half, which is -64 .. 63
};
static_assert(GROUP_BYTES == X_PLANES * 16 && GROUP_BYTES <= PRODUCT_QUANT_GROUP * sizeof(float),
              "packed activations are no larger than plain ones");

// ---- Activations --------------------------------------------------------------------------------

// Beside the bytes of a group: their scale, and the sums of the first and of the last 16 values.
struct alignas(16) x_scale {
    float scale;
    int sums[2];
    int unused;
};
static_assert(sizeof(x_scale) == 16, "one load");

static __device__ __forceinline__ int half_warp_sum(int x)
{
    for (int bit = GPU_WARP / 4; bit > 0; bit /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, bit);
    return x;
}

// A warp packs a group, each lane a value.
__global__ void __launch_bounds__(GPU_VALUE_THREADS)
    pack_quants_x_kernel(const float *x, unsigned char *packed, size_t n, size_t n_groups)
{
    const unsigned lane = threadIdx.x % GPU_WARP;
    for (size_t i = first_item() / GPU_WARP; i < n; i += item_stride() / GPU_WARP) {
        const size_t token = i / n_groups, group = i % n_groups;
        unsigned char *planes = packed + token * n_groups * GROUP_BYTES + group * 16;
        const float value = x[i * GPU_WARP + lane];
        const bool is_wild = __any_sync(0xffffffffu, !(fabsf(value) < INFINITY));
        const float max = warp_max(fabsf(value));
        const float inverse = max >= 1e-34f ? X_MAX / max : 0;
        const int q = is_wild ? 0 : static_cast<int>(rintf(value * inverse));
        const int upper = (q + (1 << (LOWER_BITS - 1))) >> LOWER_BITS;
        unsigned char *bytes = planes + lane / 16 * n_groups * 16 + lane % 16;
        bytes[0] = static_cast<unsigned char>(upper);
        bytes[2 * n_groups * 16] = static_cast<unsigned char>(q - upper * (1 << LOWER_BITS));
        const int sum = half_warp_sum(q), other = __shfl_xor_sync(0xffffffffu, sum, 16);
        const x_scale scale = {is_wild ? NAN : max / X_MAX, {sum, other}, 0};
        if (lane == 0) *reinterpret_cast<x_scale *>(planes + 4 * n_groups * 16) = scale;
    }
}

// Two planes: of each 8 values the first and the last four; zeros behind the last column.
__global__ void __launch_bounds__(GPU_VALUE_THREADS)
    pack_floats_x_kernel(const float *x, float *packed, size_t n, size_t n_groups, uint32_t n_cols)
{
    for (size_t i = first_item(); i < n; i += item_stride()) {
        const size_t token = i / (n_groups * 8), c = i % (n_groups * 8);
        const size_t plane = 2 * token + c % 8 / 4;
        packed[(plane * n_groups + c / 8) * 4 + c % 4] = c < n_cols ? x[token * n_cols + c] : 0;
    }
}

// ---- Products -----------------------------------------------------------------------------------

// The products of one type.
struct decode_job {
    product_layout layout;
    const unsigned char *x;
    uint32_t n_tokens;
    bool accumulate;
    uint32_t n_products;
    decode_product products[MATMUL_PRODUCTS_MAX];
    size_t item_ends[MATMUL_PRODUCTS_MAX]; // pairs of rows of product i end here
};

template <int32_t TYPE>
constexpr bool is_float = packed_form<TYPE>::n_bits == 0;

// A group of weights, unpacked; of floats or quants.
template <int32_t TYPE, bool FLOAT = is_float<TYPE>>
struct group_weights {
    float values[8];
    __device__ __forceinline__ group_weights(const group_bytes &raw, unsigned)
    {
        float_values<TYPE>(raw, values);
    }
};

template <int32_t TYPE>
struct group_weights<TYPE, false> {
    unsigned u[8];
    group_scales scales;
    __device__ __forceinline__ group_weights(const group_bytes &raw, unsigned group)
        : scales(scales_of<TYPE>(raw, group))
    {
        quant_words<TYPE>(raw, u);
    }
};

// The same group of a token's activations.
template <bool FLOAT>
struct group_x {
    float4 low, high;
    __device__ __forceinline__ group_x(const unsigned char *x, size_t n_groups, size_t group)
        : low(reinterpret_cast<const float4 *>(x)[group]),
          high(reinterpret_cast<const float4 *>(x)[n_groups + group])
    {
    }
};

template <>
struct group_x<false> {
    uint4 q[4]; // upper and lower bytes, the first and the last 16 of each
    x_scale scale;
    __device__ __forceinline__ group_x(const unsigned char *x, size_t n_groups, size_t group)
        : scale(reinterpret_cast<const x_scale *>(x)[4 * n_groups + group])
    {
#pragma unroll
        for (int plane = 0; plane < 4; plane++)
            q[plane] = reinterpret_cast<const uint4 *>(x)[plane * n_groups + group];
    }
};

template <int32_t TYPE>
static __device__ __forceinline__ float add_products(float sum, const group_weights<TYPE, true> &w,
                                                     const group_x<true> &x)
{
    const float values[8] = {x.low.x,  x.low.y,  x.low.z,  x.low.w,
                             x.high.x, x.high.y, x.high.z, x.high.w};
#pragma unroll
    for (int i = 0; i < 8; i++)
        sum = fmaf(w.values[i], values[i], sum);
    return sum;
}

// Of 16 weights and as many bytes of x.
static __device__ __forceinline__ int dot_bytes(const unsigned *u, const uint4 &q)
{
    int dot = __dp4a(static_cast<int>(u[0]), static_cast<int>(q.x), 0);
    dot = __dp4a(static_cast<int>(u[1]), static_cast<int>(q.y), dot);
    dot = __dp4a(static_cast<int>(u[2]), static_cast<int>(q.z), dot);
    return __dp4a(static_cast<int>(u[3]), static_cast<int>(q.w), dot);
}

// Dots of u - zero and x are below 32 * 128 * 127 * 128 < 2^27.
template <int32_t TYPE>
static __device__ __forceinline__ float add_products(float sum, const group_weights<TYPE, false> &w,
                                                     const group_x<false> &x)
{
    using form = packed_form<TYPE>;
    int dots[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
        dots[half] = dot_bytes(w.u + 4 * half, x.q[half]) * (1 << LOWER_BITS) +
                     dot_bytes(w.u + 4 * half, x.q[2 + half]) - form::zero * x.scale.sums[half];
    const float *scale = w.scales.scale;
    if constexpr (form::sub_bytes == 2) {
        sum = fmaf(static_cast<float>(dots[0]), scale[0] * x.scale.scale, sum);
        return fmaf(static_cast<float>(dots[1]), scale[1] * x.scale.scale, sum);
    }
    sum = fmaf(static_cast<float>(dots[0] + dots[1]), scale[0] * x.scale.scale, sum);
    if constexpr (!form::has_min) return sum;
    const float x_sum = x.scale.scale * static_cast<float>(x.scale.sums[0] + x.scale.sums[1]);
    return fmaf(w.scales.offset, x_sum, sum);
}

// This lane's share of the products of the rows with the tokens.
template <int32_t TYPE, int TOKENS>
static __device__ __forceinline__ void sum_groups(const decode_job &job,
                                                  const unsigned char *const (&rows)[ROWS],
                                                  unsigned lane, float (&sums)[ROWS][TOKENS])
{
    const size_t n_groups = job.layout.n_groups;
    const size_t x_bytes = n_groups * (is_float<TYPE> ? 32 : GROUP_BYTES);
    group_bytes next[ROWS] = {};
#pragma unroll
    for (unsigned r = 0; r < ROWS; r++)
        if (lane < n_groups) next[r] = load_group<TYPE>(rows[r], job.layout, lane);
    for (size_t group = lane; group < n_groups; group += GPU_WARP) {
        const unsigned number = static_cast<unsigned>(group);
        const group_weights<TYPE> w[ROWS] = {{next[0], number}, {next[1], number}};
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++)
            if (group + GPU_WARP < n_groups)
                next[r] = load_group<TYPE>(rows[r], job.layout, group + GPU_WARP);
#pragma unroll
        for (unsigned t = 0; t < TOKENS; t++) {
            if (t >= job.n_tokens) break;
            const group_x<is_float<TYPE>> x(job.x + t * x_bytes, n_groups, group);
#pragma unroll
            for (unsigned r = 0; r < ROWS; r++)
                sums[r][t] = add_products<TYPE>(sums[r][t], w[r], x);
        }
    }
}

template <int32_t TYPE, int TOKENS>
__global__ void __launch_bounds__(GPU_VALUE_THREADS) decode_kernel(decode_job job)
{
    const unsigned lane = threadIdx.x % GPU_WARP;
    const size_t n_items = job.item_ends[job.n_products - 1];
    for (size_t item = first_item() / GPU_WARP; item < n_items; item += item_stride() / GPU_WARP) {
        uint32_t p = 0;
        while (item >= job.item_ends[p])
            p++;
        const size_t first_row = (item - (p > 0 ? job.item_ends[p - 1] : 0)) * ROWS;
        const uint32_t n_rows = job.products[p].n_rows;
        const unsigned char *rows[ROWS];
#pragma unroll
        for (unsigned r = 0; r < ROWS; r++) { // the last row twice, where their number is odd
            const size_t row = first_row + r < n_rows ? first_row + r : n_rows - 1;
            rows[r] = static_cast<const unsigned char *>(job.products[p].weight) +
                      row * job.layout.row_bytes;
        }
        float sums[ROWS][TOKENS] = {}, mine = 0;
        sum_groups<TYPE, TOKENS>(job, rows, lane, sums);
        // Lane r * TOKENS + t keeps the value of row r and token t.
#pragma unroll
        for (unsigned i = 0; i < ROWS * TOKENS; i++) {
            if (i % TOKENS >= job.n_tokens) continue;
            const float sum = warp_sum(sums[i / TOKENS][i % TOKENS]);
            if (lane == i) mine = sum;
        }
        const size_t row = first_row + lane / TOKENS, token = lane % TOKENS;
        if (lane >= ROWS * TOKENS || row >= n_rows || token >= job.n_tokens) continue;
        float *out = job.products[p].out + token * n_rows + row;
        if (job.products[p].bias != NULL) mine += job.products[p].bias[row];
        *out = job.accumulate ? *out + mine : mine;
    }
}

// ---- Launching ----------------------------------------------------------------------------------

size_t product_scratch_bytes(uint32_t n_tokens, uint32_t n_cols)
{
    const size_t groups = ((size_t)n_cols + PRODUCT_FLOAT_GROUP - 1) / PRODUCT_FLOAT_GROUP;
    return n_tokens * groups * PRODUCT_FLOAT_GROUP * sizeof(float);
}

static cudaError_t pack_x(const decode_args &args, const product_layout &layout,
                          cudaStream_t stream)
{
    const size_t n = args.n_tokens * layout.n_groups;
    unsigned char *packed = static_cast<unsigned char *>(args.scratch);
    if (layout.group_values == PRODUCT_QUANT_GROUP)
        return LAUNCH(pack_quants_x_kernel, gpu_grid_warps(n), stream, args.x, packed, n,
                      layout.n_groups);
    const size_t n_values = n * PRODUCT_FLOAT_GROUP;
    return LAUNCH(pack_floats_x_kernel, gpu_grid_values(n_values), stream, args.x,
                  static_cast<float *>(args.scratch), n_values, layout.n_groups, args.n_cols);
}

template <int32_t TYPE>
static cudaError_t launch_decode(const decode_job &job, cudaStream_t stream)
{
    const gpu_grid grid = gpu_grid_warps(job.item_ends[job.n_products - 1]);
    if (job.n_tokens == 1) return LAUNCH((decode_kernel<TYPE, 1>), grid, stream, job);
    return LAUNCH((decode_kernel<TYPE, PRODUCT_TOKENS_MAX>), grid, stream, job);
}

static cudaError_t launch_type(int32_t type, const decode_job &job, cudaStream_t stream)
{
#define LAUNCH_TYPE(name, ...)                                                                     \
    case FATHOM_TYPE_##name:                                                                       \
        return launch_decode<FATHOM_TYPE_##name>(job, stream);
    switch (type) {
        PRODUCT_FORMS(LAUNCH_TYPE)
    default:
        return cudaErrorInvalidValue;
    }
#undef LAUNCH_TYPE
}

// All products of the type.
static decode_job job_of(const decode_args &args, int32_t type)
{
    decode_job job = {};
    job.layout = product_layout_of(type, args.n_cols);
    job.x = static_cast<const unsigned char *>(args.scratch);
    job.n_tokens = args.n_tokens;
    job.accumulate = args.accumulate;
    size_t n_items = 0;
    for (uint32_t i = 0; i < args.n_products; i++) {
        const decode_product &product = args.products[i];
        if (product.type != type || product.n_rows == 0) continue;
        n_items += ((size_t)product.n_rows + ROWS - 1) / ROWS;
        job.products[job.n_products] = product;
        job.item_ends[job.n_products++] = n_items;
    }
    return job;
}

static bool is_first_of_type(const decode_args &args, uint32_t product)
{
    for (uint32_t i = 0; i < product; i++)
        if (args.products[i].type == args.products[product].type) return false;
    return true;
}

static bool are_valid(const decode_args &args)
{
    if (args.n_tokens == 0 || args.n_tokens > PRODUCT_TOKENS_MAX) return false;
    if (args.n_products == 0 || args.n_products > MATMUL_PRODUCTS_MAX) return false;
    for (uint32_t i = 0; i < args.n_products; i++)
        if (product_layout_of(args.products[i].type, args.n_cols).row_bytes == 0) return false;
    return true;
}

cudaError_t product_decode_cuda(const struct decode_args *args, cudaStream_t stream)
{
    uint32_t packed_group = 0; // what the activations were packed for
    if (!are_valid(*args)) return cudaErrorInvalidValue;
    for (uint32_t i = 0; i < args->n_products; i++) {
        const int32_t type = args->products[i].type;
        const decode_job job = job_of(*args, type);
        cudaError_t error = cudaSuccess;
        if (!is_first_of_type(*args, i) || job.n_products == 0) continue;
        if (packed_group != job.layout.group_values) error = pack_x(*args, job.layout, stream);
        packed_group = job.layout.group_values;
        if (error == cudaSuccess) error = launch_type(type, job, stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
