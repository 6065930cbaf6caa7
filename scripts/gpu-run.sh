#!/usr/bin/env bash
# Checks and measures the CUDA kernels on this machine's first GPU, with what `scripts/gpu.sh --pack` put beside this file. The
# most telling steps come first, each with a time limit of its own; one that fails does not stop the others.
#
#   run.sh [--quick] [--seconds N] [--out FOLDER]
#
# --quick measures less. No step begins after N seconds, of 540. What is written to FOLDER, `results` beside this file
# otherwise: summary.txt, which is shown at the end, log.txt with all that was printed, tables, and JSON of the products.
# The status is 0 where every step that could run is right. It needs xz or Python 3.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
quick='' seconds=540 out=$here/results
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=yes ;;
    --seconds) seconds=$2 && shift ;;
    --out) out=$2 && shift ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
made=$(head -1 "$here/made")
if [ "$(uname -m)" != "$made" ]; then
  echo "these programs are for $made, and this machine is $(uname -m): run scripts/gpu.sh --pack FOLDER here, with Rust" >&2
  exit 1
fi
mkdir -p "$out"
log=$out/log.txt summary=$out/summary.txt failed=0
: >"$log"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xJf "$here/programs.tar.xz" 2>/dev/null || python3 -m tarfile -e "$here/programs.tar.xz" "$work" || exit
chmod +x "$work"/bin/* "$work"/tests/*

printf '%-34s %-8s %5s  %s\n' step result s 'what it says' >"$summary"

# note NAME RESULT SECONDS TEXT adds a line to the summary.
note() {
  printf '%-34s %-8s %5d  %s\n' "$1" "$2" "$3" "$(cut -c 1-150 <<<"$4")" | tee -a "$summary"
}

# step NAME LIMIT PATTERN COMMAND... runs it for LIMIT seconds at most. It must end with 0 and print a line that matches
# PATTERN, the last of which is shown. Status 77 is: it cannot run here.
step() {
  local name=$1 limit=$2 pattern=$3 began=$SECONDS status line result=ok
  shift 3
  if [ "$began" -ge "$seconds" ]; then
    note "$name" 'not run' 0 "$seconds s are over"
    return
  fi
  printf '\n=== %s: %s\n' "$name" "$*" >>"$log"
  timeout -k 5 "$limit" "$@" >"$work/output" 2>&1 </dev/null
  status=$?
  cat "$work/output" >>"$log"
  # Of a program that was ended the folder of its model is left.
  [ ! -e "$work/folders" ] || xargs -r -d '\n' rm -rf <"$work/folders"
  line=$(grep -aE "$pattern" "$work/output" | tail -1)
  case $status in
    0) [ -n "$line" ] || result=FAILED ;;
    77) result='not run' ;;
    124 | 137) result=TIMEOUT ;;
    *) result=FAILED ;;
  esac
  case $result in
    FAILED | TIMEOUT) failed=$((failed + 1)) ;;
  esac
  [ "$result" = ok ] || line=$(tail -1 "$work/output")
  note "$name" "$result" $((SECONDS - began)) "$line"
}

# tests NAME LIMIT ARGUMENT... runs a test program; with none of its tests left over it shows nothing.
tests() {
  local name=$1 limit=$2
  shift 2
  step "tests: $name" "$limit" '^test result: ok\. [1-9]' "$work/tests/$name" "$@"
}

device() {
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.mem --format=csv,noheader
  uname -srm
}

# sanitized TOOL PROGRAM ARGUMENT... under compute-sanitizer, where there is one.
sanitized() {
  local tool=$1 sanitizer
  shift
  sanitizer=$(command -v compute-sanitizer) || sanitizer=$(ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -1)
  [ -n "$sanitizer" ] || { echo "there is no compute-sanitizer"; exit 77; }
  "$sanitizer" --tool "$tool" --error-exitcode 9 "$@"
}

# with_torch ARGUMENT... runs the peers where there is a torch.
with_torch() {
  python3 -c 'import torch' 2>/dev/null || { echo "there is no torch for python3"; exit 77; }
  python3 "$here/torch_products.py" "$@" | tee "$out/torch.txt"
  exit "${PIPESTATUS[0]}"
}

# room MIB prints a folder for so much, in memory where that has room.
room() {
  local at
  for at in /dev/shm "${TMPDIR:-/tmp}" "$out"; do
    [ "$(df -m --output=avail "$at" 2>/dev/null | tail -1)" -ge "$1" ] 2>/dev/null && { echo "$at"; return; }
  done
  return 1
}

# model MIB FILE ARGUMENT... measures a model of so many MiB, with its table to FILE of $out.
model() {
  local mib=$1 file=$2 folder
  shift 2
  folder=$(room "$mib") || { echo "no folder has $mib MiB free"; exit 77; }
  folder=$(mktemp -d "$folder/muse-gpu.XXXXXX")
  echo "$folder" >>"$work/folders"
  "$work/bin/muse-bench" --cuda --dir "$folder" "$@" >"$out/$file" || exit
  cat "$out/$file"
  # The columns of its last row.
  awk 'END { printf "prompt %s and decode %s tok/s; %s of %s GB/s: %s\n", $3, $4, $6, $7, $8 }' "$out/$file"
}

products() {
  "$work/bin/muse-products" ${quick:+--quick} --json "$out/products.json" >"$out/products.txt" || exit
  cat "$out/products.txt"
}

selftest() {
  printf '[engine]\nbackend = "cuda"\n' >"$work/mused.toml"
  # Its status is of the service too, which is not here.
  "$work/bin/musectl" doctor --selftest --config "$work/mused.toml" >"$work/doctor" 2>&1
  cat "$work/doctor"
  grep -aE '^(ok  |note|FAIL)  (cuda|kernels) ' "$work/doctor"
}

export -f device sanitized with_torch room model products selftest
export here out work quick

step "device" 20 'Linux' bash -c device
# A GPU that no cubin is for gets the PTX; one that refuses its cubin fails here.
step "loads its kernels" 60 'kernels compiled for it|driver compiles;' "$work/bin/muse-products" --tiny
step "loads the PTX" 90 'driver compiles' env CUDA_FORCE_PTX_JIT=1 "$work/bin/muse-products" --tiny
tests kernels-agreement 90
step "agreement by the PTX" 90 '^test result: ok\. [1-9]' env CUDA_FORCE_PTX_JIT=1 "$work/tests/kernels-agreement"
for name in whole_sequences delta best choose heads images sounds; do
  tests kernels-$name 40
done
tests runtime-model 60 cuda
for name in recurrent speculation drafter images sounds; do
  tests runtime-$name 40 cuda
done
step "memcheck" 60 'ERROR SUMMARY: 0 errors' bash -c 'sanitized memcheck "$work/tests/kernels-agreement" --exact linear::gated_products_are_their_parts'
step "racecheck" 60 'RACECHECK SUMMARY: 0 hazards' bash -c 'sanitized racecheck "$work/tests/kernels-agreement" --exact linear::gated_products_are_their_parts'
step "doctor --selftest" 60 '^ok +kernels' bash -c selftest
step "qwen3-4b, int4" 90 'tok/s' bash -c 'model 4000 qwen3-4b.txt --synthetic qwen3-4b -p 2048 -b 2048 -n 64 --rounds 3'
if [ -n "$quick" ]; then
  step "muse-glimmer-30b, 13 of 52 layers" 90 'tok/s' bash -c 'model 8000 muse-glimmer-30b.txt --synthetic muse-glimmer-30b --layers 13 -p 0 -n 32 --rounds 2'
else
  step "muse-glimmer-30b, int4" 150 'tok/s' bash -c 'model 24000 muse-glimmer-30b.txt --synthetic muse-glimmer-30b -p 0 -n 32 --rounds 2'
fi
step "products" 120 'at most' bash -c products
step "torch" 60 'copy' bash -c 'with_torch ${quick:+--quick}'
tests benches-products 30
step "memcheck, attention" 60 'ERROR SUMMARY: 0 errors' bash -c 'sanitized memcheck "$work/tests/kernels-whole_sequences" --exact attention_to_both_sides_agrees'

for table in products torch; do
  [ ! -e "$out/$table.txt" ] || { printf '\n%s\n' "$table"; cat "$out/$table.txt"; }
done
printf '\n'
cat "$summary"
[ "$failed" = 0 ]
