# The closing line of tools/check, tested: tests/tally.py on results made up here.

import json
import os
import subprocess
import sys
import tempfile

import sources

TALLY = os.path.join(sources.ROOT, "tests/tally.py")
GOOD = {"name": "a", "result": "OK", "stdout": "check: a: 3 passed, 0 failed, 1 skipped\n"}
BAD = {"name": "b", "result": "FAIL", "stdout": "why\ncheck: b: 1 passed, 2 failed, 0 skipped\n"}
SKIPPED = {"name": "c", "result": "SKIP", "stdout": "check: c: 0 passed, 0 failed, 2 skipped\n"}
CRASHED = {"name": "d", "result": "FAIL", "stdout": "boom\n"}
LEAKED = {"name": "e", "result": "FAIL", "stdout": "check: e: 4 passed, 0 failed, 0 skipped\n"}
MUTE = {"name": "f", "result": "OK"}

# (name, tests, exit status of meson test, other lines, closing line, exit status)
CASES = [
    ("sums", [GOOD, SKIPPED], 0, "", "3 passed, 0 failed, 3 skipped", 0),
    ("counts failures", [GOOD, BAD], 1, "", "4 passed, 2 failed, 1 skipped", 1),
    ("counts a crash", [GOOD, CRASHED], 1, "", "3 passed, 1 failed, 1 skipped", 1),
    ("counts a leak after the tests", [LEAKED], 1, "", "4 passed, 1 failed, 0 skipped", 1),
    ("counts a test that says nothing", [MUTE], 0, "", "0 passed, 1 failed, 0 skipped", 1),
    ("believes meson's exit status", [GOOD], 1, "", "3 passed, 1 failed, 1 skipped", 1),
    ("refuses an empty run", [], 0, "", "0 passed, 1 failed, 0 skipped", 1),
    ("adds other steps", [GOOD], 0, "check: x-build: 0 passed, 1 failed, 0 skipped\n",
     "3 passed, 1 failed, 1 skipped", 1),
]


def run_on(tests, status, lines):
    with tempfile.TemporaryDirectory() as folder:
        contents = {"run.json": "".join(json.dumps(test) + "\n" for test in tests),
                    "run.status": f"{status}\n"}
        if lines:
            contents["step.txt"] = lines
        for name, content in contents.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(content)
        return subprocess.run([sys.executable, "-B", TALLY, folder], capture_output=True,
                              text=True, check=False)


def main():
    checks = sources.Checks("tally_selftest")
    for name, tests, meson_status, lines, closing, status in CASES:
        run = run_on(tests, meson_status, lines)
        good = run.stdout.endswith("\n" + closing + "\n") or run.stdout == closing + "\n"
        checks.rule(f"tally {name}", [] if good and run.returncode == status
                    else [run.stdout + run.stderr])
    checks.finish()


if __name__ == "__main__":
    main()
