# Shows the output of every test that failed and sums all counts into the closing line.
# Usage: tally.py RESULTS
#
# RESULTS holds NAME.json (one JSON object for each test, from `meson test --logbase NAME`) with
# NAME.status (the exit status of that run), and .txt files of "check:" lines from other steps. A
# test that crashes or does not count counts as one failure. Exits 1 when anything failed.

import glob
import json
import os
import re
import sys

COUNTS = re.compile(r"^check: .*: (\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
LINES_SHOWN = 200


def count(text):
    """[passed, failed, skipped] over all check lines, or None when there are none."""
    found = COUNTS.findall(text)
    return [sum(int(line[i]) for line in found) for i in range(3)] if found else None


def tally_test(run, test):
    """Counts of one test; prints what it said if it failed."""
    said = (test.get("stdout") or "") + (test.get("stderr") or "")
    counts = count(said)
    why = None
    if counts is None:
        counts = [0, 1, 0]
        why = "no check line"
    elif test["result"] not in ("OK", "SKIP") and counts[1] == 0:
        counts[1] = 1
    if counts[1]:
        lines = said.rstrip("\n").split("\n")
        print(f"\n== failed: {run}: {test['name']}: {test['result']}" + (f", {why}" if why else ""))
        if len(lines) > LINES_SHOWN:
            print(f"(the last {LINES_SHOWN} of {len(lines)} lines)")
        print("\n".join(lines[-LINES_SHOWN:]))
    return counts


def tally_run(path):
    """Counts of one `meson test` run, whose exit status must not say worse."""
    run = os.path.basename(path)[:-len(".json")]
    with open(path, encoding="utf-8") as file:
        tests = [json.loads(line) for line in file if line.strip()]
    sums = [sum(column) for column in zip(*(tally_test(run, test) for test in tests))] or [0, 0, 0]
    with open(path[:-len(".json")] + ".status", encoding="utf-8") as file:
        status = int(file.read())
    if not tests or (status != 0 and sums[1] == 0):
        print(f"\n== failed: {run}: {len(tests)} tests, {sums[1]} failures, "
              f"but meson test exited with {status}")
        sums[1] += 1
    return sums


def main():
    folder = sys.argv[1]
    totals = [0, 0, 0]
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        totals = [a + b for a, b in zip(totals, tally_run(path))]
    for path in sorted(glob.glob(os.path.join(folder, "*.txt"))):
        with open(path, encoding="utf-8") as file:
            counts = count(file.read())
        if counts[1]:
            print(f"\n== failed: {os.path.basename(path)[:-len('.txt')]}")
        totals = [a + b for a, b in zip(totals, counts)]
    if sum(totals) == 0:
        totals[1] = 1
    print("{} passed, {} failed, {} skipped".format(*totals))
    sys.exit(1 if totals[1] else 0)


if __name__ == "__main__":
    main()
