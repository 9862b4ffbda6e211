// mma.sync and ldmatrix by the fragment layouts of the PTX manual ("Matrix Fragments for
// mma.m16n8k16 with floating point type", "... mma.m16n8k32", "Warp-level matrix instructions:
// ldmatrix"). With group = lane / 4 and place = lane % 4, a register of n values holds
//     A: row group + 8 (register % 2), columns n place + n 4 (register / 2) and following
//     B: column group, rows n place + n 4 register and following
//     C: row group + 8 (register / 2), column 2 place + register % 2

#include <string.h>

#include "src/base/half.h"
#include "tests/emu/emu_kernel.h"

enum { M = 16, N = 8, K_MAX = 32 };

struct tiles {
    float a[M][K_MAX], b[K_MAX][N]; // of 8-bit integers too: they are exact
};

static float half_of(unsigned word, int i, bool is_bf16)
{
    uint16_t bits = (uint16_t)(word >> 16 * i);
    return is_bf16 ? bf16_to_float(bits) : half_to_float(bits);
}

static float byte_of(unsigned word, int i)
{
    return (int8_t)(uint8_t)(word >> 8 * i);
}

// Lays out what the lanes hold, n values to a register; `type`: 'b' bf16, 'f' f16, 's' int8.
static void gather(struct tiles *tiles, void *const *in, int n, char type)
{
    for (int lane = 0; lane < EMU_WARP; lane++) {
        const struct emu_mma *mma = in[lane];
        int group = lane / 4, place = lane % 4;
        for (int r = 0; r < 4; r++)
            for (int i = 0; i < n; i++)
                tiles->a[group + 8 * (r % 2)][n * place + n * 4 * (r / 2) + i] =
                    type == 's' ? byte_of(mma->a[r], i) : half_of(mma->a[r], i, type == 'b');
        for (int r = 0; r < 2; r++)
            for (int i = 0; i < n; i++)
                tiles->b[n * place + n * 4 * r + i][group] =
                    type == 's' ? byte_of(mma->b[r], i) : half_of(mma->b[r], i, type == 'b');
    }
}

static float dot(const struct tiles *tiles, int row, int column, int k_end)
{
    float sum = 0;
    for (int k = 0; k < k_end; k++)
        sum += tiles->a[row][k] * tiles->b[k][column];
    return sum;
}

static void multiply_halves(void *const *in, void *const *out, char type)
{
    struct tiles tiles;
    gather(&tiles, in, 2, type);
    for (int lane = 0; lane < EMU_WARP; lane++)
        for (int r = 0; r < 4; r++) {
            float c;
            memcpy(&c, &((const struct emu_mma *)in[lane])->c[r], sizeof c);
            c += dot(&tiles, lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2, 16);
            memcpy((unsigned *)out[lane] + r, &c, sizeof c);
        }
}

void emu_complete_mma_bf16(uint32_t mask, void *const *in, void *const *out)
{
    (void)mask;
    multiply_halves(in, out, 'b');
}

void emu_complete_mma_f16(uint32_t mask, void *const *in, void *const *out)
{
    (void)mask;
    multiply_halves(in, out, 'f');
}

void emu_complete_mma_s8(uint32_t mask, void *const *in, void *const *out)
{
    struct tiles tiles;
    (void)mask;
    gather(&tiles, in, 4, 's');
    for (int lane = 0; lane < EMU_WARP; lane++)
        for (int r = 0; r < 4; r++)
            ((unsigned *)out[lane])[r] =
                ((const struct emu_mma *)in[lane])->c[r] +
                (unsigned)(int)dot(&tiles, lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2, 32);
}

// Matrix m of 8x8 halves has its rows at the addresses of lanes 8m to 8m + 7; a lane gets, of each,
// row lane / 4, columns 2 (lane % 4) and the next.
void emu_complete_ldmatrix(uint32_t mask, void *const *in, void *const *out)
{
    (void)mask;
    for (int lane = 0; lane < EMU_WARP; lane++)
        for (int m = 0; m < 4; m++)
            memcpy((unsigned *)out[lane] + m,
                   (const char *)in[8 * m + lane / 4] + sizeof(unsigned) * (size_t)(lane % 4),
                   sizeof(unsigned));
}

// The same of the transposed matrices.
void emu_complete_ldmatrix_trans(uint32_t mask, void *const *in, void *const *out)
{
    (void)mask;
    for (int lane = 0; lane < EMU_WARP; lane++)
        for (int m = 0; m < 4; m++)
            for (int i = 0; i < 2; i++)
                memcpy((char *)((unsigned *)out[lane] + m) + 2 * i,
                       (const char *)in[8 * m + lane % 4 * 2 + i] + 2 * (size_t)(lane / 4), 2);
}
