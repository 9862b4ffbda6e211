// Rotary frequencies: linear, YaRN (Peng et al. 2023, section 3.4) and divisors (Llama 3,
// LongRoPE).
//
// All methods are constant factors on each pair's frequency and one factor on cos and sin, so they
// are folded once, when an engine opens, and the kernels know nothing of them. In double: at
// position 10^6 a float's angle is off by 0.06 radians.

#include "src/kv/rope.h"

#include <math.h>

#include "src/base/status.h"

static const double pi = 3.14159265358979323846;

// The pair whose wave turns `turns` times over the training context: YaRN's inverse of the
// wavelength.
static double pair_of_turns(const struct fathom_rope *rope, double turns)
{
    return rope->n_rot * log(rope->n_orig_tokens / (turns * 2.0 * pi)) /
           (2.0 * log((double)rope->base));
}

// Share of interpolation at a pair: 0 for fast pairs, 1 for slow ones, a ramp between.
static double yarn_ramp(const struct fathom_rope *rope, double pair)
{
    const double low = fmax(0.0, floor(pair_of_turns(rope, rope->beta_fast)));
    const double high = fmin(rope->n_rot - 1.0, ceil(pair_of_turns(rope, rope->beta_slow)));
    const double at = (pair - low) / fmax(0.001, high - low);
    return fmin(1.0, fmax(0.0, at));
}

void rope_frequencies(const struct fathom_rope *rope, double *frequencies, float *magnitude)
{
    const bool stretched =
        rope->scaling == FATHOM_ROPE_SCALING_LINEAR || rope->scaling == FATHOM_ROPE_SCALING_YARN;
    const double shrink = stretched ? 1.0 / rope->factor : 1.0;
    for (uint32_t i = 0; i < rope->n_rot / 2; i++) {
        double f = pow(rope->base, -2.0 * i / rope->n_rot);
        if (rope->divisors != NULL) f /= rope->divisors[i];
        double extrapolated = 0.0;
        if (rope->scaling == FATHOM_ROPE_SCALING_YARN)
            extrapolated = rope->ext_factor * (1.0 - yarn_ramp(rope, i));
        frequencies[i] = f * (extrapolated + (1.0 - extrapolated) * shrink);
    }
    *magnitude = rope->attn_factor;
    if (rope->scaling == FATHOM_ROPE_SCALING_YARN && rope->ext_factor != 0.0f)
        *magnitude *= 1.0f + 0.1f * logf(rope->factor);
}

fathom_status rope_check(const struct fathom_rope *rope, uint32_t d)
{
    if (rope->pairing < FATHOM_ROPE_NONE || rope->pairing > FATHOM_ROPE_HALVES)
        return status_set(FATHOM_EINVAL, "rope.pairing=%d: unknown", (int)rope->pairing);
    if (rope->pairing == FATHOM_ROPE_NONE) return FATHOM_OK;
    if (rope->scaling < FATHOM_ROPE_SCALING_NONE || rope->scaling > FATHOM_ROPE_SCALING_LONGROPE)
        return status_set(FATHOM_EINVAL, "rope.scaling=%d: unknown", (int)rope->scaling);
    if (rope->n_rot % 2 != 0 || rope->n_rot > d)
        return status_set(FATHOM_EINVAL,
                          "rope.n_rot=%u: must be even and at most %u, the head size", rope->n_rot,
                          d);
    if (!(rope->base > 1.0f) || !isfinite(rope->base))
        return status_set(FATHOM_EINVAL, "rope.base=%g: must be above 1", (double)rope->base);
    if (!(rope->factor >= 1.0f) || !isfinite(rope->factor))
        return status_set(FATHOM_EINVAL, "rope.factor=%g: must be 1 or more", (double)rope->factor);
    if (!(rope->attn_factor > 0.0f) || !isfinite(rope->attn_factor))
        return status_set(FATHOM_EINVAL, "rope.attn_factor=%g: must be above 0",
                          (double)rope->attn_factor);
    if (rope->scaling == FATHOM_ROPE_SCALING_YARN) {
        if (rope->n_orig_tokens == 0)
            return status_set(FATHOM_EINVAL, "rope.n_orig_tokens: yarn needs the trained context");
        if (!(rope->beta_slow > 0.0f) || !(rope->beta_fast >= rope->beta_slow))
            return status_set(FATHOM_EINVAL,
                              "rope.beta_fast=%g, beta_slow=%g: must be above 0, "
                              "the fast one not below the slow one",
                              (double)rope->beta_fast, (double)rope->beta_slow);
        if (!(rope->ext_factor >= 0.0f) || !(rope->ext_factor <= 1.0f))
            return status_set(FATHOM_EINVAL, "rope.ext_factor=%g: must be 0 to 1",
                              (double)rope->ext_factor);
    }
    if (rope->scaling == FATHOM_ROPE_SCALING_LONGROPE && rope->divisors == NULL)
        return status_set(FATHOM_EINVAL, "rope.divisors: longrope needs them");
    for (uint32_t i = 0; rope->divisors != NULL && i < rope->n_rot / 2; i++)
        if (!(rope->divisors[i] > 0.0f) || !isfinite(rope->divisors[i]))
            return status_set(FATHOM_EINVAL, "rope.divisors[%u]=%g: must be above 0", i,
                              (double)rope->divisors[i]);
    return FATHOM_OK;
}

void rope_table(const double *frequencies, float magnitude, uint32_t n_rot, uint32_t first,
                uint32_t n_tokens, float *cos_sin)
{
    for (uint32_t t = 0; t < n_tokens; t++) {
        for (uint32_t i = 0; i < n_rot / 2; i++) {
            const double angle = ((double)first + t) * frequencies[i];
            *cos_sin++ = (float)(cos(angle) * magnitude);
            *cos_sin++ = (float)(sin(angle) * magnitude);
        }
    }
}
