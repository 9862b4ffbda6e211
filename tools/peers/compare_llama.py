#!/usr/bin/env python3
"""Compares Fathom with llama.cpp on the same GGUF files: next-token distributions, and speed.

    python3 -m venv peers && peers/bin/pip install gguf llama-cpp-python numpy
    peers/bin/python tools/peers/compare_llama.py kl
    peers/bin/python tools/peers/compare_llama.py kl --model MODEL.gguf --text TEXT
    peers/bin/python tools/peers/compare_llama.py kl --shape llama-3.2-1b --types q8_0,q4_k
    peers/bin/python tools/peers/compare_llama.py speed --types q8_0,q4_k --depths 0,4096

`kl` runs both programs, and Fathom's reference kernels, which round nothing but weights (`--isa none`: exact), and
prints how far each next-token distribution is from the others (KL divergence, mean over the positions) and what the
weights' own rounding costs. The models are small random ones of every architecture (tools/synth_gguf.py), or a
trained one in every type that its rows allow, on a text that it reads. `speed` measures prefill of 512 tokens
and decode at each depth, the two programs in turn in one run, and prints medians. Both exit with 1 when a
goal is missed. Where llama-cpp-python is not installed the script says so.
"""

import argparse
import faulthandler
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

try:
    from llama_cpp import Llama, llama_print_system_info

    from requantise import requantise
except ImportError as error:
    sys.exit(f"{error.name} is not installed: these rows stay \"not yet measured\". See the top of this file.")

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TYPES = "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q4_k q5_k q6_k".split()
KL_MAX = 1e-3
DECODE_MIN, PREFILL_MIN = 1.0, 0.8

# Small shapes whose rows are whole blocks of every weight type.
KL_SHAPES = {
    "llama": "--arch llama --layers 4 --d-model 512 --heads 8 --kv-heads 2 --head-dim 64 --ff 1024 --vocab 1000",
    "qwen2": "--arch qwen2 --layers 4 --d-model 512 --heads 8 --kv-heads 4 --head-dim 64 --ff 1024 --vocab 1000",
    "qwen3": "--arch qwen3 --layers 4 --d-model 512 --heads 4 --kv-heads 2 --head-dim 128 --ff 1024 --vocab 1000",
}


def synth(path, *args):
    subprocess.run([sys.executable, os.path.join(ROOT, "tools/synth_gguf.py"), path, *args], check=True,
                   stdout=subprocess.DEVNULL)


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def divergence(p, q):
    """KL divergence of q from p, of each row of logarithms."""
    return (np.exp(p) * (p - q)).sum(-1)


def fathom_logits(args, model, ids, folder, isa):
    ids_path, out_path = os.path.join(folder, "ids.txt"), os.path.join(folder, "logits.f32")
    with open(ids_path, "w") as f:
        f.write(" ".join(map(str, ids)))
    subprocess.run([args.fathom, "eval", "logits", "-m", model, "--ids", ids_path, "--out", out_path, "--isa", isa,
                    "-t", str(args.threads)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return np.fromfile(out_path, "<f4").reshape(len(ids), -1)


def llama_logits(args, model, ids):
    llm = Llama(model, n_ctx=512, n_batch=512, n_threads=args.threads, n_threads_batch=args.threads,
                logits_all=True, verbose=False)
    llm.eval(ids)
    return np.array(llm.scores[: len(ids)])


def read_text(args):
    """The first ids of the text, as the model's tokenizer has it."""
    out = subprocess.run([args.fathom, "tokenize", "-m", args.model, "-f", args.text], check=True,
                         capture_output=True, text=True)
    return [int(id) for id in out.stdout.split()[: args.positions]]


def kl_models(args, path):
    """(name, write) of each model, where write(type) makes the file and returns how much of it is of that type."""
    if args.model:
        name = os.path.basename(args.model).removesuffix(".gguf")
        return [(name, lambda kind: requantise(args.model, path, kind))]

    def writer(options):
        def write(kind):
            synth(path, *options.split(), "--type", kind, "--seed", str(args.seed))
            return 1.0
        return write

    spread = f" --logit-spread {args.logit_spread}" if args.logit_spread else ""
    shapes = {args.shape: f"--shape {args.shape}"} if args.shape else KL_SHAPES
    return [(name, writer(options + spread)) for name, options in shapes.items()]


def run_kl(args):
    good = True
    print("| model | weights | Fathom from llama.cpp (largest) | Fathom from exact | llama.cpp from exact | "
          "weights from F32 | same first choice | deviation of logits |\n|---|---|---|---|---|---|---|---|")
    random = np.random.default_rng(args.seed)
    ids = read_text(args) if args.model else random.integers(0, 256, args.positions).tolist()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        for name, write in kl_models(args, path):
            unrounded = None
            for kind in args.types.split(","):
                share = write(kind)
                if share == 0:
                    continue
                logits = fathom_logits(args, path, ids, folder, "none")
                exact = log_softmax(logits)
                ours = log_softmax(fathom_logits(args, path, ids, folder, args.isa))
                theirs = log_softmax(llama_logits(args, path, ids))
                unrounded = exact if kind == "f32" else unrounded
                apart = divergence(theirs, ours)
                good = good and apart.mean() < KL_MAX
                same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
                cost = "-" if unrounded is None else f"{divergence(unrounded, exact).mean():.1e}"
                kind += f" ({share:.0%})" if share < 1 else ""
                print(f"| {name} | {kind} | {apart.mean():.1e} ({apart.max():.1e}) | "
                      f"{divergence(exact, ours).mean():.1e} | {divergence(exact, theirs).mean():.1e} | {cost} | "
                      f"{same:.0%} | {logits.std(-1).mean():.2f} |", flush=True)
    return good


def fathom_speed(fathom, model, depth, n_prefill, n_decode, n_threads):
    out = subprocess.run([fathom, "bench", "-m", model, "-p", str(n_prefill), "-n", str(n_decode), "-d", str(depth),
                          "-r", "1", "-t", str(n_threads), "-o", "json"], check=True, capture_output=True, text=True)
    rows = json.loads(out.stdout)
    rows = rows["rows"] if isinstance(rows, dict) else rows
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def llama_speed(llm, depth, n_prefill, n_decode):
    ids = np.random.default_rng(1).integers(0, 256, depth + n_prefill).tolist()
    result = {}
    llm.reset()
    if depth:
        llm.eval(ids[:depth])
    begin = time.perf_counter()
    llm.eval(ids[depth:])
    result["prefill"] = n_prefill / (time.perf_counter() - begin)
    llm.n_tokens = depth
    if depth == 0:
        llm.reset()
    begin = time.perf_counter()
    for i in range(n_decode):
        llm.eval([i % 256])
    result["decode"] = n_decode / (time.perf_counter() - begin)
    return result


def run_speed(args):
    good = True
    depths = [int(d) for d in args.depths.split(",")]
    print(f"{args.shape}, {args.threads} threads, medians of {args.repeat} (least to most); llama.cpp: "
          f"{llama_print_system_info().decode().strip()}, flash attention {'on' if args.flash_attn else 'off'}\n")
    print("| weights | depth | what | Fathom, tokens/s | llama.cpp, tokens/s | ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for kind in args.types.split(","):
            model = os.path.join(args.models or scratch, f"{args.shape}-{kind}.gguf")
            if not os.path.exists(model):
                synth(model, "--shape", args.shape, "--type", kind, "--seed", "1")
            llm = Llama(model, n_ctx=max(depths) + 1024, n_batch=512, n_ubatch=512, n_threads=args.threads,
                        n_threads_batch=args.threads, flash_attn=args.flash_attn, verbose=False)
            llama_speed(llm, 0, 32, 4)
            for depth in depths:
                runs = []
                for _ in range(args.repeat):
                    runs.append((fathom_speed(args.fathom, model, depth, args.prefill, args.decode, args.threads),
                                 llama_speed(llm, depth, args.prefill, args.decode)))
                for what, least in (("prefill", PREFILL_MIN), ("decode", DECODE_MIN)):
                    ours, theirs = [r[0][what] for r in runs], [r[1][what] for r in runs]
                    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
                    good = good and ratio >= least
                    show = lambda x: f"{statistics.median(x):.1f} ({min(x):.1f} to {max(x):.1f})"
                    print(f"| {kind} | {depth} | {what} | {show(ours)} | {show(theirs)} | {ratio:.2f} |", flush=True)
            llm.close()
    return good


def main():
    faulthandler.enable()  # an illegal instruction in llama.cpp is told of: README.md has the remedy
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fathom", default=os.path.join(ROOT, "build/release/tools/fathom"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    commands = parser.add_subparsers(dest="command", required=True)
    kl = commands.add_parser("kl")
    kl.add_argument("--types", default=",".join(TYPES))
    kl.add_argument("--seed", type=int, default=1)
    kl.add_argument("--isa", default="all", help="instruction sets that Fathom may use, as in fathom run --isa")
    kl.add_argument("--positions", type=int, default=64, help="512 at most; default: %(default)s")
    kl.add_argument("--shape", help="of tools/synth_gguf.py, in place of the small ones")
    kl.add_argument("--logit-spread", type=float, help="of the random models; default: that of tools/synth_gguf.py")
    kl.add_argument("--model", help="a trained GGUF model, in place of random ones; needs --text")
    kl.add_argument("--text", help="what the model reads")
    speed = commands.add_parser("speed")
    speed.add_argument("--shape", default="llama-3.2-1b")
    speed.add_argument("--types", default="q8_0,q4_k")
    speed.add_argument("--depths", default="0,4096")
    speed.add_argument("--prefill", type=int, default=512)
    speed.add_argument("--decode", type=int, default=32)
    speed.add_argument("--repeat", type=int, default=5)
    speed.add_argument("--models", help="folder that keeps the models; default: a temporary one")
    speed.add_argument("--flash-attn", action="store_true")
    args = parser.parse_args()
    if args.command == "kl" and (args.model is None) != (args.text is None):
        parser.error("--model and --text go together")
    sys.exit(0 if {"kl": run_kl, "speed": run_speed}[args.command](args) else 1)


if __name__ == "__main__":
    main()
