#!/bin/sh
# Compares the disk tier's random reads with fio's, on the same file, with O_DIRECT and io_uring at
# the same depth. Usage: tools/bench_disk.sh FOLDER [GIB [RUNS [SECONDS]]]
#
# The file has GIB gigabytes (4) and lies in FOLDER, on the disk that is to be measured; it is gone
# afterwards. Ours and fio take turns, RUNS times (5) for SECONDS (3) each, since disks drift; the
# figures are medians, that of the ratio too. fio has pinned buffers and files
# as we have; we also verify checksums, and read in batches of 2048 with an end each. Needs root or
# sudo only when something is missing.

set -eu
cd "$(dirname "$0")/.."
. tools/setup.sh

usage='usage: tools/bench_disk.sh FOLDER [GIB [RUNS [SECONDS]]]'
case ${1-} in
-h | --help) echo "$usage" && exit ;;
'') echo "$usage" >&2 && exit 1 ;;
esac
if [ ! -d "$1" ]; then
    echo "bench_disk.sh: there is no folder $1" >&2
    exit 1
fi
place=$(cd "$1" && pwd) # setup.sh has a folder of its own
gib=${2-4}
runs=${3-5}
seconds=${4-3}
depth=128

# shellcheck disable=SC2086 # a list of words
need_packages $build_needs libcmocka-dev python3 fio
configure gcc -Dwerror=true
ninja -C build/gcc --quiet tests/io/bench_store

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkfifo "$work/ask" "$work/answer"
build/gcc/tests/io/bench_store "$place" "$gib" uring $depth <"$work/ask" >"$work/answer" &
exec 3>"$work/ask" 4<"$work/answer"
read -r file <&4

fio_reads() { # KIB
    fio --name=read --filename="$file" --readonly --rw=randread --bs="$1k" --direct=1 \
        --ioengine=io_uring --iodepth=$depth --fixedbufs --registerfiles --time_based \
        --runtime="$seconds" --output-format=terse --terse-version=3 | cut -d ';' -f 8
}

median() { # COLUMN
    cut -d ' ' -f "$1" "$work/turns" | sort -n | sed -n "$(((runs + 1) / 2))p"
}

echo "depth $depth, medians of $runs turns of $seconds s, $gib GiB in $place"
for kib in 4 8 16; do
    : >"$work/turns"
    while [ "$(wc -l <"$work/turns")" -lt "$runs" ]; do
        echo "$kib $seconds" >&3
        read -r ours <&4
        theirs=$(fio_reads $kib)
        echo "$ours $theirs $((ours * 100 / theirs))" >>"$work/turns"
    done
    echo "$kib KiB: $(median 1) reads/s, fio $(median 2), $(median 3) % of it"
done
exec 3>&-
wait
