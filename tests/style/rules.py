# Manners that a search can see: what the library never calls, words that mean unfinished work,
# head comments, guards, names.

import os
import re

import sources

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\b(for now|not (?:yet )?implemented)\b",
                        re.IGNORECASE)
# A call of a plain function: neither a member (x.free, x->free) nor part of a longer name.
CALL = r"(?<![\w.>])(?:%s)\s*\("
ALLOCATE = CALL % "|".join(["malloc", "calloc", "realloc", "free", "aligned_alloc",
                            "posix_memalign", "strdup", "strndup", "asprintf", "vasprintf"])
SPEAK = CALL % "|".join(["printf", "vprintf", "fprintf", "vfprintf", "dprintf", "puts", "fputs",
                         "putchar", "fputc", "perror", "getenv", "secure_getenv", "setenv",
                         "exit", "_exit", "_Exit", "quick_exit", "abort"])
TEXT_ENDINGS = sources.C_ENDINGS + (".py", ".sh", ".md", ".build", ".txt", ".1", ".yml")
# Names that a folder or a tool prescribes.
REPEATED = {".clang-tidy", "README.md", "meson.build", "meson_options.txt", "__init__.py"}
# What kernels may not use: it is in gpu/dialect.cuh under another name, or the emulation lacks it.
DIALECT = "gpu/dialect.cuh"
FOREIGN = re.compile(r"<<<|\b(?:__shared__|asm|__asm__|__activemask|__CUDA_ARCH__|__CUDACC__)\b"
                     r"|#\s*include\s*<(?:cuda_runtime|cuda_fp16|cuda_bf16|cooperative_groups"
                     r"|mma|thrust/\w+|cub/\w+)(?:\.h)?>")
# C++ is where CUDA or FAISS is.
CPP_ENDINGS = (".cpp", ".cu", ".cuh")
CPP_HOMES = ("gpu/", "index/", "tests/emu/", "tests/gpu/")


def text_files():
    """(path, text) of what people write: sources, scripts, documents."""
    for path in sources.list_files():
        text = sources.read(path)
        if text is not None and (path.endswith(TEXT_ENDINGS) or text.startswith("#!")):
            yield path, text


def find_unfinished():
    faults = []
    for path, text in text_files():
        if path.startswith("tests/style/"):
            continue
        for match in UNFINISHED.finditer(text):
            word = match.group()
            if match.group(1) and not word.isupper():
                continue
            faults.append(f"{path}:{sources.line_of(text, match.start())}: {word}")
    return faults


def find_blanks():
    faults = []
    for path, text in text_files():
        if path.startswith("tests/data/"):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if line != line.rstrip():
                faults.append(f"{path}:{number}: blank or carriage return at the end")
            if "\t" in line:
                faults.append(f"{path}:{number}: tab")
        if text and not text.endswith("\n"):
            faults.append(f"{path}: no newline at the end")
    return faults


def find_headless():
    faults = []
    for path, text in text_files():
        if path.endswith(sources.C_ENDINGS) and not text.startswith("//"):
            faults.append(f"{path}: begin with a comment: what it owns, why, what it is not for")
        if path.endswith((".py", ".sh")) or text.startswith("#!"):
            lines = [line for line in text.split("\n") if not line.startswith("#!")]
            if not lines[0].startswith(("#", '"""')):
                faults.append(f"{path}: begin with a comment: what it does and how it is used")
    return faults


def find_guards():
    faults = []
    for path in sources.c_files():
        if not path.endswith((".h", ".cuh")):
            continue
        inside = path[len("include/fathom/"):] if path.startswith("include/") else path
        guard = "FATHOM_" + re.sub(r"[^A-Za-z0-9]", "_", inside).upper()
        if not re.search(rf"^#ifndef {guard}\n#define {guard}\n", sources.code(path), re.MULTILINE):
            faults.append(f"{path}: guard it with {guard}")
    return faults


def find_repeated():
    """Public headers are a name space of their own: they are always written "fathom/name.h"."""
    seen = {}
    faults = []
    for path in sources.list_files():
        name = os.path.basename(path)
        if name in REPEATED or path.startswith("include/"):
            continue
        if name in seen:
            faults.append(f"{path}: has the name of {seen[name]}")
        seen.setdefault(name, path)
    return faults


def find_foreign():
    """Kernels, by the rules of gpu/README.md."""
    kernels = [p for p in sources.c_files() if p.endswith((".cu", ".cuh")) and p != DIALECT]
    return sources.find(kernels, FOREIGN.pattern, "use gpu/dialect.cuh")


def main():
    library = sources.c_files(*sources.LIBRARY)
    checks = sources.Checks("rules")
    checks.rule("memory comes from src/base/mem.c", sources.find(
        [p for p in library if p != "src/base/mem.c"], ALLOCATE, "use mem_new or arena_new"))
    checks.rule("the library neither prints nor exits nor reads the environment", sources.find(
        library, SPEAK, "return a status, or log through the device"))
    checks.rule("the library touches no standard stream", sources.find(
        library, r"\b(stdout|stderr|stdin)\b", "log through the device"))
    checks.rule("features are chosen by meson.build, not by #if", sources.find(
        sources.c_files(), r"\bHAVE_\w+", "let meson.build choose a source file"))
    checks.rule("structs have tags, not typedefs", sources.find(
        [p for p in library if not p.startswith("include/")],
        r"\btypedef\s+(struct|union)\b", "only public opaque handles are typedefs"))
    checks.rule("kernels keep to the dialect", find_foreign())
    checks.rule("C++ is only where CUDA or FAISS is", [
        p for p in sources.c_files() if p.endswith(CPP_ENDINGS) and not p.startswith(CPP_HOMES)])
    checks.rule("no unfinished work", find_unfinished())
    checks.rule("no tabs, no blanks at line ends", find_blanks())
    checks.rule("every file says what it is for", find_headless())
    checks.rule("guards follow the path", find_guards())
    checks.rule("file names are unique", find_repeated())
    checks.finish()


if __name__ == "__main__":
    main()
