#!/usr/bin/env python3
"""Writes a GGUF model of random weights: the size and shape of a real one, without a download.

    synth_gguf.py OUT.gguf --shape llama-3.2-1b --type q4_k_m --seed 1
    synth_gguf.py OUT.gguf --arch qwen3 --layers 4 --d-model 512 --heads 8 --kv-heads 2 \\
        --head-dim 64 --ff 1024 --vocab 1000 --tied --type f16

For speed and for comparing programs: activations keep a sane size through all layers and logits
spread over a few units, so that distributions tell something. A tensor's values depend on the seed,
the shape and its name alone, so files of different types hold the same model, rounded differently.
Types that do not fit a row's length fall back as in llama.cpp; q4_k_m mixes types as llama.cpp's
recipe does. Python 3 and numpy; one tensor's rows are in memory at a time. --repeat-rows N writes
the first N rows of each tensor over and over: of no use but to measure speed, and done in seconds.
"""

import argparse
import math
import zlib

try:
    import numpy as np
except ModuleNotFoundError:
    raise SystemExit("synth_gguf.py: needs numpy (python3-numpy, for /usr/bin/python3)"
                     ) from None

import gguf_quant
import gguf_write

CHUNK_VALUES = 1 << 22

SHAPES = {
    "llama-3.2-1b": dict(arch="llama", layers=16, d_model=2048, heads=32, kv_heads=8, head_dim=64,
                         ff=8192, vocab=128256, tied=True, context=131072, rope_base=500000.0,
                         rope_factor=32.0),
    "llama-3.1-8b": dict(arch="llama", layers=32, d_model=4096, heads=32, kv_heads=8, head_dim=128,
                         ff=14336, vocab=128256, tied=False, context=131072, rope_base=500000.0,
                         rope_factor=8.0),
    "qwen2.5-7b": dict(arch="qwen2", layers=28, d_model=3584, heads=28, kv_heads=4, head_dim=128,
                       ff=18944, vocab=152064, tied=False, context=32768, rope_base=1000000.0),
    "qwen3-0.6b": dict(arch="qwen3", layers=28, d_model=1024, heads=16, kv_heads=8, head_dim=128,
                       ff=3072, vocab=151936, tied=True, context=40960, rope_base=1000000.0),
}

# general.file_type.
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9,
              "q4_k": 14, "q4_k_m": 15, "q5_k": 16, "q6_k": 18, "bf16": 32}

# Standard deviation of a position's logits, unless --logit-spread says otherwise. A unit scale:
# these files are there to find faults, and divergences of next-token distributions grow with its
# square while small. tools/peers/README.md tells what other values read, the trained models' 7.5.
LOGIT_SPREAD = 1.0
SCORE_SPREAD = 1.2  # gain of queries and of keys: attention scores spread over its square

DEFAULTS = dict(context=4096, rope_base=10000.0, rope_factor=0.0, tied=False,
                logit_spread=LOGIT_SPREAD)

SIZES = ("layers", "d_model", "heads", "kv_heads", "head_dim", "ff", "vocab")
NEEDED = ("arch", *SIZES)

N_SPECIAL = 3  # tokens after the bytes: begin, end, and " t", which the only merge makes


def flag_of(name):
    return "--" + name.replace("_", "-")


class Shape:
    """The options, and the tensors of the model that they describe."""

    def __init__(self, options):
        for name, value in options.items():
            setattr(self, name, value)
        self.check()
        self.q_dim = self.heads * self.head_dim
        self.kv_dim = self.kv_heads * self.head_dim

    def check(self):
        missing = [flag_of(name) for name in NEEDED if getattr(self, name) is None]
        if missing:
            raise SystemExit(f"missing without --shape: {', '.join(missing)}")
        for name in (*SIZES, "context"):
            if getattr(self, name) < 1:
                raise SystemExit(f"{flag_of(name)} must be 1 or more")
        if self.rope_base <= 1 or self.rope_factor < 0:
            raise SystemExit("--rope-base must be above 1, --rope-factor 0 or more")
        if self.heads % self.kv_heads != 0 or self.head_dim % 2 != 0:
            raise SystemExit("--heads must be a multiple of --kv-heads, --head-dim even")
        if self.vocab < 256 + N_SPECIAL:
            raise SystemExit(f"--vocab must be {256 + N_SPECIAL} or more")

    def write_gain(self):
        """Standard deviation, relative to the embedding's, of what all layers together add to the
        residual stream. With tied embeddings the input token's own row would dominate the logits
        by sqrt(d_model) deviations; with this gain by 4, which in a large vocabulary the best of
        the others reaches by chance."""
        return math.sqrt(self.d_model) / 4 if self.tied else 1.0

    def embedding_deviation(self):
        return self.logit_spread / math.sqrt(self.d_model) if self.tied else 1.0

    def tensors(self):
        """(name, rows, cols, standard deviation, mean), in file order; rows 0: a vector."""
        d = self.d_model
        write = self.embedding_deviation() * self.write_gain() / math.sqrt(2 * self.layers)
        score = 1.0 if self.arch == "qwen3" else SCORE_SPREAD
        yield "token_embd.weight", self.vocab, d, self.embedding_deviation(), 0
        if self.rope_factor > 0:
            yield "rope_freqs.weight", 0, self.head_dim // 2, 0, 0
        for layer in range(self.layers):
            block = f"blk.{layer}."
            yield block + "attn_norm.weight", 0, d, 0.1, 1
            yield block + "attn_q.weight", self.q_dim, d, score / math.sqrt(d), 0
            yield block + "attn_k.weight", self.kv_dim, d, score / math.sqrt(d), 0
            yield block + "attn_v.weight", self.kv_dim, d, 1 / math.sqrt(d), 0
            if self.arch == "qwen2":
                yield block + "attn_q.bias", 0, self.q_dim, 0.3, 0
                yield block + "attn_k.bias", 0, self.kv_dim, 0.3, 0
                yield block + "attn_v.bias", 0, self.kv_dim, 0.3, 0
            if self.arch == "qwen3":
                yield block + "attn_q_norm.weight", 0, self.head_dim, 0.1, SCORE_SPREAD
                yield block + "attn_k_norm.weight", 0, self.head_dim, 0.1, SCORE_SPREAD
            # Attention averages values, and a gate halves: both lose about half their spread.
            yield block + "attn_output.weight", d, self.q_dim, 2 * write / math.sqrt(self.q_dim), 0
            yield block + "ffn_norm.weight", 0, d, 0.1, 1
            yield block + "ffn_gate.weight", self.ff, d, 1 / math.sqrt(d), 0
            yield block + "ffn_up.weight", self.ff, d, 1 / math.sqrt(d), 0
            yield block + "ffn_down.weight", d, self.ff, 2 * write / math.sqrt(self.ff), 0
        yield "output_norm.weight", 0, d, 0.1, 1
        if not self.tied:
            yield "output.weight", self.vocab, d, self.logit_spread / math.sqrt(d), 0


def rope_divisors(shape):
    """Llama 3's: long wavelengths are stretched by the factor, short ones kept, with a ramp from
    8192 / 4 to 8192 / 1 tokens."""
    index = np.arange(0, shape.head_dim, 2) / shape.head_dim
    turns = 8192 * shape.rope_base ** -index / (2 * math.pi)  # in the original context
    ramp = np.clip((turns - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - ramp) / shape.rope_factor + ramp)).astype(np.float32)


def gets_more_bits(layer, n_layers):
    return (layer < n_layers // 8 or layer >= 7 * n_layers // 8
            or (layer - n_layers // 8) % 3 == 2)


def choose_type(shape, name, rows, cols, wanted):
    """Vectors stay f32; q4_k_m is a mixture; then whatever fits the row."""
    if rows == 0:
        return "f32"
    if wanted == "q4_k_m":
        last = "token_embd.weight" if shape.tied else "output.weight"
        wide = name == last or (name.endswith(("attn_v.weight", "ffn_down.weight"))
                                and gets_more_bits(int(name.split(".")[1]), shape.layers))
        wanted = "q6_k" if wide else "q4_k"
    return gguf_quant.fit_type(wanted, cols)


def byte_texts():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    texts = {byte: chr(byte) for byte in plain}
    others = [byte for byte in range(256) if byte not in texts]
    texts.update((byte, chr(256 + i)) for i, byte in enumerate(others))
    return [texts[byte] for byte in range(256)]


def add_vocabulary(writer, shape):
    tokens = byte_texts() + ["<|begin_of_text|>", "<|end_of_text|>", "\u0120t"]
    tokens += [f"\u0120w{i}" for i in range(len(tokens), shape.vocab)]
    kinds = [1] * shape.vocab  # normal
    kinds[256] = kinds[257] = 3  # control
    writer.add("tokenizer.ggml.model", gguf_write.STRING, "gpt2")
    pre = "llama-bpe" if shape.arch == "llama" else "qwen2"
    writer.add("tokenizer.ggml.pre", gguf_write.STRING, pre)
    writer.add_array("tokenizer.ggml.tokens", gguf_write.STRING, tokens)
    writer.add_array("tokenizer.ggml.token_type", gguf_write.I32, kinds)
    writer.add_array("tokenizer.ggml.merges", gguf_write.STRING, ["\u0120 t"])
    writer.add("tokenizer.ggml.bos_token_id", gguf_write.U32, 256)
    writer.add("tokenizer.ggml.eos_token_id", gguf_write.U32, 257)
    writer.add("tokenizer.ggml.add_bos_token", gguf_write.BOOL, shape.arch == "llama")


def add_metadata(writer, shape, name, wanted):
    arch = shape.arch
    numbers = {
        "context_length": shape.context,
        "embedding_length": shape.d_model,
        "block_count": shape.layers,
        "feed_forward_length": shape.ff,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "rope.dimension_count": shape.head_dim,
        "vocab_size": shape.vocab,
    }
    writer.add("general.architecture", gguf_write.STRING, arch)
    writer.add("general.name", gguf_write.STRING, name)
    writer.add("general.file_type", gguf_write.U32, FILE_TYPES[wanted])
    writer.add("general.quantization_version", gguf_write.U32, 2)
    for key, value in numbers.items():
        writer.add(f"{arch}.{key}", gguf_write.U32, value)
    epsilon = 1e-5 if arch == "llama" else 1e-6
    writer.add(f"{arch}.attention.layer_norm_rms_epsilon", gguf_write.F32, epsilon)
    writer.add(f"{arch}.rope.freq_base", gguf_write.F32, shape.rope_base)
    add_vocabulary(writer, shape)


def make_tensor(shape, seed, kind, name, rows, cols, deviation, mean):
    """Yields the encoded rows in pieces of about CHUNK_VALUES."""
    if name == "rope_freqs.weight":
        yield gguf_quant.encode_rows(kind, rope_divisors(shape)[None])
        return
    random = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    rows = max(rows, 1)
    step = max(CHUNK_VALUES // cols, 1)
    for row in range(0, rows, step):
        values = random.standard_normal((min(step, rows - row), cols), np.float32)
        values *= np.float32(deviation)
        values += np.float32(mean)
        yield gguf_quant.encode_rows(kind, values)


def repeat(pieces, n_bytes):
    """So many bytes of these pieces, over and over."""
    period = b"".join(pieces)
    for at in range(0, n_bytes, len(period)):
        yield period[:n_bytes - at]


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", help="the GGUF file to write")
    parser.add_argument("--shape", choices=SHAPES, help="sizes of a known model; below: changes to it")
    parser.add_argument("--type", choices=FILE_TYPES, default="f16",
                        help="of the matrices (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights (default: %(default)s)")
    parser.add_argument("--arch", choices=("llama", "qwen2", "qwen3"), help="architecture")
    for name, what in (("layers", "blocks"), ("d-model", "values of a token between blocks"),
                       ("heads", "query heads"), ("kv-heads", "heads of keys and values"),
                       ("head-dim", "values of a head"), ("ff", "values inside the feed-forward net"),
                       ("vocab", "tokens"), ("context", "context length in the metadata")):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=what)
    parser.add_argument("--tied", action=argparse.BooleanOptionalAction, default=None,
                        help="whether the output is the embedding's matrix")
    parser.add_argument("--rope-base", type=float, help="base of the rotations")
    parser.add_argument("--rope-factor", type=float, help="of Llama 3's rope_freqs; 0: none")
    parser.add_argument("--logit-spread", type=float, help="standard deviation of logits")
    parser.add_argument("--repeat-rows", type=int, default=0, metavar="N",
                        help="make only N rows of each matrix and repeat them: faster; 0: all differ")
    return parser.parse_args()


def main():
    args = parse_options()
    if args.seed < 0 or args.repeat_rows < 0:
        raise SystemExit("--seed and --repeat-rows must be 0 or more")
    options = {**dict.fromkeys(NEEDED), **DEFAULTS, **SHAPES.get(args.shape, {})}
    options.update((name, value) for name, value in vars(args).items()
                   if name in options and value is not None)
    shape = Shape(options)
    writer = gguf_write.Writer(args.out)
    add_metadata(writer, shape, f"synthetic {args.shape or shape.arch}", args.type)
    tensors = {}
    for name, rows, cols, deviation, mean in shape.tensors():
        kind = choose_type(shape, name, rows, cols, args.type)
        block = gguf_quant.TYPES[kind]
        n_bytes = max(rows, 1) * cols // block.block_values * block.block_bytes
        dims = [cols, rows] if rows > 0 else [cols]
        writer.add_tensor(name, block.gguf_id, dims, n_bytes)
        tensors[name] = (n_bytes, kind, rows, cols, deviation, mean)

    def read_tensor(name):
        n_bytes, kind, rows, *values = tensors[name]
        n_made = min(rows, args.repeat_rows) if args.repeat_rows > 0 else rows
        pieces = make_tensor(shape, args.seed, kind, name, n_made, *values)
        return pieces if n_made == rows else repeat(pieces, n_bytes)

    writer.write(read_tensor)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        raise SystemExit(f"{error.filename}: {error.strerror}")
