# Runs nvcc and keeps what ptxas says of the kernels (registers, spills, shared memory) beside the
# object, for gpu/registers.py. Usage: nvcc.py REPORT NVCC ARGUMENT...
#
# What else nvcc says is passed on.

import re
import subprocess
import sys

REPORT = re.compile(r"^ptxas info|^\s+\d+ bytes stack frame|^Compile time")


def main():
    run = subprocess.run(sys.argv[2:] + ["-Xptxas", "-v"], capture_output=True, text=True)
    lines = (run.stdout + run.stderr).splitlines(keepends=True)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.writelines(line for line in lines if REPORT.match(line))
    sys.stderr.writelines(line for line in lines if run.returncode or not REPORT.match(line))
    sys.exit(run.returncode)


if __name__ == "__main__":
    main()
