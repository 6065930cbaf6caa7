#!/usr/bin/env bash
# Tests of the CUDA backend without a GPU: its kernels compiled for the CPU by kernels/cuda/emulator, behind a libcuda.so.1
# of the same folder. Every operation and every fault with the address sanitizer, once with threads in order and once
# backwards, as what its twins of PTX do of themselves; tiny models end to end. As many programs run at once as there are CPUs.
#
#   scripts/cuda.sh            everything
#   scripts/cuda.sh --library  only builds the library, and prints its folder
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
export CARGO_TERM_PROGRESS_WHEN=never

# compile OUT FLAGS AND SOURCES... of the emulator.
compile() {
  need g++:g++
  g++ -std=c++20 -O1 -g -Wall -Wextra -Wno-unknown-pragmas -Werror -DEMULATOR -Ikernels/cuda -o "$@"
}

# library FOLDER FLAGS... builds libcuda.so.1 where a source is newer.
library() {
  local out=$1/libcuda.so.1
  shift
  if [ -e "$out" ] && [ -z "$(find kernels/cuda scripts/cuda.sh -newer "$out" -not -path '*/images/*' -type f)" ]; then
    return 0
  fi
  mkdir -p "$(dirname "$out")"
  compile "$out" -shared -fPIC "$@" kernels/cuda/emulator/{kernels,driver,memory,streams,emulator}.cpp
}

target=${CARGO_TARGET_DIR:-target}
if [ "${1:-}" = --library ]; then
  library "$target/cuda-emulator" >&2
  realpath "$target/cuda-emulator"
  exit
fi

need_rust
(cd kernels/cuda && sha256sum --quiet --check images/sources.sha256) ||
  { echo "the kernels have changed since they were compiled: run scripts/cubins.sh" >&2; exit 1; }
folder=$target/cuda-emulator/sanitized
mkdir -p "$folder"
need g++:g++
compiling=()
library "$folder" -fsanitize=address & compiling+=($!)
library "$target/cuda-emulator" & compiling+=($!)
compile "$folder/fragments" -fsanitize=address kernels/cuda/emulator/fragments.cpp kernels/cuda/emulator/emulator.cpp &
compiling+=($!)
folder=$(realpath "$folder") plain=$(realpath "$target/cuda-emulator")
# The sanitizer must come first in a program that it was not linked to. Rust's test harness keeps what it allocates.
sanitized="LD_LIBRARY_PATH='$folder' LD_PRELOAD=$(g++ -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0"

tests=(agreement best choose cuda_errors cuda_memory cuda_steps delta drafter heads images model products recurrent sounds
  speculation whole_sequences)
programs=$(test_programs --locked -p muse-kernels -p muse-runtime -p muse-benches --features muse-benches/cuda --lib "${tests[@]/#/--test=}")
for process in "${compiling[@]}"; do
  wait "$process"
done

# commands prints how each program is run.
commands() {
  local at program order
  while IFS=$'\t' read -r at program; do
    case $at/:$program in
      */deps/muse_*) echo "cd '$at' && '$program' cuda:: device:: products::" ;;
      */benches/:*) echo "cd '$at' && LD_LIBRARY_PATH='$plain' '$program'" ;;
      */runtime/:*) echo "cd '$at' && LD_LIBRARY_PATH='$plain' '$program' cuda" ;;
      *)
        for order in forwards backwards; do
          echo "cd '$at' && $sanitized MUSE_EMULATOR_ORDER=$order '$program'"
        done ;;
    esac
  done
  for order in forwards backwards; do
    echo "MUSE_EMULATOR_ORDER=$order '$folder/fragments'"
  done
}
commands <<<"$programs" | longest_first agreement whole_sequences model delta cuda_steps | together
