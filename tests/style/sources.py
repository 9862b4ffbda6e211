# What every style test shares: the list of files, C text without its comments, and the counting.
#
# The rules themselves stand in the scripts beside this one. All of them read the working tree
# (tracked files and new ones that git does not ignore), so a fault shows before it is committed.

import os
import re
import subprocess
import sys

ROOT = os.environ.get("FATHOM_SOURCE_ROOT") or os.getcwd()
C_ENDINGS = (".c", ".h", ".cpp", ".cu", ".cuh")
LIBRARY = ("include/", "src/", "cpu/", "gpu/", "index/", "io/")

TOKEN = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)


def list_files():
    """Paths from the root, sorted. Without git, or in an unpacked archive: all that is there."""
    command = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        paths = set(listed.split("\0")) - {""}
    except (OSError, subprocess.CalledProcessError):
        paths = set()
        for folder, folders, names in os.walk(ROOT):
            inside = os.path.relpath(folder, ROOT)
            folders[:] = [f for f in folders if f not in (".git", "__pycache__")
                          and not (inside == "." and f.startswith("build"))]
            paths.update(os.path.normpath(os.path.join(inside, name)) for name in names)
    return sorted(p for p in paths if os.path.isfile(os.path.join(ROOT, p)))


def read(path):
    """The text of a file, or None when it is binary."""
    with open(os.path.join(ROOT, path), "rb") as file:
        data = file.read()
    if b"\0" in data:
        return None
    return data.decode("utf-8", "replace")


def c_files(*prefixes):
    return [p for p in list_files() if p.endswith(C_ENDINGS)
            and (not prefixes or p.startswith(prefixes))]


def blank(match):
    """A comment or literal as blanks of the same shape; literals keep their quotes."""
    text = match.group()
    if text[0] == "/":
        return re.sub(r"[^\n]", " ", text)
    return text[0] + " " * (len(text) - 2) + text[0]


def code(path):
    """C text with comments and literals blanked out; lines and columns stay."""
    return TOKEN.sub(blank, read(path))


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def find(paths, pattern, message):
    """Faults for every match of pattern in the code (not the comments) of the files."""
    faults = []
    for path in paths:
        text = code(path)
        for match in re.finditer(pattern, text):
            faults.append(f"{path}:{line_of(text, match.start())}: {match.group().strip()}: "
                          f"{message}")
    return faults


class Checks:
    """Counts rules; a rule passes when it has no faults."""

    def __init__(self, group):
        self.group = group
        self.passed = self.failed = self.skipped = 0

    def rule(self, name, faults):
        if faults:
            print(f"rule broken: {name}")
            for fault in faults:
                print(f"    {fault}")
            self.failed += 1
        else:
            self.passed += 1

    def skip(self, name, why):
        print(f"skipped: {name}: {why}")
        self.skipped += 1

    def finish(self):
        print(f"check: {self.group}: {self.passed} passed, {self.failed} failed, "
              f"{self.skipped} skipped")
        if self.failed:
            sys.exit(1)
        sys.exit(77 if self.skipped and not self.passed else 0)
