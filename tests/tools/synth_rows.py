# --repeat-rows of synth_gguf.py: the first rows of a tensor stand for all. Usage: synth_rows.py

import os
import subprocess
import sys
import tempfile

from with_numpy import ROOT

import sources


def find_others(folder):
    """Rows of the last tensor, which ends the file, that are not what they should be."""
    n_rows, n_repeat, row_bytes = 300, 7, 2 * 64
    parts = []
    for name, options in ("whole", []), ("repeated", ["--repeat-rows", str(n_repeat)]):
        path = os.path.join(folder, name + ".gguf")
        subprocess.run([sys.executable, "-B", os.path.join(ROOT, "tools/synth_gguf.py"), path,
                        *"--arch llama --layers 1 --d-model 64 --heads 2 --kv-heads 1 --head-dim 32"
                        .split(), "--ff", "64", "--vocab", str(n_rows), "--type", "f16", *options],
                       check=True)
        with open(path, "rb") as file:
            parts.append(file.read())
    whole, repeated = parts
    rows = [repeated[len(repeated) - (n_rows - i) * row_bytes:][:row_bytes] for i in range(n_rows)]
    first = whole[len(whole) - n_rows * row_bytes:][:n_repeat * row_bytes]
    faults = [] if len(whole) == len(repeated) else [f"{len(repeated)} bytes, not {len(whole)}"]
    if b"".join(rows[:n_repeat]) != first:
        faults.append("the first rows are others")
    return faults + [f"row {i}" for i in range(n_rows) if rows[i] != rows[i % n_repeat]]


def main():
    checks = sources.Checks("synth_rows")
    with tempfile.TemporaryDirectory() as folder:
        checks.rule("the first rows of a tensor stand for all", find_others(folder))
    checks.finish()


if __name__ == "__main__":
    main()
