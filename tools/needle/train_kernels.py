"""train_ops.c and train_attend.c for torch: built for this machine, loaded, and given gradients.

Elements are what matrix products take and give: bf16 where the CPU has instructions for it.
"""

import ctypes
import os
import subprocess
import zlib

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SOURCES = [os.path.join(HERE, name) for name in ("train_ops.c", "train_attend.c", "train_math.h")]
FLAGS = ["-std=gnu17", "-O3", "-ffast-math", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi"]
# What -DLANES stands for.
SIMD = {
    "avx512": (16, ["-march=native", "-mprefer-vector-width=512"]),
    "avx2": (8, ["-mavx2", "-mfma"]),
    "plain": (4, []),
}
VOID = ("add_norm", "add_norm_back", "make_angles", "split_rotate", "split_rotate_back", "swiglu",
        "swiglu_back", "cross_entropy", "attend")  # functions that cannot fail
TILE = 64  # sequences are multiples of it


def cpu_flags():
    try:
        with open("/proc/cpuinfo", encoding="ascii") as file:
            lines = [line for line in file if line.startswith("flags")]
    except OSError:
        lines = []
    return set(lines[0].split()) if lines else set()


def choose_simd():
    flags = cpu_flags()
    return "avx512" if "avx512f" in flags else "avx2" if {"avx2", "fma"} <= flags else "plain"


def choose_narrow():
    return not cpu_flags().isdisjoint({"amx_bf16", "avx512_bf16"})


def build(folder, simd, narrow):
    """The path of the library, built unless it is there."""
    lanes, flags = SIMD[simd]
    command = [os.environ.get("CC", "cc"), *FLAGS, *flags, f"-DLANES={lanes}",
               f"-DNARROW={narrow:d}", f"-I{ROOT}"]
    command += [path for path in SOURCES if path.endswith(".c")]
    key = zlib.crc32(" ".join(command + sorted(cpu_flags())).encode())
    for path in SOURCES:
        with open(path, "rb") as file:
            key = zlib.crc32(file.read(), key)
    library = os.path.join(folder, f"kernels-{simd}-{key:08x}.so")
    if not os.path.exists(library):
        os.makedirs(folder, exist_ok=True)
        subprocess.run([*command, "-lm", "-o", library + ".new"], check=True)
        os.replace(library + ".new", library)
    return library


class Attention(ctypes.Structure):
    _fields_ = ([(name, ctypes.c_void_p) for name in ("q", "k", "v", "bias", "out", "lse")]
                + [(name, ctypes.c_int32) for name in
                   ("n_seqs", "n_tokens", "n_heads", "n_kv_heads", "d_head", "near")])


class AttentionGradient(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("d_out", "d_q", "d_k", "d_v")]


class Kernels:
    """The C functions; tensors go as pointers, so they must be contiguous."""

    def __init__(self, folder, simd=None, narrow=None):
        self.simd = simd or choose_simd()
        self.narrow = choose_narrow() if narrow is None else narrow
        self.element = torch.bfloat16 if self.narrow else torch.float32
        self.functions = ctypes.CDLL(build(folder, self.simd, self.narrow))
        for name in VOID:
            getattr(self.functions, name).restype = None

    def call(self, name, *args):
        """Tensors, None, int as long, ctypes values as they are."""
        values = []
        for arg in args:
            if arg is None:
                values.append(ctypes.c_void_p())
            elif isinstance(arg, torch.Tensor):
                assert arg.is_contiguous()
                values.append(ctypes.c_void_p(arg.data_ptr()))
            else:
                values.append(ctypes.c_long(arg) if isinstance(arg, int) else arg)
        if getattr(self.functions, name)(*values):
            raise MemoryError(name)

    def make_angles(self, positions, base, d_head):
        """Cosines and sines [n_seqs, length, d_head / 2]."""
        cosines = torch.empty(*positions.shape, d_head // 2)
        sines = torch.empty_like(cosines)
        self.call("make_angles", positions, ctypes.c_double(base), cosines, sines,
                  positions.numel(), d_head)
        return cosines, sines


class AddNorm(torch.autograd.Function):
    """(x + y, its RMS norm as elements); y is elements or None. The sum may go on unused."""

    @staticmethod
    def forward(context, kernels, x, y, weight, epsilon):
        d = x.shape[-1]
        total = x if y is None else torch.empty_like(x)
        out = torch.empty(x.shape, dtype=kernels.element)
        inverse = torch.empty(x.numel() // d)
        kernels.call("add_norm", x, y, weight, total, out, inverse, inverse.numel(), d,
                     ctypes.c_float(epsilon))
        context.set_materialize_grads(False)
        context.kernels, context.has_y = kernels, y is not None
        context.save_for_backward(total, weight, inverse)
        return total, out

    @staticmethod
    def backward(context, d_sum, d_out):
        total, weight, inverse = context.saved_tensors
        d = total.shape[-1]
        d_x = torch.empty_like(total)
        d_y = torch.empty(total.shape, dtype=context.kernels.element) if context.has_y else None
        parts = torch.empty(torch.get_num_threads(), d)
        context.kernels.call("add_norm_back", total, weight, inverse, d_out.contiguous(),
                             None if d_sum is None else d_sum.contiguous(), d_x, d_y, parts,
                             inverse.numel(), d)
        return None, d_x, d_y, parts.sum(0), None


class SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(context, kernels, gate_up):
        d = gate_up.shape[-1] // 2
        out = torch.empty(*gate_up.shape[:-1], d, dtype=kernels.element)
        kernels.call("swiglu", gate_up, out, out.numel() // d, d)
        context.kernels = kernels
        context.save_for_backward(gate_up)
        return out

    @staticmethod
    def backward(context, d_out):
        gate_up, = context.saved_tensors
        d = d_out.shape[-1]
        d_gate_up = torch.empty_like(gate_up)
        context.kernels.call("swiglu_back", gate_up, d_out.contiguous(), d_gate_up,
                             d_out.numel() // d, d)
        return None, d_gate_up


class Attend(torch.autograd.Function):
    """From the product of all of q, k and v [n_seqs, length, ...] to the heads' outputs."""

    @staticmethod
    def forward(context, kernels, qkv, angles, bias, heads, near):
        n_heads, n_kv_heads, d_head = heads
        n_seqs, n_tokens, _ = qkv.shape
        assert n_tokens % TILE == 0
        q = torch.empty(n_seqs, n_tokens, n_heads, d_head)
        k = torch.empty(n_seqs, n_tokens, n_kv_heads, d_head)
        v, out = torch.empty_like(k), torch.empty_like(q)
        lse = torch.empty(n_seqs, n_heads, n_tokens)
        kernels.call("split_rotate", qkv, *angles, q, k, v, n_seqs * n_tokens, *heads)
        args = Attention(*(t.data_ptr() for t in (q, k, v, bias, out, lse)), n_seqs, n_tokens,
                         *heads, near)
        kernels.call("attend", ctypes.byref(args))
        context.kernels, context.args = kernels, args
        context.kept = (*angles, q, k, v, bias, out, lse)
        return out.view(n_seqs, n_tokens, -1).to(kernels.element)

    @staticmethod
    def backward(context, d_out):
        cosines, sines, q, k, v = context.kept[:5]
        heads = (q.shape[2], *k.shape[2:])
        d_out = d_out.float().contiguous()
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        gradient = AttentionGradient(*(t.data_ptr() for t in (d_out, d_q, d_k, d_v)))
        context.kernels.call("attend_back", ctypes.byref(context.args), ctypes.byref(gradient))
        d_qkv = torch.empty(*q.shape[:2], (heads[0] + 2 * heads[1]) * heads[2],
                            dtype=context.kernels.element)
        context.kernels.call("split_rotate_back", d_q, d_k, d_v, cosines, sines, d_qkv,
                             q.shape[0] * q.shape[1], *heads)
        return None, d_qkv, None, None, None, None


class CrossEntropy(torch.autograd.Function):
    """(sum of weight * loss, each row's loss, whether the target is each row's largest logit)."""

    @staticmethod
    def forward(context, kernels, logits, targets, weights):
        losses = torch.empty(targets.numel())
        right = torch.empty(targets.numel(), dtype=torch.bool)
        gradient = torch.empty_like(logits)
        kernels.call("cross_entropy", logits, targets, weights, losses, right, gradient,
                     targets.numel(), logits.shape[-1])
        context.save_for_backward(gradient)
        context.mark_non_differentiable(losses, right)
        return (losses * weights.view(-1)).sum(), losses, right

    @staticmethod
    def backward(context, d_loss, _losses, _right):
        gradient, = context.saved_tensors
        return None, gradient * d_loss.to(gradient.dtype), None, None
