# Layers: includes point down only, and foreign libraries stay in the folder they entered by.
#
# The table is part 3 of the design: a folder may include its own headers and those of the folders
# named here. Meson puts each target's own folder on the include path, so a short include compiles;
# that is why includes are read here and not left to the compiler.

import os

import sources

ALLOWED = {
    "include/fathom": [],
    "src/base": ["include/fathom"],
    "src/iface": ["include/fathom", "src/base"],
    "cpu": ["include/fathom", "src/base", "src/iface"],
    "gpu": ["include/fathom", "src/base", "src/iface"],
    "index": ["include/fathom", "src/base", "src/iface"],
    "io": ["include/fathom", "src/base", "src/iface"],
    "src/kv": ["include/fathom", "src/base", "src/iface"],
    "src/model": ["include/fathom", "src/base", "src/iface"],
    "tools": ["include/fathom"],
}
ALLOWED["tests"] = list(ALLOWED)
# The one file that names implementations.
WIRE = "src/kv/wire.c"
IMPLEMENTATIONS = ["cpu", "gpu", "index", "io"]

# Header (a prefix of what stands between < and >) -> where it may be included.
HOMES = {
    "cublas": ["gpu"],
    "cuda": ["gpu"],
    "faiss": ["index"],
    "hwloc": ["io"],
    "immintrin": ["cpu/x86"],
    "jansson": ["src/base", "tools"],
    "liburing": ["io"],
    "pcre2": ["src/model"],
    "x86intrin": ["cpu/x86"],
    "xxhash": ["src/base"],
}
PUBLIC_MAY = {"stdbool.h", "stddef.h", "stdint.h"}


def includes(path):
    """(line, bracket, name) of each include."""
    text = sources.read(path)
    return [(sources.line_of(text, m.start(2)), m.group(1), m.group(2))
            for m in sources.INCLUDE.finditer(text)]


def resolve(name):
    """The file that a quoted include means, from the root; None when it is no full path."""
    path = "include/" + name if name.startswith("fathom/") else name
    return path if os.path.isfile(os.path.join(sources.ROOT, path)) else None


def layer_of(path):
    for layer in ALLOWED:
        if path.startswith(layer + "/"):
            return layer
    return None


def find_upward(paths):
    faults = []
    for path in paths:
        layer = layer_of(path)
        if layer is None:
            faults.append(f"{path}: no layer: C files live in {', '.join(ALLOWED)}")
            continue
        allowed = [layer] + ALLOWED[layer] + (IMPLEMENTATIONS if path == WIRE else [])
        for line, bracket, name in includes(path):
            target = resolve(name) if bracket == '"' else None
            if target is not None and layer_of(target) not in allowed:
                faults.append(f'{path}:{line}: "{name}": {layer} sees only '
                              f"{', '.join(allowed)}")
    return faults


def find_short(paths):
    faults = []
    for path in paths:
        for line, bracket, name in includes(path):
            if bracket == '"' and resolve(name) is None:
                faults.append(f'{path}:{line}: "{name}": not a path from the root')
            if bracket == "<" and name.startswith("fathom/"):
                faults.append(f"{path}:{line}: <{name}>: write it with quotes")
    return faults


def find_own_header_late(paths):
    """X.c includes X.h, if that stands beside it, before anything else: the proof that it can."""
    faults = []
    for path in paths:
        stem, ending = os.path.splitext(path)
        own = stem + ".h"
        if ending == ".h" or not os.path.isfile(os.path.join(sources.ROOT, own)):
            continue
        names = [name for _, _, name in includes(path)]
        if not names or resolve(names[0]) != own:
            faults.append(f'{path}: include "{own}" first')
    return faults


def find_strays(paths):
    faults = []
    for path in paths:
        if path.startswith("tests/"):
            continue
        for line, bracket, name in includes(path):
            for prefix, homes in HOMES.items():
                at_home = any(path.startswith(home + "/") for home in homes)
                if bracket == "<" and name.startswith(prefix) and not at_home:
                    faults.append(f"{path}:{line}: <{name}>: only in {', '.join(homes)}")
            if path.startswith("include/") and bracket == "<" and name not in PUBLIC_MAY:
                faults.append(f"{path}:{line}: <{name}>: public headers include only "
                              f"{', '.join(sorted(PUBLIC_MAY))}")
            if path.startswith("src/kv/") and name == "errno.h":
                faults.append(f"{path}:{line}: <errno.h>: errno becomes a status in io/")
    return faults


def main():
    paths = sources.c_files()
    checks = sources.Checks("layers")
    checks.rule("includes point down only", find_upward(paths))
    checks.rule("includes are full paths from the root", find_short(paths))
    checks.rule("a file includes its own header first", find_own_header_late(paths))
    checks.rule("foreign headers stay in their folder", find_strays(paths))
    checks.rule("src/iface holds contracts, no code",
                [p for p in paths if p.startswith("src/iface/") and not p.endswith(".h")])
    checks.rule("intrinsics stay in cpu/x86", sources.find(
        [p for p in paths if not p.startswith(("cpu/x86/", "tests/"))],
        r"\b(_mm\d*_\w+|__m(128|256|512)\w*|__builtin_ia32_(?!pause\b)\w+)", "only in cpu/x86"))
    checks.finish()


if __name__ == "__main__":
    main()
