#!/usr/bin/env python3
"""Asks a needle model in forms and about attributes that training never saw, and in some that it did.

    held_out.py MODEL.gguf [--bytes 4000] [--questions 32]

Each text hides 16 facts of one form; every question is a run of `fathom run` of its own. Prints the
share of right answers by form. Python 3 and numpy.
"""

import argparse
import os
import random
import subprocess

import tasks
from sentences import make_key, sentence

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
N_FACTS = 16
PLAIN = tasks.TEMPLATES[0]


def make_text(rng, fact, attribute, n_bytes):
    """Filler with facts in it; and the facts' keys and values."""
    used = set()
    pairs = [(tasks.make_new(rng, make_key, used), tasks.digits(rng)) for _ in range(N_FACTS)]
    facts = [fact.format(a=attribute, k=key, v=value) for key, value in pairs]
    n_filler = n_bytes - sum(len(text) + 1 for text in facts)
    pieces = []
    while sum(len(piece) + 1 for piece in pieces) < n_filler:
        pieces.append(sentence(rng))
    for text in facts:
        pieces.insert(rng.randint(0, len(pieces)), text)
    return " ".join(pieces) + "\n", pairs


def ask(options, prompt, n_bytes):
    run = subprocess.run([options.fathom, "run", "-m", options.model, "-n", str(n_bytes), "--temp", "0",
                          "-lv", "0", "-f", "-"], input=prompt.encode(), stdout=subprocess.PIPE,
                         check=False)
    if run.returncode != 0:
        raise SystemExit(f"held_out.py: fathom run: exit code {run.returncode}")
    return run.stdout.decode(errors="replace").strip("\n")


def measure(options, template, attributes):
    fact, question = template
    n_right = 0
    for i in range(options.questions):
        rng = random.Random(f"{options.seed}/{i}")
        attribute = attributes[i % len(attributes)]
        text, pairs = make_text(rng, fact, attribute, options.bytes)
        key, value = rng.choice(pairs)
        answer = ask(options, text + question.format(a=attribute, k=key), len(value))
        n_right += answer == value
    return n_right


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("--bytes", type=int, default=4000)
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fathom", default=os.path.join(ROOT, "build/release/tools/fathom"))
    options = parser.parse_args()
    rows = [(template, tasks.ATTRIBUTES, "both trained") for template in tasks.TEMPLATES]
    rows += [(PLAIN, (name,), "attribute held out") for name in tasks.HELD_OUT_ATTRIBUTES]
    rows += [(template, tasks.ATTRIBUTES, "form held out") for template in tasks.HELD_OUT_TEMPLATES]
    print("| fact and question | attribute | | right |\n|---|---|---|---|")
    for template, attributes, what in rows:
        form = " / ".join(template).replace("\n", " ")
        named = attributes[0] if len(attributes) == 1 else f"of {len(attributes)}"
        n_right = measure(options, template, attributes)
        print(f"| {form} | {named} | {what} | {n_right} of {options.questions} |", flush=True)


if __name__ == "__main__":
    main()
