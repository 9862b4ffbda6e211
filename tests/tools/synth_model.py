# synth_gguf.py: the first rows of a tensor stand for all with --repeat-rows, and sizes that no model
# has are refused before a file is there. Usage: synth_model.py

import os
import subprocess
import sys
import tempfile

from with_numpy import ROOT

import sources

SYNTH = [sys.executable, "-B", os.path.join(ROOT, "tools/synth_gguf.py")]
REFUSED = (
    ("--layers 1", "missing without --shape: --arch, --d-model"),
    ("--shape qwen3-0.6b --layers 0", "--layers must be 1 or more"),
    ("--shape qwen3-0.6b --ff -1", "--ff must be 1 or more"),
    ("--shape qwen3-0.6b --context 0", "--context must be 1 or more"),
    ("--shape qwen3-0.6b --rope-base 0", "--rope-base must be above 1"),
    ("--shape qwen3-0.6b --seed -1", "--seed and --repeat-rows must be 0 or more"),
)


def find_others(folder):
    """Rows of the last tensor, which ends the file, that are not what they should be."""
    n_rows, n_repeat, row_bytes = 300, 7, 2 * 64
    parts = []
    for name, options in ("whole", []), ("repeated", ["--repeat-rows", str(n_repeat)]):
        path = os.path.join(folder, name + ".gguf")
        sizes = ("--arch llama --layers 1 --d-model 64 --heads 2 --kv-heads 1 --head-dim 32 "
                 f"--ff 64 --vocab {n_rows} --type f16")
        subprocess.run([*SYNTH, path, *sizes.split(), *options], check=True)
        with open(path, "rb") as file:
            parts.append(file.read())
    whole, repeated = parts
    rows = [repeated[len(repeated) - (n_rows - i) * row_bytes:][:row_bytes] for i in range(n_rows)]
    first = whole[len(whole) - n_rows * row_bytes:][:n_repeat * row_bytes]
    faults = [] if len(whole) == len(repeated) else [f"{len(repeated)} bytes, not {len(whole)}"]
    if b"".join(rows[:n_repeat]) != first:
        faults.append("the first rows are others")
    return faults + [f"row {i}" for i in range(n_rows) if rows[i] != rows[i % n_repeat]]


def find_accepted(folder):
    path = os.path.join(folder, "refused.gguf")
    for options, message in REFUSED:
        run = subprocess.run([*SYNTH, path, *options.split()], stderr=subprocess.PIPE, text=True,
                             check=False)
        if run.returncode != 1 or not run.stderr.startswith(message) or os.path.exists(path):
            yield f"{options}: exit code {run.returncode}, {run.stderr}"


def main():
    checks = sources.Checks("synth_model")
    with tempfile.TemporaryDirectory() as folder:
        checks.rule("the first rows of a tensor stand for all", find_others(folder))
        checks.rule("sizes that no model has are refused", list(find_accepted(folder)))
    checks.finish()


if __name__ == "__main__":
    main()
