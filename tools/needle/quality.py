#!/usr/bin/env python3
"""What picking costs: the tasks of `fathom eval` with each selector, and one setting at a time changed.

    quality.py MODEL.gguf --lengths 8k,32k            table in Markdown, to standard output
    quality.py MODEL.gguf --lengths 8k --product      every combination of the settings
    quality.py MODEL.gguf --lengths 128k --selectors chunk --axes budget,unit=8 --prefill sparse

A task's column is its score in per cent: exact answers, but right lines of longgen. Results go to
--log as they come, one object a line, and what is there is not measured again. With
--prefill sparse the texts are read with each setting too, not only the answers written. The
divergence is from exact attention over the same cache, the coverage that of every tenth decoded
token, compared with exact attention (and what the selector estimates it at); means over the tasks.
Python 3's standard library alone.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TASKS = ("niah", "multikey", "kvretrieval", "vartrack", "multiturn", "longgen")
SELECTORS = ("dense", "cluster", "chunk", "block", "flat")
# The first value of each is what stays while another setting is changed.
AXES = {
    "budget": ("2%", "0.5%", "1%", "5%"),
    "unit": ("0", "8", "16", "32", "64"),
    "type": ("f16", "q8", "q4", "q2"),
    "estimate": ("off", "on"),
    "stage2": ("q4", "off"),
    "candidates": ("2", "4", "8"),
}
VERIFIED = "10%"


def make_settings(selectors, axes, product):
    """Of each selector the usual setting first; dense attention has none, and is None."""
    usual = {axis: values[0] for axis, values in AXES.items()}
    for selector in selectors:
        if selector == "dense":
            yield None
            continue
        if product:
            combinations = itertools.product(*([usual[axis], *axes[axis]] for axis in axes))
            changes = [dict(zip(axes, values)) for values in combinations]
        else:
            changes = [{}] + [{axis: value} for axis in axes for value in axes[axis]]
        for change in changes:
            if selector == "flat" and change.get("unit", "0") != "0":
                continue  # its units are tokens
            yield {"selector": selector, **usual, **change}


def flags_of(setting):
    if setting is None:
        return ["--kv-mode", "dense"]
    flags = ["--kv-mode", "sparse", "--kl-dense", "--kv-verify", VERIFIED]
    for name, value in setting.items():
        flags += [f"--kv-{name}", value]
    return flags


class Measurements:
    """What was measured, on disk and in memory."""

    def __init__(self, path, fathom, model, options):
        self.path, self.known = path, {}
        self.command = [fathom, "eval"]
        self.prefill = options.prefill
        self.flags = ["-m", model, "--questions", str(options.questions), "--seed",
                      str(options.seed), "-o", "json"]
        if os.path.exists(path):
            with open(path, encoding="utf-8") as lines:
                for line in lines:
                    entry = json.loads(line)
                    self.known[entry["key"]] = entry["row"]

    def get(self, task, length, setting):
        arguments = [task, *self.flags, "--lengths", length, *flags_of(setting)]
        if setting is not None and self.prefill != "dense":
            arguments += ["--kv-prefill", self.prefill]
        key = " ".join(arguments)
        if key not in self.known:
            run = subprocess.run(self.command + arguments, stdout=subprocess.PIPE, check=False)
            if run.returncode != 0:
                raise SystemExit(f"quality.py: fathom eval {key}: exit code {run.returncode}")
            self.known[key] = json.loads(run.stdout)[0]
            with open(self.path, "a", encoding="utf-8") as log:
                log.write(json.dumps({"key": key, "row": self.known[key]}) + "\n")
        return self.known[key]


def mean(rows, *path):
    values = []
    for row in rows:
        for name in path:
            row = row[name] if row is not None else None
        if row is not None:
            values.append(row)
    return sum(values) / len(values) if values else None


def cell(value, form):
    return "" if value is None else form.format(value)


def print_row(setting, rows):
    names = ["dense"] + [""] * len(AXES) if setting is None else list(setting.values())
    names[2] = "own" if names[2] == "0" else names[2]
    scores = [f"{100 * row['score']:.1f}" for row in rows]
    kv = [cell(mean(rows, "kld"), "{:.4f}"),
          cell(mean(rows, "kv", "verified_coverage"), "{:.4f}"),
          cell(mean(rows, "kv", "coverage_estimate"), "{:.4f}"),
          cell(mean(rows, "kv", "scanned_share"), "{:.3f}"),
          cell(mean(rows, "decode_ms_per_token"), "{:.3f}")]
    print("| " + " | ".join(names + scores + kv) + " |", flush=True)


def print_table(measurements, length, tasks, settings):
    titles = ["selector", *AXES, *tasks, "KLD", "coverage", "estimated", "scanned", "ms/token"]
    print(f"\n{length} tokens\n\n| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    start = time.monotonic()
    for i, setting in enumerate(settings):
        print_row(setting, [measurements.get(task, length, setting) for task in tasks])
        left = (time.monotonic() - start) / (i + 1) * (len(settings) - i - 1)
        print(f"{length}: {i + 1} of {len(settings)} settings, {left / 60:.0f} min left",
              file=sys.stderr)


def words(known):
    def parse(text):
        chosen = text.split(",")
        unknown = set(chosen) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown.pop()} is none of {', '.join(known)}")
        return chosen
    return parse


def parse_axes(text):
    """name, or name=value/value, with commas between: the values that are not the usual one."""
    chosen = {}
    for part in text.split(","):
        name, _, values = part.partition("=")
        if name not in AXES:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(AXES)}")
        chosen[name] = values.split("/") if values else AXES[name][1:]
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("--lengths", default="8k,32k", help="of texts (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=64, help="of a task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of texts (default: %(default)s)")
    parser.add_argument("--tasks", type=words(TASKS), default=list(TASKS), metavar="A,B,...")
    parser.add_argument("--selectors", type=words(SELECTORS), default=list(SELECTORS),
                        metavar="A,B,...", help=f"of {', '.join(SELECTORS)}")
    parser.add_argument("--axes", type=parse_axes, metavar="A,B=V/W,...",
                        default={axis: values[1:] for axis, values in AXES.items()},
                        help=f"settings to change, of {', '.join(AXES)}, and to which values")
    parser.add_argument("--prefill", choices=("dense", "sparse"), default="dense",
                        help="what reading a text reads (default: %(default)s)")
    parser.add_argument("--product", action="store_true", help="change them together")
    parser.add_argument("--fathom", default=os.path.join(ROOT, "build/release/tools/fathom"),
                        help="the command (default: what tools/demo builds)")
    parser.add_argument("--log", default=os.path.join(ROOT, "build/quality.jsonl"),
                        help="results that are known (default: build/quality.jsonl)")
    options = parser.parse_args()
    measurements = Measurements(options.log, options.fathom, options.model, options)
    for length in options.lengths.split(","):
        print_table(measurements, length, options.tasks,
                    list(make_settings(options.selectors, options.axes, options.product)))


if __name__ == "__main__":
    main()
