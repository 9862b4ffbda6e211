# The style tests, tested: each rule finds the fault that it is there for, in a tree that holds
# just that fault, and accepts what only looks like one.

import os
import subprocess
import sys
import tempfile

import sources

HERE = os.path.dirname(os.path.abspath(__file__))
HEAD = "// What it owns.\n"
LONG_BODY = "    x++;\n" * 130
MIDDLE_BODY = "    x++;\n" * 80

# (script, file, text, words of the rule that must be broken)
FAULTS = [
    ("layers", "src/base/a.c", HEAD + '#include "src/iface/z.h"\n', "point down"),
    ("layers", "src/model/a.c", HEAD + '#include "src/kv/z.h"\n', "point down"),
    ("layers", "cpu/a.c", HEAD + '#include "io/z.h"\n', "point down"),
    ("layers", "src/kv/a.c", HEAD + '#include "cpu/z.h"\n', "point down"),
    ("layers", "tools/a.c", HEAD + '#include "src/base/z.h"\n', "point down"),
    ("layers", "elsewhere/a.c", HEAD, "point down"),
    ("layers", "src/base/a.c", HEAD + '#include "z.h"\n', "full paths"),
    ("layers", "io/z.c", HEAD + '#include <math.h>\n#include "io/z.h"\n', "own header"),
    ("layers", "src/kv/a.c", HEAD + "#include <hwloc.h>\n", "foreign"),
    ("layers", "include/fathom/a.h", HEAD + "#include <stdio.h>\n", "foreign"),
    ("layers", "src/kv/a.c", HEAD + "#include <errno.h>\n", "foreign"),
    ("layers", "src/iface/a.c", HEAD, "no code"),
    ("layers", "cpu/a.c", HEAD + "__m256 x;\n", "intrinsics"),
    ("rules", "src/kv/a.c", HEAD + "void f(void)\n{\n    free(x);\n}\n", "memory"),
    ("rules", "src/kv/a.c", HEAD + "int x = sizeof(puts(0));\n", "neither prints"),
    ("rules", "io/a.c", HEAD + "char *x = getenv(y);\n", "neither prints"),
    ("rules", "src/kv/a.c", HEAD + "void *x = stderr;\n", "standard stream"),
    ("rules", "tests/a.c", HEAD + "#if HAVE_CUDA\n#endif\n", "meson.build"),
    ("rules", "gpu/a.cu", HEAD + "void f()\n{\n    k<<<1, 32>>>(x);\n}\n", "dialect"),
    ("rules", "gpu/a.cuh", HEAD + "__shared__ int x;\n", "dialect"),
    ("rules", "gpu/a.cu", HEAD + 'void f()\n{\n    asm volatile("bar.sync 0;");\n}\n', "dialect"),
    ("rules", "tests/gpu/a.cu", HEAD + "#include <cuda_runtime.h>\n", "dialect"),
    ("rules", "src/kv/a.cpp", HEAD + "int x;\n", "C++"),
    ("rules", "src/kv/a.c", HEAD + "typedef struct x y;\n", "typedefs"),
    ("rules", "tools/a.py", "# Head.\n# TO" "DO: all\n", "unfinished"),
    ("rules", "src/kv/a.c", "// Good enough for" " now.\n", "unfinished"),
    ("rules", "src/kv/a.c", HEAD + "int x; \n", "no tabs"),
    ("rules", "src/kv/a.c", HEAD + "\tint x;\n", "no tabs"),
    ("rules", "src/kv/a.c", "int x;\n", "what it is for"),
    ("rules", "src/kv/a.h", HEAD + "#ifndef A_H\n#define A_H\n#endif\n", "guards"),
    ("rules", "io/z.h", HEAD + "#ifndef FATHOM_IO_Z_H\n#define FATHOM_IO_Z_H\n#endif\n",
     "unique"),
    ("sizes", "src/kv/a.c", HEAD + "int f(int x)\n{\n" + LONG_BODY + "}\n", "over 120 lines"),
    ("sizes", "src/kv/a.c", HEAD + "#define F(x) \\\n" + "    x++; \\\n" * 125 + "    x\n",
     "over 120 lines"),
    ("sizes", "src/kv/a.c", HEAD + "int f(int x)\n{\n" + MIDDLE_BODY + "}\n", "over 70 lines"),
    ("sizes", "tools/a.py", "# Head.\ndef f(x):\n" + "    x += 1\n" * 125, "over 120 lines"),
    ("sizes", "src/kv/a.c", HEAD + "int x;\n" * 900, "no file over"),
    ("sizes", "src/kv/a.c", HEAD + "int x;\n" * 500, "say why"),
]
# What looks like a fault and is none.
CLEAN = [
    ("layers", "src/kv/wire.c", HEAD + '#include "cpu/z.h"\n'),
    ("layers", "src/model/a.c", HEAD + '// as in "src/kv/z.h"\n#include "fathom/z.h"\n'),
    ("rules", "src/kv/a.c", HEAD + "// free(x) and exit(1)\nint x = y->free(1) + z.exit(2);\n"),
    ("rules", "tools/a.c", HEAD + 'int x = printf("getenv() for the user");\n'),
    ("rules", "src/base/mem.c", HEAD + "void *x = malloc(1);\n"),
    ("rules", "include/fathom/mem.c", HEAD + "typedef struct x y;\n"),
    ("rules", "gpu/a.cu", HEAD + "// not __shared__ but\nvoid f()\n{\n    SHARED_VALUE(int, x);\n}\n"),
    ("rules", "gpu/a.c", HEAD + "#include <cuda_runtime_api.h>\n"),
    ("sizes", "src/kv/a.c", HEAD + "// Over 400 lines because of a table.\n" + "int x;\n" * 500),
]


def run_on(script, path, text):
    """Status and output of a style test on a small clean tree with one file added."""
    tree = {"src/base/z.h": HEAD + "#ifndef FATHOM_SRC_BASE_Z_H\n#define FATHOM_SRC_BASE_Z_H\n"
                            "#endif\n"}
    if script == "layers":
        tree.update({folder + "/z.h": HEAD for folder in
                     ("src/iface", "src/kv", "io", "cpu", "include/fathom")})
    tree[path] = text
    with tempfile.TemporaryDirectory() as root:
        for name, content in tree.items():
            os.makedirs(os.path.join(root, os.path.dirname(name)), exist_ok=True)
            with open(os.path.join(root, name), "w", encoding="utf-8") as file:
                file.write(content)
        run = subprocess.run([sys.executable, "-B", os.path.join(HERE, script + ".py")],
                             env={**os.environ, "FATHOM_SOURCE_ROOT": root},
                             capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


def main():
    checks = sources.Checks("selftest")
    for script, path, text, words in FAULTS:
        status, output = run_on(script, path, text)
        broken = [line for line in output.split("\n") if line.startswith("rule broken")]
        good = status == 1 and path in output and any(words in line for line in broken)
        checks.rule(f"{script} finds '{words}' in {path}", [] if good else [output])
    for script, path, text in CLEAN:
        status, output = run_on(script, path, text)
        checks.rule(f"{script} accepts {path}", [] if status == 0 else [output])
    checks.finish()


if __name__ == "__main__":
    main()
