"""The sizes that the needle model comes in, and the weights that they mean."""

from dataclasses import dataclass

from tasks import N_VOCAB

EPSILON = 1e-5  # of the norms


@dataclass
class Shape:
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    rope_base: float = 1e10

    def heads(self):
        return self.n_heads, self.n_kv_heads, self.d_head

    def tensors(self):
        """(name, rows, columns) of all weights, matrices first; norms have one row. Matrices that
        meet the same input are one."""
        d = self.d_model
        yield "embed", N_VOCAB, d
        yield "output", N_VOCAB, d
        for layer in range(self.n_layers):
            yield f"{layer}.qkv", (self.n_heads + 2 * self.n_kv_heads) * self.d_head, d
            yield f"{layer}.mix", d, self.n_heads * self.d_head
            yield f"{layer}.gate_up", 2 * self.d_ff, d
            yield f"{layer}.down", d, self.d_ff
        for layer in range(self.n_layers):
            yield f"{layer}.attn_norm", 1, d
            yield f"{layer}.ffn_norm", 1, d
        yield "output_norm", 1, d


SHAPES = {
    "tiny": Shape(d_model=128, n_layers=4, n_heads=4, n_kv_heads=2, d_head=32, d_ff=320),
    "wide": Shape(d_model=192, n_layers=4, n_heads=4, n_kv_heads=4, d_head=64, d_ff=512),
}
