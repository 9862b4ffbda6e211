// KL divergence from a base model. The formulas and names are those that llama.cpp made customary;
// all sums here are in double.

#include "tools/divergence.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "tools/block.h"
#include "tools/output.h"
#include "tools/say.h"
#include "tools/stats.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "files of logits are written as they lie in memory");

#define SPAN 16.0f // natural units below the likeliest token that a row can express

enum { HEADER_ITEMS = 4, QUANTUM_MAX = 65535 }; // uint16 places before the values of a row

static const char magic[8] = {'_', 'l', 'o', 'g', 'i', 't', 's', '_'};

static size_t row_items(const struct divergence_base *base)
{
    return HEADER_ITEMS + (base->n_vocab + 1) / 2 * 2;
}

static int write_all(struct divergence_base *base, const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, base->file) == bytes) return EXIT_GOOD;
    return say_error("cannot write %s: %s", base->path, strerror(errno));
}

static int read_all(struct divergence_base *base, void *data, size_t bytes)
{
    if (fread(data, 1, bytes, base->file) == bytes) return EXIT_GOOD;
    return say_error("%s: ends too early, or cannot be read", base->path);
}

int divergence_create(struct divergence_base *base, const char *path, uint32_t n_ctx,
                      uint32_t n_vocab, uint32_t n_chunks, const int32_t *ids)
{
    *base = (struct divergence_base){
        .path = path, .n_ctx = n_ctx, .n_vocab = n_vocab, .n_chunks = n_chunks};
    base->file = fopen(path, "wb");
    base->is_new = true;
    if (base->file == NULL) return say_error("cannot create %s: %s", path, strerror(errno));
    base->row = block_new(row_items(base), sizeof *base->row);
    if (base->row == NULL) return EXIT_BAD;
    const uint32_t counts[] = {n_ctx, n_vocab, n_chunks};
    SAY_TRY(write_all(base, magic, sizeof magic));
    SAY_TRY(write_all(base, counts, sizeof counts));
    return write_all(base, ids, (size_t)n_chunks * n_ctx * sizeof *ids);
}

static int check_ids(const struct divergence_base *base)
{
    for (size_t i = 0; i < base->ids.n; i++)
        if (base->ids.data[i] < 0 || base->ids.data[i] >= (int64_t)base->n_vocab)
            return say_error("%s: token %zu is outside its vocabulary", base->path, i);
    return EXIT_GOOD;
}

// Refuses counts that the file is too short for, before memory is asked for them. Looks at the ids
// and one row; a missing row is found when it is read.
static int check_length(struct divergence_base *base)
{
    off_t here = ftello(base->file);
    off_t end = fseeko(base->file, 0, SEEK_END) == 0 ? ftello(base->file) : -1;
    if (here < 0 || end < here || fseeko(base->file, here, SEEK_SET) != 0)
        return say_error("cannot seek in %s: %s", base->path, strerror(errno));
    uint64_t rest = (uint64_t)(end - here);
    uint64_t n_ids = (uint64_t)base->n_ctx * base->n_chunks;
    if (n_ids > rest / sizeof(int32_t) || row_items(base) * sizeof(uint16_t) > rest)
        return say_error("%s: too short for %u chunks of %u tokens", base->path, base->n_chunks,
                         base->n_ctx);
    return EXIT_GOOD;
}

int divergence_open(struct divergence_base *base, const char *path)
{
    *base = (struct divergence_base){.path = path};
    base->file = fopen(path, "rb");
    if (base->file == NULL) return say_error("cannot open %s: %s", path, strerror(errno));
    char found[sizeof magic];
    uint32_t counts[3];
    SAY_TRY(read_all(base, found, sizeof found));
    if (memcmp(found, magic, sizeof magic) != 0)
        return say_error("%s: not a file of --kl-divergence-base", path);
    SAY_TRY(read_all(base, counts, sizeof counts));
    base->n_ctx = counts[0];
    base->n_vocab = counts[1];
    base->n_chunks = counts[2];
    if (base->n_ctx < 4 || base->n_vocab == 0 || base->n_vocab > INT32_MAX || base->n_chunks == 0)
        return say_error("%s: counts are damaged (context %u, vocabulary %u, chunks %u)", path,
                         base->n_ctx, base->n_vocab, base->n_chunks);
    size_t n_ids = (size_t)base->n_ctx * base->n_chunks;
    SAY_TRY(check_length(base));
    SAY_TRY(block_grow(&base->ids.data, &base->ids.capacity, n_ids, sizeof *base->ids.data));
    SAY_TRY(read_all(base, base->ids.data, n_ids * sizeof *base->ids.data));
    base->ids.n = n_ids;
    SAY_TRY(check_ids(base));
    base->row = block_new(row_items(base), sizeof *base->row);
    return base->row != NULL ? EXIT_GOOD : EXIT_BAD;
}

double divergence_log_sum(const float *logits, uint32_t n, uint32_t *top)
{
    *top = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[*top]) *top = i;
    double sum = 1; // the largest's own share
    for (uint32_t i = 0; i < n; i++)
        if (i != *top) sum += exp((double)logits[i] - (double)logits[*top]);
    return (double)logits[*top] + log(sum);
}

int divergence_write(struct divergence_base *base, const float *logits)
{
    uint32_t top;
    double log_sum = divergence_log_sum(logits, base->n_vocab, &top);
    float least = logits[top];
    for (uint32_t i = 0; i < base->n_vocab; i++)
        if (logits[i] < least) least = logits[i];
    if (least < logits[top] - SPAN) least = logits[top] - SPAN;
    float scale = (logits[top] - least) / QUANTUM_MAX;
    float least_log_p = (float)((double)least - log_sum);
    memset(base->row, 0, row_items(base) * sizeof *base->row);
    memcpy(base->row, &scale, sizeof scale);
    memcpy(base->row + 2, &least_log_p, sizeof least_log_p);
    for (uint32_t i = 0; i < base->n_vocab && scale > 0; i++)
        if (logits[i] > least)
            base->row[HEADER_ITEMS + i] = (uint16_t)lroundf((logits[i] - least) / scale);
    return write_all(base, base->row, row_items(base) * sizeof *base->row);
}

int divergence_read(struct divergence_base *base)
{
    return read_all(base, base->row, row_items(base) * sizeof *base->row);
}

int divergence_close(struct divergence_base *base, bool keep)
{
    int code = EXIT_GOOD;
    if (base->file != NULL && fclose(base->file) != 0)
        code = say_error("cannot write %s: %s", base->path, strerror(errno));
    if (base->file != NULL && base->is_new && !(keep && code == EXIT_GOOD))
        output_remove(base->path);
    block_free(base->row);
    ids_free(&base->ids);
    *base = (struct divergence_base){0};
    return code;
}

int divergence_sums_init(struct divergence_sums *sums, size_t n_max)
{
    *sums = (struct divergence_sums){0};
    sums->kld = block_new(n_max, sizeof *sums->kld);
    sums->p_diff = block_new(n_max, sizeof *sums->p_diff);
    return sums->kld != NULL && sums->p_diff != NULL ? EXIT_GOOD : EXIT_BAD;
}

void divergence_sums_free(struct divergence_sums *sums)
{
    block_free(sums->kld);
    block_free(sums->p_diff);
    *sums = (struct divergence_sums){0};
}

void divergence_add(struct divergence_sums *sums, const struct divergence_base *base,
                    const float *logits, int32_t id)
{
    float scale, least;
    memcpy(&scale, base->row, sizeof scale);
    memcpy(&least, base->row + 2, sizeof least);
    const uint16_t *quanta = base->row + HEADER_ITEMS;
    uint32_t top;
    double log_sum = divergence_log_sum(logits, base->n_vocab, &top);
    double kld = 0;
    uint32_t top_base = 0;
    for (uint32_t i = 0; i < base->n_vocab; i++) {
        if (quanta[i] > quanta[top_base]) top_base = i;
        double log_p_base = (double)scale * quanta[i] + (double)least;
        // Less likely tokens are at the floor of the row, where their probability is not known.
        if (log_p_base > -(double)SPAN)
            kld += exp(log_p_base) * (log_p_base - ((double)logits[i] - log_sum));
    }
    double nll = log_sum - (double)logits[id];
    double nll_base = -((double)scale * quanta[id] + (double)least);
    double p_diff = exp(-nll) - exp(-nll_base);
    sums->kld[sums->n] = kld;
    sums->p_diff[sums->n] = p_diff;
    sums->n++;
    sums->nll += nll;
    sums->nll_2 += nll * nll;
    sums->nll_base += nll_base;
    sums->nll_base_2 += nll_base * nll_base;
    sums->nll_nll_base += nll * nll_base;
    sums->p_diff_4 += p_diff * p_diff * p_diff * p_diff;
    sums->n_same_top += top == top_base;
}

// A mean and its standard error.
struct estimate {
    double mean;
    double error;
};

static struct estimate estimate(double sum, double sum_2, size_t n)
{
    struct estimate out = {sum / (double)n, 0};
    double variance = sum_2 / (double)n - out.mean * out.mean;
    if (variance > 0 && n > 10) out.error = sqrt(variance / (double)(n - 1));
    return out;
}

struct summary {
    struct estimate log_ppl, log_ppl_base, log_ratio, kld, p_diff, p_diff_rms, same_top;
    double covariance;
};

static struct summary summarize(const struct divergence_sums *sums)
{
    size_t n = sums->n;
    double kld = 0, kld_2 = 0, p_diff = 0, p_diff_2 = 0;
    for (size_t i = 0; i < n; i++) {
        kld += sums->kld[i];
        kld_2 += sums->kld[i] * sums->kld[i];
        p_diff += sums->p_diff[i];
        p_diff_2 += sums->p_diff[i] * sums->p_diff[i];
    }
    struct summary out = {
        .log_ppl = estimate(sums->nll, sums->nll_2, n),
        .log_ppl_base = estimate(sums->nll_base, sums->nll_base_2, n),
        .kld = estimate(kld, kld_2, n),
        .p_diff = estimate(p_diff, p_diff_2, n),
    };
    double a = out.log_ppl.mean, b = out.log_ppl_base.mean;
    if (n > 10) out.covariance = (sums->nll_nll_base / (double)n - a * b) / (double)(n - 1);
    double variance = out.log_ppl.error * out.log_ppl.error +
                      out.log_ppl_base.error * out.log_ppl_base.error - 2 * out.covariance;
    out.log_ratio = (struct estimate){a - b, variance > 0 ? sqrt(variance) : 0};
    struct estimate square = estimate(p_diff_2, sums->p_diff_4, n);
    double rms = sqrt(square.mean);
    out.p_diff_rms = (struct estimate){rms, rms > 0 ? 0.5 / rms * square.error : 0};
    double same = (double)sums->n_same_top / (double)n;
    out.same_top = (struct estimate){same, n > 1 ? sqrt(same * (1 - same) / (double)(n - 1)) : 0};
    return out;
}

void divergence_print_chunk(const struct divergence_sums *sums, uint32_t chunk)
{
    struct summary s = summarize(sums);
    if (chunk == 1)
        printf("chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence"
               "              Δp RMS            Same top p\n");
    double ppl = exp(s.log_ppl.mean);
    printf("%4u    %9.4f ± %9.4f    %10.5f ± %10.5f    %10.5f ± %10.5f", chunk, ppl,
           ppl * s.log_ppl.error, s.log_ratio.mean, s.log_ratio.error, s.kld.mean, s.kld.error);
    printf("    %6.3f ± %6.3f %%    %6.3f ± %6.3f %%\n", 100 * s.p_diff_rms.mean,
           100 * s.p_diff_rms.error, 100 * s.same_top.mean, 100 * s.same_top.error);
}

static void print_perplexity(const struct summary *s)
{
    double ppl = exp(s->log_ppl.mean), error = ppl * s->log_ppl.error;
    double ppl_base = exp(s->log_ppl_base.mean), error_base = ppl_base * s->log_ppl_base.error;
    double errors = s->log_ppl.error * s->log_ppl_base.error;
    double ratio = exp(s->log_ratio.mean);
    double variance = error * error + error_base * error_base - 2 * ppl * ppl_base * s->covariance;
    printf("\n====== Perplexity statistics ======\n");
    printf("Mean PPL(Q)                   : %10.6f ± %10.6f\n", ppl, error);
    printf("Mean PPL(base)                : %10.6f ± %10.6f\n", ppl_base, error_base);
    printf("Cor(ln(PPL(Q)), ln(PPL(base))): %6.2f%%\n",
           errors > 0 ? 100 * s->covariance / errors : 0);
    printf("Mean ln(PPL(Q)/PPL(base))     : %10.6f ± %10.6f\n", s->log_ratio.mean,
           s->log_ratio.error);
    printf("Mean PPL(Q)/PPL(base)         : %10.6f ± %10.6f\n", ratio, ratio * s->log_ratio.error);
    printf("Mean PPL(Q)-PPL(base)         : %10.6f ± %10.6f\n", ppl - ppl_base,
           variance > 0 ? sqrt(variance) : 0);
}

// One line for each of the quantiles, largest first. value: "KLD" or "Δp".
static void print_quantiles(const double *sorted, size_t n, const char *value, bool percent)
{
    static const struct {
        const char *label;
        double fraction;
        bool both; // else of Δp alone
    } rows[] = {
        {"Maximum", 1, true},    {"99.9%  ", 0.999, true}, {"99.0%  ", 0.99, true},
        {"95.0%  ", 0.95, true}, {"90.0%  ", 0.9, true},   {"75.0%  ", 0.75, false},
        {"Median ", 0.5, true},  {"25.0%  ", 0.25, false}, {"10.0%  ", 0.1, true},
        {" 5.0%  ", 0.05, true}, {" 1.0%  ", 0.01, true},  {" 0.1%  ", 0.001, true},
        {"Minimum", 0, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double x = stats_quantile(sorted, n, rows[i].fraction);
        if (percent)
            printf("%s %s: %6.3f%%\n", rows[i].label, value, 100 * x);
        else if (rows[i].both)
            printf("%s %s: %10.6f\n", rows[i].label, value, x);
    }
}

void divergence_print(struct divergence_sums *sums)
{
    struct summary s = summarize(sums);
    stats_sort(sums->kld, sums->n);
    stats_sort(sums->p_diff, sums->n);
    print_perplexity(&s);
    printf("\n====== KL divergence statistics ======\n");
    printf("Mean    KLD: %10.6f ± %10.6f\n", s.kld.mean, s.kld.error);
    print_quantiles(sums->kld, sums->n, "KLD", false);
    printf("\n====== Token probability statistics ======\n");
    printf("Mean    Δp: %6.3f ± %5.3f %%\n", 100 * s.p_diff.mean, 100 * s.p_diff.error);
    print_quantiles(sums->p_diff, sums->n, "Δp", true);
    printf("RMS Δp    : %6.3f ± %5.3f %%\n", 100 * s.p_diff_rms.mean, 100 * s.p_diff_rms.error);
    printf("Same top p: %6.3f ± %5.3f %%\n", 100 * s.same_top.mean, 100 * s.same_top.error);
}
