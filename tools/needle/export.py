"""Writes the needle model as GGUF: matrices in F16, norms in F32, a vocabulary of bytes.

For train.py. A Llama as others: values that rotate together are neighbours, as in GGUF.
"""

import os
import sys

import numpy as np

sys.path.insert(1, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import gguf_quant
import gguf_write
from shapes import EPSILON
from synth_gguf import byte_texts

CONTEXT = 131072
BEGIN, END = 256, 257
NORMAL, CONTROL = 1, 3  # types of tokens
F16_FILE = 1
PARTS = {"mix": "attn_output", "down": "ffn_down", "attn_norm": "attn_norm",
         "ffn_norm": "ffn_norm"}
WHOLE = {"embed": "token_embd", "output": "output", "output_norm": "output_norm"}


def split_weights(shape, weights):
    """name in GGUF -> array; matrices that training keeps as one are cut."""
    n_q, n_kv = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
    tensors = {}
    for name, values in weights.items():
        layer, _, part = name.rpartition(".")
        if name in WHOLE:
            tensors[f"{WHOLE[name]}.weight"] = values
        elif part == "qkv":
            pieces = np.split(values, (n_q, n_q + n_kv))
            tensors.update((f"blk.{layer}.attn_{letter}.weight", piece)
                           for letter, piece in zip("qkv", pieces))
        elif part == "gate_up":
            pieces = np.split(values, 2)
            tensors.update((f"blk.{layer}.ffn_{word}.weight", piece)
                           for word, piece in zip(("gate", "up"), pieces))
        else:
            tensors[f"blk.{layer}.{PARTS[part]}.weight"] = values
    return tensors


def add_metadata(writer, name, shape):
    numbers = {
        "vocab_size": END + 1,
        "context_length": CONTEXT,
        "embedding_length": shape.d_model,
        "block_count": shape.n_layers,
        "feed_forward_length": shape.d_ff,
        "attention.head_count": shape.n_heads,
        "attention.head_count_kv": shape.n_kv_heads,
        "attention.key_length": shape.d_head,
        "attention.value_length": shape.d_head,
        "rope.dimension_count": shape.d_head,
    }
    writer.add("general.architecture", gguf_write.STRING, "llama")
    writer.add("general.name", gguf_write.STRING, name)
    writer.add("general.license", gguf_write.STRING, "mit")
    writer.add("general.file_type", gguf_write.U32, F16_FILE)
    for key, value in numbers.items():
        writer.add(f"llama.{key}", gguf_write.U32, value)
    writer.add("llama.rope.freq_base", gguf_write.F32, shape.rope_base)
    writer.add("llama.attention.layer_norm_rms_epsilon", gguf_write.F32, EPSILON)


def add_vocabulary(writer):
    writer.add("tokenizer.ggml.model", gguf_write.STRING, "gpt2")
    writer.add("tokenizer.ggml.pre", gguf_write.STRING, "default")
    writer.add_array("tokenizer.ggml.tokens", gguf_write.STRING, byte_texts() + ["<s>", "</s>"])
    writer.add_array("tokenizer.ggml.token_type", gguf_write.I32, [NORMAL] * BEGIN + [CONTROL] * 2)
    writer.add_array("tokenizer.ggml.merges", gguf_write.STRING, [])
    writer.add("tokenizer.ggml.bos_token_id", gguf_write.U32, BEGIN)
    writer.add("tokenizer.ggml.eos_token_id", gguf_write.U32, END)
    writer.add("tokenizer.ggml.add_bos_token", gguf_write.BOOL, True)
    writer.add("tokenizer.ggml.add_eos_token", gguf_write.BOOL, False)


def write(path, name, shape, weights):
    """shape: a shapes.Shape; weights: its tensors as float arrays."""
    writer = gguf_write.Writer(path)
    add_metadata(writer, name, shape)
    add_vocabulary(writer)
    tensors = split_weights(shape, weights)
    kinds = {key: "f32" if values.ndim == 1 else "f16" for key, values in tensors.items()}
    for key, values in tensors.items():
        block = gguf_quant.TYPES[kinds[key]]
        n_bytes = values.size // block.block_values * block.block_bytes
        writer.add_tensor(key, block.gguf_id, values.shape[::-1], n_bytes)
    writer.write(lambda key: [gguf_quant.encode_rows(kinds[key], tensors[key])])
