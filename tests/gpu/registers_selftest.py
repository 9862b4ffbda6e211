# gpu/registers.py, tested: it reads what ptxas says, and takes spills and stacks for faults.

import os
import subprocess
import sys
import tempfile

SCRIPT = os.path.join(os.environ["FATHOM_SOURCE_ROOT"], "gpu", "registers.py")
KERNEL = """ptxas info    : Compiling entry function '{name}' for 'sm_{arch}'
ptxas info    : Function properties for {name}
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, {shared} bytes smem, 400 bytes cmem[0]
"""
GOOD = KERNEL.format(name="_Z10add_kernelPfPKfm", arch="80", stack=0, stores=0, loads=0,
                     registers=23, shared=128)
TEMPLATE = KERNEL.format(name="_Z7sum_oneILi4EEvPf", arch="120", stack=0, stores=0, loads=0,
                         registers=40, shared=16)
# Two kernels, though the first of their arguments is the same: neither may hide the other.
PAIR = TEMPLATE.replace("ILi4EE", "ILi4ELi1EE") + KERNEL.format(
    name="_Z7sum_oneILi4ELi8EEvPf", arch="120", stack=0, stores=0, loads=0, registers=9, shared=0)
# The same where that argument is of a template.
NESTED = PAIR.replace("sum_oneI", "sum_oneI9code_rowsILi2EE")
CASES = [  # report, exit status, what one line of the output begins with, word by word
    (GOOD, 0, ["add_kernel", "80", "23", "128", "0", "0"]),
    (GOOD + TEMPLATE, 0, ["sum_one<Li4>", "120", "40", "16", "0", "0"]),
    (PAIR, 0, ["sum_one<Li4ELi1>", "120", "40", "16", "0", "0"]),
    (PAIR, 0, ["sum_one<Li4ELi8>", "120", "9", "0", "0", "0"]),
    (NESTED, 0, ["sum_one<9code_rowsILi2EELi4ELi1>", "120", "40", "16", "0", "0"]),
    (NESTED, 0, ["sum_one<9code_rowsILi2EELi4ELi8>", "120", "9", "0", "0", "0"]),
    (GOOD + GOOD.replace("'sm_80'", "'sm_90'").replace("0 bytes spill st", "8 bytes spill st"), 1,
     ["add_kernel", "90", "23", "128", "0", "8", "<-", "spills,"]),
    (GOOD.replace("0 bytes stack", "16 bytes stack"), 1,
     ["add_kernel", "80", "23", "128", "16", "0", "<-"]),
    ("", 1, ["check:", "registers:", "0", "passed,", "1", "failed,"]),
]


def main():
    failed = 0
    for report, status, words in CASES:
        with tempfile.NamedTemporaryFile("w", suffix=".ptxas") as file:
            file.write(report)
            file.flush()
            run = subprocess.run([sys.executable, "-B", SCRIPT, file.name], capture_output=True,
                                 text=True, check=False)
        good = run.returncode == status and any(
            line.split()[:len(words)] == words for line in run.stdout.split("\n"))
        if not good:
            print(f"{report}\nexits with {run.returncode}, not {status}:\n{run.stdout}")
            failed += 1
    print(f"check: registers_selftest: {len(CASES) - failed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
