"""The needle model: its weights and forward pass, once with our kernels and once in plain
torch, which the kernels are checked against."""

import math
import types

import torch
import torch.nn.functional as F

import train_kernels as kernels_of
from shapes import EPSILON

NEAR = 96  # tokens back up to which no multiplicity bias counts


def deviation(name, columns):
    """Of the first weights. What is added to the stream starts small."""
    if name == "embed":
        return 0.5
    if name == "output":
        return 0.02
    return (0.5 if name.endswith((".mix", ".down")) else 1.0) / math.sqrt(columns)


class Model:
    """All weights lie in one array and all gradients in another, so that the optimiser's steps are
    a few long loops."""

    def __init__(self, shape, seed):
        tensors = list(shape.tensors())
        self.shape = shape
        self.flat = torch.empty(sum(rows * columns for _, rows, columns in tensors))
        self.gradient = torch.zeros_like(self.flat)
        self.n_matrices = sum(rows * columns for _, rows, columns in tensors if rows > 1)
        self.weights = {}
        generator = torch.Generator().manual_seed(seed)
        at = 0
        for name, rows, columns in tensors:
            size = (rows, columns) if rows > 1 else (columns,)
            part = slice(at, at + rows * columns)
            values = self.flat[part].view(size)
            if rows > 1:
                values.normal_(0, deviation(name, columns), generator=generator)
            else:
                values.fill_(1)
            weight = values.detach().requires_grad_()
            weight.grad = self.gradient[part].view(size)
            self.weights[name] = weight
            at += rows * columns


def to_tensors(batch):
    """A tasks.Batch with tensors in place of arrays."""
    return types.SimpleNamespace(**{name: torch.from_numpy(getattr(batch, name)) for name in
                                    ("ids", "weights", "bias", "positions")}, tasks=batch.tasks)


def forward(model, kernels, batch):
    """Logits [n_seqs, length, N_VOCAB] as elements."""
    weights, shape = model.weights, model.shape

    def linear(x, name):
        return F.linear(x, weights[name].to(kernels.element))

    angles = kernels.make_angles(batch.positions, shape.rope_base, shape.d_head)
    x, y = F.embedding(batch.ids[:, :-1], weights["embed"]), None
    for layer in range(shape.n_layers):
        x, h = kernels_of.AddNorm.apply(kernels, x, y, weights[f"{layer}.attn_norm"], EPSILON)
        h = kernels_of.Attend.apply(kernels, linear(h, f"{layer}.qkv"), angles, batch.bias,
                                    shape.heads(), NEAR)
        y = linear(h, f"{layer}.mix")
        x, h = kernels_of.AddNorm.apply(kernels, x, y, weights[f"{layer}.ffn_norm"], EPSILON)
        y = linear(kernels_of.SwiGLU.apply(kernels, linear(h, f"{layer}.gate_up")),
                   f"{layer}.down")
    _, h = kernels_of.AddNorm.apply(kernels, x, y, weights["output_norm"], EPSILON)
    return linear(h, "output")


def loss(model, kernels, batch):
    """As CrossEntropy, of the batch's weights scaled to the sum 1."""
    weights = batch.weights / batch.weights.sum()
    targets = batch.ids[:, 1:].contiguous()
    return kernels_of.CrossEntropy.apply(kernels, forward(model, kernels, batch), targets, weights)


# ---- The same in plain torch --------------------------------------------------------------------


def plain_norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * weight


def plain_rotate(x, positions, base):
    """x [n_seqs, length, heads, d_head]"""
    d_head = x.shape[-1]
    turns = base ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    angle = (positions[..., None] * turns)[:, :, None]
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cosine - b * sine, a * sine + b * cosine), -1).flatten(-2)


def plain_attend(qkv, positions, bias, shape):
    n_seqs, n_tokens, _ = qkv.shape
    n_heads, n_kv_heads, d_head = shape.heads()
    q, k, v = qkv.view(n_seqs, n_tokens, -1, d_head).split((n_heads, n_kv_heads, n_kv_heads), 2)
    q = plain_rotate(q, positions, shape.rope_base).transpose(1, 2)
    k = plain_rotate(k, positions, shape.rope_base).transpose(1, 2)
    group = n_heads // n_kv_heads
    k, v = k.repeat_interleave(group, 1), v.transpose(1, 2).repeat_interleave(group, 1)
    at = torch.arange(n_tokens)
    back = at[:, None] - at
    scores = q @ k.transpose(2, 3) / math.sqrt(d_head) + (back > NEAR) * bias[:, None, None]
    scores = scores.masked_fill(back < 0, -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(n_seqs, n_tokens, -1)


def plain_loss(weights, shape, batch):
    """The loss alone, in the precision of the weights (name -> tensor)."""
    x = F.embedding(batch.ids[:, :-1], weights["embed"])
    bias = batch.bias.to(x.dtype)
    for layer in range(shape.n_layers):
        h = plain_norm(x, weights[f"{layer}.attn_norm"])
        h = plain_attend(F.linear(h, weights[f"{layer}.qkv"]), batch.positions, bias, shape)
        x = x + F.linear(h, weights[f"{layer}.mix"])
        h = plain_norm(x, weights[f"{layer}.ffn_norm"])
        gate, up = F.linear(h, weights[f"{layer}.gate_up"]).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, weights[f"{layer}.down"])
    logits = F.linear(plain_norm(x, weights["output_norm"]), weights["output"])
    losses = F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()
