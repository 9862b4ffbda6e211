#!/usr/bin/env python3
"""Compares Fathom with llama.cpp on the needle model: the same answers, and the time that they take.

    python3 -m venv peers && peers/bin/pip install llama-cpp-python numpy
    peers/bin/python tools/peers/compare_needle.py answers
    peers/bin/python tools/peers/compare_needle.py speed

`answers` asks both programs the same questions about the same texts of 4096 tokens, greedily, and counts how many
answers are equal. `speed` has both read a text of 65,413 tokens and decode, and prints times side by side: Fathom with
dense attention, and with sparse prefill and decode. Both exit with 1 when a goal is missed. Where llama-cpp-python is
not installed the script says so.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

try:
    from llama_cpp import Llama
except ImportError as error:
    sys.exit(f"{error.name} is not installed: these rows stay \"not yet measured\". See the top of this file.")

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SPARSE = ["--kv-mode", "sparse"]
# name, flags, most seconds of prefill, most milliseconds of a decoded token
SPEED_RUNS = (
    ("dense", ["--kv-mode", "dense"], 40, 6),
    ("sparse decode", SPARSE, 40, 1.5),
    ("sparse prefill and decode", [*SPARSE, "--kv-prefill", "sparse"], 10, 1.5),
)


def open_llama(args, n_ctx):
    return Llama(args.model, n_ctx=n_ctx, n_batch=512, n_ubatch=512, n_threads=args.threads,
                 n_threads_batch=args.threads, verbose=False)


def run_eval(args, *options):
    out = subprocess.run([args.fathom, "eval", args.task, "-m", args.model, "--lengths", str(args.length),
                          "--questions", str(args.questions), "--seed", str(args.seed), "-t", str(args.threads),
                          *options], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return out.stdout


def read_prompts(args):
    """(text, question, right answer) of each question that `fathom eval` asks."""
    for line in run_eval(args, "--show").splitlines():
        text = json.loads(line)
        for question in text["questions"]:
            turn, = question["turns"]
            yield text["text"], turn["ask"], turn["answer"]


def answer(llm, ids, n_bytes):
    """What llama.cpp says next, greedily, n_bytes long. It keeps what the last prompt had in common with this one."""
    got = b""
    for id in llm.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        if id == llm.token_eos() or len(got) >= n_bytes:
            break
        got += llm.detokenize([id])
    return got[:n_bytes].decode()


def run_answers(args):
    ours = [json.loads(line)["got"] for line in run_eval(args, "-o", "jsonl").splitlines()]
    llm = open_llama(args, args.length + 64)
    n_same = n_right = 0
    for mine, (text, ask, right) in zip(ours, read_prompts(args), strict=True):
        ids = llm.tokenize((text + ask).encode(), add_bos=True, special=False)
        theirs = answer(llm, ids, len(mine.encode()))
        n_same += mine == theirs
        n_right += right.startswith(mine)
        if mine != theirs:
            print(f"Fathom {mine!r}, llama.cpp {theirs!r}, right {right!r}")
    print(f"{args.task}, {args.length} tokens: {n_same} of {len(ours)} answers are the same; {n_right} of Fathom's are "
          "right")
    return n_same == len(ours)


def llama_speed(args, llm):
    """Seconds that the text takes, and the median of milliseconds of a decoded token."""
    text, ask, _ = next(read_prompts(args))
    begin = time.perf_counter()
    llm.eval(llm.tokenize(text.encode(), add_bos=True, special=False))
    prefill_s = time.perf_counter() - begin
    llm.eval(llm.tokenize(ask.encode(), add_bos=False, special=False))
    times = []
    for _ in range(args.decode):
        begin = time.perf_counter()
        llm.eval([ord("1")])
        times.append(time.perf_counter() - begin)
    return prefill_s, 1e3 * statistics.median(times)


def run_speed(args):
    good = True
    print(f"{os.path.basename(args.model)}, {args.length} tokens, {args.threads} threads\n\n"
          "| | prefill, s | decode, ms/token | right answers |\n|---|---|---|---|")
    for name, flags, prefill_most, decode_most in SPEED_RUNS:
        row, = json.loads(run_eval(args, "-o", "json", *flags))
        prefill_s = row["prefill_ms"] / row["prefills"] / 1e3
        decode_ms = row["decode_ms_per_token"]
        good = good and prefill_s <= prefill_most and decode_ms <= decode_most
        print(f"| Fathom, {name} | {prefill_s:.1f} (goal: {prefill_most}) | {decode_ms:.2f} (goal: {decode_most}) | "
              f"{row['exact']} of {row['questions']} |", flush=True)
    llm = open_llama(args, args.length + 256)
    prefill_s, decode_ms = llama_speed(args, llm)
    print(f"| llama.cpp | {prefill_s:.1f} | {decode_ms:.2f} | |")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fathom", default=os.path.join(ROOT, "build/release/tools/fathom"))
    parser.add_argument("--model", default=os.path.join(ROOT, "tools/needle/needle.gguf"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--questions", type=int, default=32, help="of one text each 32 at most; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    commands = parser.add_subparsers(dest="command", required=True)
    answers = commands.add_parser("answers")
    answers.add_argument("--task", default="niah", choices=("niah", "multikey", "kvretrieval"))
    answers.add_argument("--length", type=int, default=4096, help="tokens; default: %(default)s")
    speed = commands.add_parser("speed")
    speed.add_argument("--length", type=int, default=65413, help="tokens; default: %(default)s")
    speed.add_argument("--decode", type=int, default=32, help="tokens that llama.cpp decodes; default: %(default)s")
    speed.set_defaults(task="niah")
    args = parser.parse_args()
    sys.exit(0 if {"answers": run_answers, "speed": run_speed}[args.command](args) else 1)


if __name__ == "__main__":
    main()
