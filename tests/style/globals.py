# No mutable globals: the library's objects hold no writable data but the per-thread error text.
# Usage: globals.py LIBRARY.a...
#
# Tables of constants that hold addresses lie in .data.rel.ro, which is read-only once loaded. What
# nvcc makes beside each kernel, to find it on the device, is not ours, nor is what NVTX's header
# makes.

import re
import subprocess
import sys

import sources

OF_NVIDIA = re.compile(r"__device_stub__|__cudaFatCubinHandle|^DW\.ref\.__gxx_personality|"
                       r"^nvtxGlobals_|^InitializeInjectionNvtx")


def main():
    checks = sources.Checks("globals")
    for library in sys.argv[1:]:
        table = subprocess.run(["objdump", "-t", library], capture_output=True, text=True,
                               check=True).stdout
        faults = []
        for line in table.split("\n"):
            fields = line[24:].split()  # section, size, name
            is_object = line[23:24] == "O"
            if is_object and len(fields) >= 3 and (
                    fields[0].startswith((".bss", ".data", "*COM*"))
                    and not fields[0].startswith(".data.rel.ro")
                    and not OF_NVIDIA.search(fields[-1])):
                faults.append(f"{fields[-1]} in {fields[0]}: state hangs from a handle")
        checks.rule(f"no mutable global in {library}", faults)
    checks.finish()


if __name__ == "__main__":
    main()
