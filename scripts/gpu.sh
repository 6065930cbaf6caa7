#!/usr/bin/env bash
# Packs what checks and measures CUDA kernels on a GPU into a folder of less than 64 MiB that needs neither Rust nor a network
# where it runs: FOLDER/run.sh, which is scripts/gpu-run.sh. Programs are for the architecture and the C library of this
# machine: made on Debian 12 they run where glibc is 2.36 or newer. A Jetson's are built on the Jetson.
#
#   scripts/gpu.sh --pack FOLDER
#   FOLDER/run.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

[ "$#" = 2 ] && [ "$1" = --pack ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$2
need_rust
need xz:xz-utils
programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
mkdir -p "$folder" "$programs/bin" "$programs/tests"

# Everything is built as a whole workspace is, so that dependencies are compiled once.
build=(--locked --workspace --features muse-benches/cuda,mused/cuda)
cargo build --release "${build[@]}" --bin muse-bench --bin muse-products --bin musectl
# What the emulated driver alone can show, faults and counts of launches, is not among them.
tests=(agreement best choose delta drafter heads images model products recurrent sounds speculation whole_sequences)
built=$(test_programs "${build[@]}" "${tests[@]/#/--test=}")
# Without what debuggers read.
for name in muse-bench muse-products musectl; do
  strip -o "$programs/bin/$name" "${CARGO_TARGET_DIR:-target}/release/$name"
done
while IFS=$'\t' read -r at program; do
  crate=$(basename "$at") name=$(basename "$program")
  case $crate in
    kernels | runtime | benches) strip -o "$programs/tests/$crate-${name%-*}" "$program" ;;
  esac
done <<<"$built"
# Each holds the same images of kernels and much of the same code, which a dictionary as long as all of them finds.
tar -C "$programs" -c bin tests | xz --lzma2=preset=4,dict=128MiB >"$folder/programs.tar.xz"
cp scripts/gpu-run.sh "$folder/run.sh"
cp benches/peers/torch_products.py "$folder/"
{
  uname -m
  getconf GNU_LIBC_VERSION
  git rev-parse HEAD 2>/dev/null || echo "of no commit"
} >"$folder/made"
bytes=$(du -sb "$folder" | cut -f 1)
echo "$folder: $((bytes >> 20)) MiB"
[ "$bytes" -lt $((64 << 20)) ] || { echo "that is 64 MiB or more" >&2; exit 1; }
