"""Encodes rows of float32 as the number types of GGUF tensors, with numpy alone.

Used by convert_llama2c.py and synth_gguf.py. The layouts are ggml's; the scales are chosen by
range (no search for a smaller error), so quantised files are a little worse than llama.cpp's.
Every encoder takes an array [n_blocks, block_values] and gives one [n_blocks, block_bytes].
"""

import numpy as np


def half_bytes(values):
    """float32 [n] as f16, and the f16 read back: encoders must divide by what is stored."""
    half = values.astype(np.float16)
    return half[:, None].view(np.uint8), half.astype(np.float32)


def inverse(scales):
    """1 / scales, and 0 for 0."""
    return np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)


def round_clip(values, low, high):
    """Rounds in place, since these arrays are the size of the tensor."""
    np.rint(values, out=values)
    return np.clip(values, low, high, out=values)


def encode_f32(x):
    return x.astype("<f4").view(np.uint8)


def encode_f16(x):
    return x.astype("<f2").view(np.uint8)


def encode_bf16(x):
    """Rounds to nearest even; weights are finite."""
    bits = x.astype("<f4").view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return bits.astype("<u2").view(np.uint8)


def encode_q8_0(x):
    head, scale = half_bytes(np.abs(x).max(axis=1) / 127)
    q = round_clip(x * inverse(scale)[:, None], -127, 127).astype(np.int8)
    return np.concatenate([head, q.view(np.uint8)], axis=1)


def signed_peak(x):
    """Of each row, the value furthest from zero."""
    return np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)[:, 0]


def pack_nibbles(q):
    """[n, 32] of 0 .. 15: value i beside value i + 16."""
    return q[:, :16] | (q[:, 16:] << 4)


def pack_fifth_bits(q):
    """Bit 4 of [n, 32] values as four bytes."""
    return np.packbits(q >> 4, axis=1, bitorder="little")


def encode_symmetric(x, levels):
    """q4_0 and q5_0: the value furthest from zero becomes the lowest level."""
    head, scale = half_bytes(signed_peak(x) / -(levels // 2))
    q = round_clip(x * inverse(scale)[:, None] + levels // 2, 0, levels - 1).astype(np.uint8)
    return [head], q


def encode_affine(x, levels):
    """q4_1 and q5_1: scale and minimum."""
    low = x.min(axis=1)
    scale_bytes, scale = half_bytes((x.max(axis=1) - low) / (levels - 1))
    low_bytes, low = half_bytes(low)
    q = round_clip((x - low[:, None]) * inverse(scale)[:, None], 0, levels - 1)
    return [scale_bytes, low_bytes], q.astype(np.uint8)


def encode_q4_0(x):
    heads, q = encode_symmetric(x, 16)
    return np.concatenate(heads + [pack_nibbles(q)], axis=1)


def encode_q4_1(x):
    heads, q = encode_affine(x, 16)
    return np.concatenate(heads + [pack_nibbles(q)], axis=1)


def encode_q5_0(x):
    heads, q = encode_symmetric(x, 32)
    return np.concatenate(heads + [pack_fifth_bits(q), pack_nibbles(q & 15)], axis=1)


def encode_q5_1(x):
    heads, q = encode_affine(x, 32)
    return np.concatenate(heads + [pack_fifth_bits(q), pack_nibbles(q & 15)], axis=1)


def pack_six_bits(scales, lows):
    """Eight scales and eight minima of 6 bits in 12 bytes: the upper two bits of the last four of
    each go on top of the first four."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = lows[:, :4] | ((lows[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((lows[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)


def encode_sub_blocks(x, levels):
    """q4_k and q5_k: 8 sub-blocks of 32, each with a scale and a minimum of 6 bits below two f16.
    Values are scale * q - low, low >= 0."""
    sub = x.reshape(-1, 8, 32)
    low = np.maximum(-sub.min(axis=2), 0)
    scale = np.maximum(sub.max(axis=2) + low, 0) / (levels - 1)
    scale_bytes, scale_unit = half_bytes(scale.max(axis=1) / 63)
    low_bytes, low_unit = half_bytes(low.max(axis=1) / 63)
    scale6 = round_clip(scale * inverse(scale_unit)[:, None], 0, 63)
    low6 = round_clip(low * inverse(low_unit)[:, None], 0, 63)
    scale = scale6 * scale_unit[:, None]
    low = low6 * low_unit[:, None]
    q = round_clip((sub + low[:, :, None]) * inverse(scale)[:, :, None], 0, levels - 1)
    head = [scale_bytes, low_bytes, pack_six_bits(scale6.astype(np.uint8), low6.astype(np.uint8))]
    return head, q.astype(np.uint8)


def pack_sub_nibbles(q):
    """[n, 8, 32] of 0 .. 15: each even sub-block below the odd one after it."""
    return (q[:, 0::2] | (q[:, 1::2] << 4)).reshape(-1, 128)


def encode_q4_k(x):
    head, q = encode_sub_blocks(x, 16)
    return np.concatenate(head + [pack_sub_nibbles(q)], axis=1)


def encode_q5_k(x):
    """Bit j of byte i of the fifth bits belongs to value i of sub-block j."""
    head, q = encode_sub_blocks(x, 32)
    fifth = np.packbits(q >> 4, axis=1, bitorder="little").reshape(-1, 32)
    return np.concatenate(head + [fifth, pack_sub_nibbles(q & 15)], axis=1)


def encode_q6_k(x):
    """16 sub-blocks of 16 with 8-bit scales; values in two halves of 128, each as four runs of 32
    whose low nibbles share bytes (1st with 3rd, 2nd with 4th) and whose upper bits share one."""
    sub = x.reshape(-1, 16, 16)
    peak = signed_peak(sub.reshape(-1, 16)).reshape(-1, 16) / -32
    unit_bytes, unit = half_bytes(signed_peak(peak) / -128)
    scale8 = round_clip(peak * inverse(unit)[:, None], -128, 127)
    scale = scale8 * unit[:, None]
    q = round_clip(sub * inverse(scale)[:, :, None] + 32, 0, 63).astype(np.uint8)
    runs = q.reshape(-1, 2, 4, 32)
    low = (runs[:, :, :2] & 15) | ((runs[:, :, 2:] & 15) << 4)
    high = runs >> 4
    high = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    scales = scale8.astype(np.int8).view(np.uint8)
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64), scales, unit_bytes], axis=1)


class Type:
    """A number type: GGUF's id, values and bytes of a block, the encoder, and the type that rows
    get whose length is no multiple of the block, as llama.cpp has it."""

    def __init__(self, gguf_id, block_values, block_bytes, encode, fallback=None):
        self.gguf_id = gguf_id
        self.block_values = block_values
        self.block_bytes = block_bytes
        self.encode = encode
        self.fallback = fallback


TYPES = {
    "f32": Type(0, 1, 4, encode_f32),
    "f16": Type(1, 1, 2, encode_f16),
    "bf16": Type(30, 1, 2, encode_bf16),
    "q4_0": Type(2, 32, 18, encode_q4_0, "f16"),
    "q4_1": Type(3, 32, 20, encode_q4_1, "f16"),
    "q5_0": Type(6, 32, 22, encode_q5_0, "f16"),
    "q5_1": Type(7, 32, 24, encode_q5_1, "f16"),
    "q8_0": Type(8, 32, 34, encode_q8_0, "f16"),
    "q4_k": Type(12, 256, 144, encode_q4_k, "q5_0"),
    "q5_k": Type(13, 256, 176, encode_q5_k, "q5_1"),
    "q6_k": Type(14, 256, 210, encode_q6_k, "q8_0"),
}


def fit_type(name, n_cols):
    """The type itself, or what it falls back to for rows of n_cols values."""
    while n_cols % TYPES[name].block_values != 0:
        name = TYPES[name].fallback
    return name


def encode_rows(name, rows):
    """[n_rows, n_cols] float32 as bytes of the named type."""
    kind = TYPES[name]
    blocks = kind.encode(np.ascontiguousarray(rows, np.float32).reshape(-1, kind.block_values))
    assert blocks.shape[1] == kind.block_bytes
    return blocks.tobytes()
