# What each kernel takes of a multiprocessor, on each architecture that it was compiled for: registers
# of a thread, static shared memory of a block, and bytes of stack and of registers spilled to memory.
# Usage: registers.py REPORT... (of gpu/nvcc.py)
#
# Also a test: a kernel that spills or that keeps arrays on the stack is not what its author meant.

import re
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def plain_name(mangled):
    """The identifier in a mangled name, and what its template was given, if it is one."""
    match = re.match(r"_Z(\d+)", mangled)
    if not match:
        return mangled
    end = match.end() + int(match.group(1))
    arguments = re.match(r"I(\w+?)E?Ev", mangled[end:])  # kernels return nothing
    return mangled[match.end():end] + (f"<{arguments.group(1)}>" if arguments else "")


def read_kernels(text):
    """(kernel, architecture) -> [registers, shared, stack, spilled] of one report."""
    kernels = {}
    numbers = None
    for line in text.split("\n"):
        entry, memory, used = ENTRY.search(line), MEMORY.search(line), USED.search(line)
        if entry:
            numbers = kernels[plain_name(entry.group(1)), entry.group(2)] = [0, 0, 0, 0]
        elif memory and numbers:
            numbers[2] = int(memory.group(1))
            numbers[3] = int(memory.group(2)) + int(memory.group(3))
        elif used and numbers:
            shared = SHARED.search(line)
            numbers[:2] = [int(used.group(1)), int(shared.group(1)) if shared else 0]
    return kernels


def main():
    kernels = {}
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            kernels.update(read_kernels(file.read()))
    print(f"{'kernel':40} {'sm':>5} {'registers':>9} {'shared':>7} {'stack':>6} {'spilled':>7}")
    failed = 0
    for (name, arch), numbers in sorted(kernels.items()):
        registers, shared, stack, spilled = numbers
        bad = registers == 0 or stack > 0 or spilled > 0
        failed += bad
        print(f"{name:40} {arch:>5} {registers:>9} {shared:>7} {stack:>6} {spilled:>7}"
              + ("  <- spills, or has a stack" if bad else ""))
    failed += not kernels
    print(f"check: registers: {len(kernels) - failed if kernels else 0} passed, {failed} failed, "
          "0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
