#!/usr/bin/env python3
"""Compares Fathom's dequantisation with the `gguf` package's, bit by bit, on random blocks.

    python3 -m venv peers && peers/bin/pip install gguf numpy
    meson setup build/peers && ninja -C build/peers tests/kernels/dump_dequant
    peers/bin/python tools/peers/dequant.py build/peers/tests/kernels/dump_dequant

Blocks are random bytes, with finite f16 scales and minima of all sizes put in place. Prints one line
for each type and exits with 1 if any value differs.
"""

import argparse
import subprocess
import sys

import numpy as np

try:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize
except ImportError:
    sys.exit("the gguf package is not installed: see the top of this file")

# Offsets in a block of what must be a finite f16; bf16 needs the same of itself.
HALVES = {
    "F16": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "BF16": [],
}
N_BLOCKS = 1 << 14


def random_halves(random, count):
    """Any finite f16: sign and exponent of all sizes, subnormals and zero included."""
    bits = random.integers(0, 0x7C00, count, np.uint16)
    return bits | (random.integers(0, 2, count, np.uint16) << 15)


def random_blocks(random, name):
    block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    blocks = random.integers(0, 256, (N_BLOCKS, block_bytes), np.uint8)
    for offset in HALVES[name]:
        halves = random_halves(random, N_BLOCKS)
        blocks[:, offset:offset + 2] = halves[:, None].view(np.uint8)
    if name == "BF16":
        blocks[(blocks[:, 1] & 0x7F) == 0x7F, 1] = 0x3F
    return blocks


def theirs(name, blocks):
    if name == "F16":
        return blocks.view(np.float16).astype(np.float32).ravel()
    return dequantize(blocks.reshape(1, -1), GGMLQuantizationType[name]).astype(np.float32).ravel()


def ours(program, name, blocks):
    n_values = N_BLOCKS * GGML_QUANT_SIZES[GGMLQuantizationType[name]][0]
    done = subprocess.run([program, name, str(n_values)], input=blocks.tobytes(), check=True,
                          stdout=subprocess.PIPE)
    return np.frombuffer(done.stdout, np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", help="dump_dequant of a build folder")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    n_bad = 0
    for name in HALVES:
        blocks = random_blocks(np.random.default_rng(args.seed), name)
        a, b = ours(args.program, name, blocks), theirs(name, blocks)
        differs = a.view(np.uint32) != b.view(np.uint32) if a.shape == b.shape else np.ones(1)
        n_bad += np.count_nonzero(differs)
        print(f"{name}: {b.size} values, {np.count_nonzero(differs)} differ, seed {args.seed}")
    sys.exit(1 if n_bad > 0 else 0)


if __name__ == "__main__":
    main()
