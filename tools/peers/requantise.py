"""Rewrites a GGUF file with its matrices in another type: a trained model in every type to compare.

Rows that are no whole number of blocks fall back as in tools/gguf_quant.py; vectors become f32.
"""

import os
import sys

import gguf
from gguf.quants import dequantize

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import gguf_quant
import gguf_write


def requantise(source, path, kind):
    """Returns the share of the matrices' values that are of this type. The model is in memory."""
    reader = gguf.GGUFReader(source)
    writer = gguf_write.Writer(path)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):  # what the header says, not metadata
            writer.entries.append(b"".join(part.tobytes() for part in field.parts))
    data = {}
    n_values = n_fit = 0
    for tensor in reader.tensors:
        dims = [int(n) for n in tensor.shape]
        fit = gguf_quant.fit_type(kind, dims[0]) if len(dims) > 1 else "f32"
        values = dequantize(tensor.data, tensor.tensor_type).reshape(-1, dims[0])
        if len(dims) > 1:
            n_values += values.size
            n_fit += values.size if fit == kind else 0
        data[tensor.name] = gguf_quant.encode_rows(fit, values)
        writer.add_tensor(tensor.name, gguf_quant.TYPES[fit].gguf_id, dims, len(data[tensor.name]))
    writer.write(lambda name: [data[name]])
    return n_fit / n_values
