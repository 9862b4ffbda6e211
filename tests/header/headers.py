# Every public header and every contract compiled alone, twice over, as C17 and as C++17.
# Usage: headers.py "C COMPILER" ["C++ COMPILER"]
#
# Public headers see nothing but include/, as they will where they are installed.

import glob
import os
import shlex
import subprocess
import sys

ROOT = os.environ["FATHOM_SOURCE_ROOT"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def compile_alone(compiler, standard, include_dirs, name):
    """What the compiler says against the header, or ''."""
    language = "c++" if "++" in standard else "c"
    command = (shlex.split(compiler) + ["-x", language, "-std=" + standard, "-fsyntax-only"]
               + WARNINGS + ["-I" + os.path.join(ROOT, folder) for folder in include_dirs] + ["-"])
    # Twice, for the guard; the declaration keeps the unit from being empty.
    text = f'#include "{name}"\n#include "{name}"\nextern int unit_of_the_test;\n'
    run = subprocess.run(command, input=text, capture_output=True, text=True)
    return "" if run.returncode == 0 else run.stderr or f"exit {run.returncode}"


def main():
    standards = list(zip(sys.argv[1:], ["c17", "c++17"]))
    public = sorted(glob.glob(os.path.join(ROOT, "include/fathom/*.h")))
    contracts = sorted(glob.glob(os.path.join(ROOT, "src/iface/*.h")))
    cases = [(os.path.relpath(path, os.path.join(ROOT, "include")), ["include"])
             for path in public]
    cases += [(os.path.relpath(path, ROOT), [".", "include"]) for path in contracts]
    passed = failed = skipped = 0
    for name, include_dirs in cases:
        for compiler, standard in standards:
            said = compile_alone(compiler, standard, include_dirs, name)
            if said:
                print(f"{name} as {standard}:\n{said}")
                failed += 1
            else:
                passed += 1
    if len(standards) < 2:
        print("skipped: C++17: no C++ compiler")
        skipped += len(cases)
    print(f"check: headers: {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
