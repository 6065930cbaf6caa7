#!/usr/bin/env bash
# benches/flash.sh MIB [muse-bench arguments]: muse-bench under a limit of MIB of memory, page cache included, so that
# experts beyond it are read from the disk. As root; with the second version of cgroups, systemd sets the limit.
#
#   benches/flash.sh 2170 --synthetic qwen3-30b --layers 12 -p 0 -n 24       # a file of twice the memory
set -euo pipefail
limit=${1:?usage: benches/flash.sh MIB [muse-bench arguments]}
shift
bench=${MUSE_BENCH:-$(dirname "$0")/../target/release/muse-bench}
[ -x "$bench" ] || { echo "no $bench: cargo build --release -p muse-benches, or set MUSE_BENCH" >&2; exit 1; }
# What is left of the limit is for the process itself and for pages on their way.
command=("$bench" --memory $((limit - 100)) "$@")

if ! own=$(grep -oP '^[0-9]+:memory:\K.*' /proc/self/cgroup); then
    exec systemd-run --scope --quiet -p "MemoryMax=${limit}M" -p MemorySwapMax=0 "${command[@]}"
fi
group=/sys/fs/cgroup/memory$own/muse-flash-$$
mkdir "$group"
trap 'rmdir "$group" 2>/dev/null || { sleep 1; rmdir "$group"; }' EXIT
echo $((limit << 20)) > "$group/memory.limit_in_bytes"
status=0
(echo "$BASHPID" > "$group/cgroup.procs"; exec "${command[@]}") || status=$?
read -r peak < "$group/memory.max_usage_in_bytes"
echo "limit $limit MiB, peak $((peak >> 20)) MiB, processes killed: $(grep -oP 'oom_kill \K.*' "$group/memory.oom_control")"
exit $status
