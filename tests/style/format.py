# Format: every C file is as clang-format leaves it. Usage: format.py CLANG-FORMAT
#
# One version of the formatter, because versions differ in what they find beautiful.

import subprocess
import sys

import sources


def main():
    checks = sources.Checks("format")
    formatter = sys.argv[1] if len(sys.argv) > 1 else ""
    if not formatter:
        checks.skip("clang-format", "clang-format-14 is not installed")
        checks.finish()
    run = subprocess.run([formatter, "--dry-run", "-Werror", "--style=file"] + sources.c_files(),
                         cwd=sources.ROOT, capture_output=True, text=True)
    faults = {}
    for line in run.stderr.split("\n"):
        if "error:" in line:
            faults.setdefault(line.split(":")[0], line)
    if run.returncode and not faults:
        faults[""] = run.stderr
    checks.rule("clang-format changes nothing (run clang-format-14 -i)", list(faults.values()))
    checks.finish()


if __name__ == "__main__":
    main()
