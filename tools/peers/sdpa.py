#!/usr/bin/env python3
"""The speed of torch's attention on a GPU, in the shapes of `k_attend_cuda_on_device --bench`.

    python3 tools/peers/sdpa.py

scaled_dot_product_attention with its FLASH_ATTENTION backend, 8 KV heads of 128, group 4: one query at
131072 keys in f16, and 32768 tokens with a causal mask in bf16. Medians, as in that bench. Exits with
1, and says so in one line, where there is no torch, no GPU, or no such backend.
"""

import statistics
import sys
import time

try:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention
except ImportError as error:
    sys.exit(f"sdpa.py: no torch with torch.nn.attention (2.5 or later): {error}")

N_KV_HEADS, D, GROUP, DECODE_KEYS, PREFILL_TOKENS = 8, 128, 4, 131072, 32768
WARM_UPS, RUNS, CALLS = 3, 9, 20


def rows(n_heads, n_rows, dtype):
    return torch.randn(1, n_heads, n_rows, D, device="cuda", dtype=dtype)


def seconds(call, n_calls):
    """Median of a call, many in a row."""
    times = []
    for _ in range(WARM_UPS + RUNS):
        begin = time.perf_counter()
        for _ in range(n_calls):
            call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / n_calls)
    return statistics.median(times[WARM_UPS:])


def measure(n_tokens, n_keys, dtype, n_calls):
    q = rows(N_KV_HEADS * GROUP, n_tokens, dtype)
    k, v = (rows(N_KV_HEADS, n_keys, dtype) for _ in range(2))
    causal = n_tokens > 1
    with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return seconds(lambda: scaled_dot_product_attention(q, k, v, is_causal=causal,
                                                            enable_gqa=True), n_calls)


def main():
    if not torch.cuda.is_available():
        sys.exit("sdpa.py: torch finds no GPU")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    shape = f"{N_KV_HEADS} KV heads of {D}, group {GROUP}"
    decode = measure(1, DECODE_KEYS, torch.float16, CALLS)
    gb = 2e-9 * N_KV_HEADS * DECODE_KEYS * D * 2
    print(f"decode   f16  {DECODE_KEYS} keys, {shape}: {1e6 * decode:7.1f} us, "
          f"{gb / decode:7.1f} GB/s")
    prefill = measure(PREFILL_TOKENS, PREFILL_TOKENS, torch.bfloat16, 1)
    n_seen = 0.5 * PREFILL_TOKENS * (PREFILL_TOKENS + 1)
    print(f"prefill  bf16 {PREFILL_TOKENS} tokens, {shape}: {1e3 * prefill:7.2f} ms, "
          f"{1e-12 * 4 * D * n_seen * N_KV_HEADS * GROUP / prefill:6.1f} TFLOP/s")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, TypeError) as error:
        sys.exit(f"sdpa.py: {str(error).splitlines()[0]}")
