# tools/gpu-check where there is no GPU: what it refuses, and its table, with stand-ins for the driver,
# the build and the programs. Usage: gpu_check.py

import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.environ.get("FATHOM_SOURCE_ROOT") or os.getcwd()
sys.path.insert(0, os.path.join(ROOT, "tests/style"))

import sources

ATTENTION = "decode   f16  131072 keys: 200.0 us, 5368.7 GB/s\nprefill  bf16 32768 tokens: 9 ms"
SCRIPT = "#!/bin/sh\n%s\n"
STAND_INS = {
    "nvidia-smi": "echo 'Some GPU, 580.1, 9.0'",
    "nvcc": "echo 'Cuda compilation tools, release 13.0, V13.0.88'",
    "gcc": "cat >/dev/null",
    "g++": "cat >/dev/null",
    "pkg-config": "exit 0",
    "python3": "exit 0",
    "git": "echo abc123",
    "compute-sanitizer": "exit 0",
    # Ten seconds of the clock go by between two looks at it.
    "date": """[ "$1" = +%s ] || { echo 2026-01-02; exit; }
        now=$(cat clock 2>/dev/null || echo 0); echo $((now + ${CLOCK_STEP:-10})) >clock; echo $now""",
    "timeout": 'shift 3; case "$*" in *racecheck*) exit 124 ;; esac; exec "$@"',
    "meson": """if [ "$1" = setup ]; then mkdir -p "$2"; exit; fi
        echo "1/2 fathom:gpu / k_attend_cuda_on_device  OK    0.01s"
        case "$*" in *memcheck*) state=FAIL ;; *) state=OK ;; esac
        echo "2/2 fathom:gpu / k_product_cuda_on_device $state  0.01s"; [ $state = OK ]""",
    "ninja": """case "$*" in
        *targets*) echo 'tests/gpu/k_attend_cuda_on_device: LINK'; exit ;;
        esac
        mkdir -p build/gpu/tests/gpu build/gpu/tools
        cp stand_ins/attend build/gpu/tests/gpu/k_attend_cuda_on_device
        cp stand_ins/product build/gpu/tests/gpu/k_product_cuda_on_device
        cp stand_ins/fathom build/gpu/tools/fathom""",
    "attend": f"echo Some GPU; echo '{ATTENTION}'",
    "product": """echo 'type  tokens us/product     GB/s     copy  share'
        echo 'Q4_K       1       12.0   3000.0   4000.0    75 %'
        echo 'Q4_K       2       13.0   2900.0   4000.0    72 %'""",
    "fathom": """case "$*" in
        *list*) echo 'cuda:0 Some GPU' ;;
        *'-d 131008'*) echo 'fathom: no memory' >&2; exit 1 ;;
        *) echo '| a model | 4500.00 | 8.03 B | pp4096 | 1234.50 ± 1.00 |' ;;
        esac""",
}


def write_script(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(SCRIPT % text)
    os.chmod(path, 0o755)


def make_tree(root):
    """A checkout that has the scripts and nothing else, and the stand-ins."""
    os.makedirs(os.path.join(root, "tools"))
    os.makedirs(os.path.join(root, "stand_ins"))
    for name in ("gpu-check", "setup.sh"):
        shutil.copy(os.path.join(ROOT, "tools", name), os.path.join(root, "tools"))
    for name, text in STAND_INS.items():
        write_script(os.path.join(root, "stand_ins", name), text)


def run(root, *args, path=None, **env):
    path = path or os.path.join(root, "stand_ins") + ":/usr/bin:/bin"
    return subprocess.run(["/bin/sh", "tools/gpu-check", *args], cwd=root, text=True,
                          capture_output=True, check=False, env={"PATH": path, **env})


def refusals(root):
    """One line on standard error, and 1."""
    bare = os.path.join(root, "bare")
    os.makedirs(bare)
    for name in ("dirname", "realpath"):
        os.symlink(shutil.which(name), os.path.join(bare, name))
    faulty = os.path.join(root, "faulty")
    os.makedirs(faulty)
    write_script(os.path.join(faulty, "nvidia-smi"), "echo 'No devices were found'; exit 6")
    cases = [
        (["--fast"], bare, "--fast"),
        (["--deps"], bare, "--deps takes a folder"),
        (["--fetch-deps"], bare, "--fetch-deps takes a folder"),
        (["--deps", "nowhere"], bare, "--deps nowhere: no usr/include"),
        (["a", "b", "c"], bare, "a b c"),
        ([], bare, "there is no nvidia-smi"),
        ([], faulty + ":/usr/bin:/bin", "No devices were found"),
    ]
    faults = []
    for args, path, words in cases:
        done = run(root, *args, path=path)
        if done.returncode != 1 or words not in done.stderr or done.stderr.count("\n") != 1:
            faults.append(f"{args}: {done.returncode}, {done.stderr!r}")
    return faults


def table_of(done):
    rows = [line.strip("| ").split(" | ") for line in done.stdout.split("\n")
            if line.startswith("| ")]
    return {row[0]: tuple(row[1:]) for row in rows[1:]}


def table(root):
    """Every part has its row, also those that fail or are stopped."""
    done = run(root)
    rows = table_of(done)
    passed = "passed, 10 s"
    speed = (passed, "1234.50 ± 1.00 tokens/s")
    wanted = {
        "tests on the device": (passed, "2 OK"),
        "products": (passed, "Q4_K 3000.0 GB/s, 75 % of a copy"),
        "attention": (passed, "; ".join(" ".join(line.split()) for line in ATTENTION.split("\n"))),
        "devices": (passed, "cuda:0 Some GPU"),
        "8B: bench -p 4096 -n 0 -r 3": speed,
        "8B: bench -p 0 -n 64 -d 131008 -r 3": ("failed", "fathom: no memory"),
        "memcheck": ("failed", "1 OK; k_product_cuda_on_device FAIL"),
        "racecheck": ("stopped after 75 s", "0 OK"),
        "initcheck": (passed, "2 OK"),
    }
    faults = [f"{name}: {rows.get(name)}" for name, row in wanted.items() if rows.get(name) != row]
    if done.returncode != 1:
        faults.append(f"exit status {done.returncode} although parts failed")
    if "2026-01-02, Some GPU, 580.1, 9.0 (driver, compute capability), CUDA 13.0, commit abc123" \
            not in done.stdout:
        faults.append(done.stdout + done.stderr)
    return faults


def out_of_time(root):
    """What does not fit is in the table, and is no failure."""
    done = run(root, CLOCK_STEP="300")
    late = {name: row for name, row in table_of(done).items() if name != "build"}
    bad = [f"{name}: {row}" for name, row in late.items() if row != ("not run", "no time was left")]
    return bad + ([] if late and done.returncode == 0 else [f"{done.returncode}: {done.stdout}"])


def main():
    checks = sources.Checks("gpu_check")
    for check in (refusals, table, out_of_time):
        with tempfile.TemporaryDirectory() as root:
            make_tree(root)
            checks.rule(check.__doc__, check(root))
    checks.finish()


if __name__ == "__main__":
    main()
