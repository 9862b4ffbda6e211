#!/usr/bin/env python3
"""Converts a llama2.c checkpoint (version 0) and its tokenizer to a GGUF file.

    convert_llama2c.py stories15M.bin tokenizer.bin stories15M.gguf --type q8_0

llama2.c rotates neighbouring values, as GGUF's `llama` architecture does, so rows of the query and
key weights keep their order. Norms stay f32. Python 3 and numpy.
"""

import argparse
import re
import struct

try:
    import numpy as np
except ModuleNotFoundError:
    raise SystemExit("convert_llama2c.py: needs numpy (python3-numpy, for /usr/bin/python3)"
                     ) from None

import gguf_quant
import gguf_write

UNKNOWN, CONTROL, BYTE, NORMAL = 2, 3, 6, 1  # types of tokens
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}


class Checkpoint:
    """Seven int32, then float32 tensors in llama2.c's order. A negative vocabulary size says that
    the classifier has weights of its own, at the end."""

    def __init__(self, path):
        with open(path, "rb") as file:
            head = file.read(28)
        if len(head) != 28:
            raise SystemExit(f"{path}: too short for a llama2.c checkpoint")
        (self.d_model, self.d_ff, self.n_layers, self.n_heads, self.n_kv_heads, vocab,
         self.n_context) = struct.unpack("<7i", head)
        self.n_vocab = abs(vocab)
        sizes = (self.d_model, self.d_ff, self.n_layers, self.n_heads, self.n_kv_heads,
                 self.n_vocab, self.n_context)
        if min(sizes) < 1 or self.d_model % self.n_heads != 0 or self.n_heads % self.n_kv_heads:
            raise SystemExit(f"{path}: no llama2.c checkpoint of version 0: sizes {sizes}")
        self.d_head = self.d_model // self.n_heads
        self.data = np.memmap(path, "<f4", mode="r", offset=28)
        self.tensors = {}
        n_values = 0
        for name, n_layers, rows, cols in self.layout(tied=vocab > 0):
            n_values += n_layers * rows * cols
            if n_values > self.data.size:
                raise SystemExit(f"{path}: ends before {name.format(0)}")
            values = self.data[n_values - n_layers * rows * cols:n_values]
            for layer, matrix in enumerate(values.reshape(n_layers, rows, cols)):
                self.tensors[name.format(layer)] = matrix
        if n_values != self.data.size:
            raise SystemExit(f"{path}: {self.data.size} values instead of {n_values}")
        del self.tensors["rope tables"]

    def layout(self, tied):
        """(name, layers, rows, columns); norms have one row."""
        d, ff, kv, n = self.d_model, self.d_ff, self.n_kv_heads * self.d_head, self.n_layers
        yield "token_embd.weight", 1, self.n_vocab, d
        yield "blk.{}.attn_norm.weight", n, 1, d
        yield "blk.{}.attn_q.weight", n, d, d
        yield "blk.{}.attn_k.weight", n, kv, d
        yield "blk.{}.attn_v.weight", n, kv, d
        yield "blk.{}.attn_output.weight", n, d, d
        yield "blk.{}.ffn_norm.weight", n, 1, d
        yield "blk.{}.ffn_gate.weight", n, ff, d
        yield "blk.{}.ffn_down.weight", n, d, ff
        yield "blk.{}.ffn_up.weight", n, ff, d
        yield "output_norm.weight", 1, 1, d
        yield "rope tables", 1, self.n_context, self.d_head
        if not tied:
            yield "output.weight", 1, self.n_vocab, d


def read_tokens(path, n_tokens):
    """Texts, scores and types. Spaces are U+2581 in GGUF; the first three tokens are special."""
    with open(path, "rb") as file:
        data = file.read()
    tokens, scores, kinds = [b"<unk>", b"<s>", b"</s>"], [], [UNKNOWN, CONTROL, CONTROL]
    at = 4  # the longest token's length is not needed
    try:
        for token in range(n_tokens):
            score, n_bytes = struct.unpack_from("<fi", data, at)
            text = data[at + 8:at + 8 + n_bytes]
            at += 8 + n_bytes
            if n_bytes < 0 or at > len(data):
                raise struct.error("text")
            scores.append(score)
            if token > 2:
                tokens.append(text.replace(b" ", "\u2581".encode()))
                kinds.append(BYTE if re.fullmatch(rb"<0x[0-9A-F]{2}>", text) else NORMAL)
    except struct.error:
        raise SystemExit(f"{path}: ends in token {len(scores)} of {n_tokens}") from None
    return tokens, scores, kinds


def add_metadata(writer, model, kind):
    numbers = {
        "vocab_size": model.n_vocab,
        "context_length": model.n_context,
        "embedding_length": model.d_model,
        "block_count": model.n_layers,
        "feed_forward_length": model.d_ff,
        "attention.head_count": model.n_heads,
        "attention.head_count_kv": model.n_kv_heads,
        "rope.dimension_count": model.d_head,
    }
    writer.add("general.architecture", gguf_write.STRING, "llama")
    writer.add("general.name", gguf_write.STRING, "llama2.c")
    writer.add("general.file_type", gguf_write.U32, FILE_TYPES[kind])
    for key, value in numbers.items():
        writer.add(f"llama.{key}", gguf_write.U32, value)
    writer.add("llama.attention.layer_norm_rms_epsilon", gguf_write.F32, 1e-5)
    writer.add("llama.rope.freq_base", gguf_write.F32, 10000.0)


def add_vocabulary(writer, tokens, scores, kinds):
    writer.add("tokenizer.ggml.model", gguf_write.STRING, "llama")
    writer.add_array("tokenizer.ggml.tokens", gguf_write.STRING, tokens)
    writer.add_array("tokenizer.ggml.scores", gguf_write.F32, scores)
    writer.add_array("tokenizer.ggml.token_type", gguf_write.I32, kinds)
    for name, token in (("unknown", 0), ("bos", 1), ("eos", 2)):
        writer.add(f"tokenizer.ggml.{name}_token_id", gguf_write.U32, token)
    writer.add("tokenizer.ggml.add_bos_token", gguf_write.BOOL, True)
    writer.add("tokenizer.ggml.add_eos_token", gguf_write.BOOL, False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="a llama2.c model, format v0")
    parser.add_argument("tokenizer", help="its tokenizer")
    parser.add_argument("out", help="the GGUF file to write")
    parser.add_argument("--type", choices=FILE_TYPES, default="f16",
                        help="of the matrices (default: %(default)s)")
    args = parser.parse_args()
    model = Checkpoint(args.checkpoint)
    writer = gguf_write.Writer(args.out)
    add_metadata(writer, model, args.type)
    add_vocabulary(writer, *read_tokens(args.tokenizer, model.n_vocab))
    kinds = {}
    for name, matrix in model.tensors.items():
        rows, cols = matrix.shape
        is_norm = name.endswith("norm.weight")
        kinds[name] = "f32" if is_norm else gguf_quant.fit_type(args.type, cols)
        block = gguf_quant.TYPES[kinds[name]]
        n_bytes = matrix.size // block.block_values * block.block_bytes
        writer.add_tensor(name, block.gguf_id, [cols] if is_norm else [cols, rows], n_bytes)
    writer.write(lambda name: [gguf_quant.encode_rows(kinds[name], model.tensors[name])])


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        raise SystemExit(f"convert_llama2c.py: {error.filename}: {error.strerror}")
