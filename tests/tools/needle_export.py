# The exporter of the needle model: a file of random weights gives in fathom the perplexity that the
# same weights give here, in numpy. Usage: needle_export.py FATHOM
#
# Any slip in the order of heads, pairs, gates or layers would change it.

import os
import subprocess
import sys
import tempfile

from with_numpy import numpy as np

import export
import shapes
import sources
import tasks

N_CONTEXT, N_CHUNKS = 64, 3
# Grouped heads; a rotation that is felt within the context.
SHAPE = shapes.Shape(d_model=96, n_layers=2, n_heads=6, n_kv_heads=2, d_head=32, d_ff=160,
                     rope_base=1e4)
ERROR_MAX = 1e-3  # of the perplexity: fathom's activations may be rounded


def make_weights(rng):
    """Spread enough for attention to look at single tokens; as f16 holds them."""
    weights = {}
    for name, rows, columns in SHAPE.tensors():
        if rows == 1:
            weights[name] = (1 + 0.2 * rng.standard_normal(columns)).astype(np.float32)
        else:
            scale = 1 if name == "embed" else 2 / np.sqrt(columns)
            values = scale * rng.standard_normal((rows, columns))
            weights[name] = values.astype(np.float16).astype(np.float32)
    return weights


def norm(x, weight):
    return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + shapes.EPSILON) * weight


def rotate(x):
    """x [n, heads, d_head]: neighbours turn together."""
    pairs = np.arange(0, SHAPE.d_head, 2) / SHAPE.d_head
    turn = np.exp(1j * np.arange(len(x))[:, None, None] * SHAPE.rope_base ** -pairs)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
    return np.stack((turned.real, turned.imag), -1).reshape(x.shape)


def attend(qkv):
    n_q, n_kv = SHAPE.n_heads, SHAPE.n_kv_heads
    heads = qkv.reshape(len(qkv), -1, SHAPE.d_head)
    q, k, v = rotate(heads[:, :n_q]), rotate(heads[:, n_q:n_q + n_kv]), heads[:, n_q + n_kv:]
    k, v = (np.repeat(x, n_q // n_kv, axis=1) for x in (k, v))
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(SHAPE.d_head)
    scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", weights, v).reshape(len(qkv), -1)


def log_probabilities(weights, ids):
    """[n, N_VOCAB] of the token after each."""
    x = weights["embed"][ids].astype(np.float64)
    for layer in range(SHAPE.n_layers):
        h = norm(x, weights[f"{layer}.attn_norm"])
        x = x + attend(h @ weights[f"{layer}.qkv"].T) @ weights[f"{layer}.mix"].T
        h = norm(x, weights[f"{layer}.ffn_norm"]) @ weights[f"{layer}.gate_up"].T
        gate, up = np.split(h, 2, axis=1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{layer}.down"].T
    logits = norm(x, weights["output_norm"]) @ weights["output"].T
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def perplexity(weights, text):
    """Of the second halves of the chunks, each of which begins with the beginning of a text."""
    ids = np.concatenate(([tasks.BEGIN], np.frombuffer(text, np.uint8)))
    losses = []
    for chunk in ids[:N_CHUNKS * N_CONTEXT].reshape(N_CHUNKS, N_CONTEXT):
        chunk[0] = tasks.BEGIN
        at = np.arange(N_CONTEXT // 2, N_CONTEXT - 1)
        losses.append(-log_probabilities(weights, chunk)[at, chunk[at + 1]])
    return np.exp(np.mean(losses))


def ask_fathom(program, model, text):
    run = subprocess.run([program, "perplexity", "-m", model, "-f", text, "-c", str(N_CONTEXT),
                          "-ctk", "f32", "-ctv", "f32"], capture_output=True, text=True, check=True)
    return float(run.stdout.split("PPL = ")[1].split()[0])


def main():
    rng = np.random.default_rng(1)
    weights = make_weights(rng)
    text = rng.integers(0, 256, N_CHUNKS * N_CONTEXT - 1, np.uint8).tobytes()
    with tempfile.TemporaryDirectory() as folder:
        model, text_path = os.path.join(folder, "model.gguf"), os.path.join(folder, "text")
        with open(text_path, "wb") as file:
            file.write(text)
        export.write(model, "random", SHAPE, weights)
        found = ask_fathom(sys.argv[1], model, text_path)
    wanted = perplexity(weights, text)
    near = abs(found / wanted - 1) < ERROR_MAX
    checks = sources.Checks("needle_export")
    checks.rule("fathom finds the perplexity of the weights",
                [] if near else [f"{found} instead of {wanted}"])
    checks.finish()


if __name__ == "__main__":
    main()
