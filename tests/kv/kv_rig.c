// See kv_rig.h.

#include "tests/kv/kv_rig.h"

#include <string.h>

#include "src/base/mem.h"

struct fathom_engine_params rig_params(const struct rig_sizes *sizes)
{
    struct fathom_engine_params p;
    fathom_engine_params_init(&p);
    p.n_layers = sizes->n_layers;
    p.n_heads = sizes->n_heads;
    p.n_kv_heads = sizes->n_kv_heads;
    p.d_k = p.d_v = sizes->d;
    p.n_tokens_max = sizes->n_tokens;
    p.n_step_max = sizes->n_step;
    return p;
}

fathom_device *rig_device(void)
{
    struct fathom_device_params params;
    fathom_device *device;
    fathom_device_params_init(&params);
    params.n_threads = 2;
    check_ok(fathom_device_open(&params, &device));
    return device;
}

void rig_open(const struct fathom_engine_params *params, fathom_device **device,
              fathom_engine **engine)
{
    *device = rig_device();
    check_ok(fathom_engine_open(*device, params, engine));
}

void rig_open_least(fathom_device *device, struct fathom_engine_params *params, uint32_t part,
                    fathom_engine **engine)
{
    fathom_status status;
    while ((status = fathom_engine_open(device, params, engine)) == FATHOM_ENOMEM) {
        assert_non_null(strstr(fathom_last_error(), "--kv-ram"));
        params->kv.host_bytes += params->kv.host_bytes / part;
    }
    check_ok(status);
}

void rig_close(fathom_device **device, fathom_engine **engine)
{
    fathom_engine_close(engine);
    fathom_device_close(device);
}

struct fathom_kv_stats rig_stats(const fathom_engine *engine)
{
    struct fathom_kv_stats stats;
    fathom_kv_stats_init(&stats);
    check_ok(fathom_engine_stats(engine, &stats));
    return stats;
}

void rig_refuses(const struct fathom_engine_params *params, const char *word)
{
    fathom_device *device = rig_device();
    fathom_engine *engine = NULL;
    check_error(fathom_engine_open(device, params, &engine), FATHOM_EINVAL, word);
    assert_null(engine);
    fathom_device_close(&device);
}

void rig_fill(struct rng *rng, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = rng_normal(rng);
}

float *rig_values(struct rng *rng, size_t n)
{
    float *x;
    check_ok(mem_new(n, sizeof *x, "values", &x));
    rig_fill(rng, x, n);
    return x;
}
