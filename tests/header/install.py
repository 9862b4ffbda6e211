# What `ninja install` gives: the library under its SONAME, its headers, fathom.pc, the command and
# its manual page; and programs in C and C++ that find all of it through pkg-config, link and run.
# Usage: install.py BUILD_ROOT VERSION "C COMPILER" ["C++ COMPILER"]

import glob
import os
import shlex
import subprocess
import sys
import tempfile

ROOT = os.environ["FATHOM_SOURCE_ROOT"]
BUILD, VERSION = sys.argv[1:3]
MAJOR = VERSION.split(".", maxsplit=1)[0]
COMPILERS = [shlex.split(command) for command in sys.argv[3:]]
PROGRAM = r"""
#include <stdio.h>
#include "fathom/device.h"
#include "fathom/fathom.h"
#include "fathom/gguf.h"
#include "fathom/model.h"
int main(void)
{
    struct fathom_device_params params;
    fathom_device *device = NULL;
    fathom_device_params_init(&params);
    params.n_threads = 1;
    if (fathom_device_open(&params, &device) != FATHOM_OK) {
        printf("%s\n", fathom_last_error());
        return 1;
    }
    fathom_device_close(&device);
    printf("%s\n", fathom_version());
    return 0;
}
"""


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def find_one(tree, pattern):
    found = glob.glob(os.path.join(tree, "**", pattern), recursive=True)
    assert found, f"nothing installed as {pattern}"
    return found[0]


def check_files(tree):
    """Installs: all public headers, and only they; the command; its page."""
    run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", tree])
    folder = os.path.dirname(find_one(tree, "include/fathom/types.h"))
    source = os.path.join(ROOT, "include/fathom")
    headers = {name for name in os.listdir(source) if name.endswith(".h")}
    assert set(os.listdir(folder)) == headers, f"headers: {os.listdir(folder)}, not {headers}"
    assert os.access(find_one(tree, "bin/fathom"), os.X_OK)
    find_one(tree, "man1/fathom.1*")


def check_library(tree):
    """The SONAME is the major version; nothing but the public API can be linked to."""
    library = find_one(tree, f"libfathom.so.{VERSION}")
    dynamic = run(["readelf", "-d", "-W", library])
    assert f"[libfathom.so.{MAJOR}]" in dynamic, dynamic
    symbols = run(["nm", "-D", "--defined-only", library]).split("\n")
    names = [line.split()[-1] for line in symbols if line]
    foreign = [name for name in names if not name.startswith("fathom_")]
    assert names and not foreign, f"exported: {foreign}"


def check_program(tree, compiler, language):
    """A program built as a stranger would build it says the library's version."""
    folder = os.path.dirname(find_one(tree, "libfathom.so"))
    environment = {**os.environ, "PKG_CONFIG_SYSROOT_DIR": tree, "LD_LIBRARY_PATH": folder,
                   "PKG_CONFIG_PATH": os.path.join(folder, "pkgconfig")}
    version = run(["pkg-config", "--modversion", "fathom"], env=environment).strip()
    assert version == VERSION, version
    flags = run(["pkg-config", "--cflags", "--libs", "fathom"], env=environment)
    program = os.path.join(tree, "program")
    run(compiler + ["-x", language, "-", "-x", "none", "-Wall", "-Wextra", "-Werror", "-o", program]
        + shlex.split(flags), input=PROGRAM)
    said = run([program], env=environment).strip()
    assert said == VERSION, said


def main():
    passed = failed = skipped = 0
    with tempfile.TemporaryDirectory() as tree:
        cases = [(check_files, [tree]), (check_library, [tree])]
        cases += [(check_program, [tree, compiler, language])
                  for compiler, language in zip(COMPILERS, ["c", "c++"])]
        for case, arguments in cases:
            try:
                case(*arguments)
                passed += 1
            except (AssertionError, subprocess.CalledProcessError) as error:
                print(f"{case.__name__}{arguments[1:]}: {error}")
                print(getattr(error, "stderr", None) or "")
                failed += 1
    if len(COMPILERS) < 2:
        print("skipped: C++: no C++ compiler")
        skipped += 1
    print(f"check: install: {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
