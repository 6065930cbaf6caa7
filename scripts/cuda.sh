#!/usr/bin/env bash
# Tests of the CUDA backend without a GPU: its kernels compiled for the CPU by kernels/cuda/emulator, behind a libcuda.so.1
# of the same folder. What its twins of PTX do of themselves, then every operation and every fault with the address sanitizer, once with threads in order and once
# backwards; then tiny models end to end.
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
  compile "$out" -shared -fPIC "$@" kernels/cuda/emulator/driver.cpp kernels/cuda/emulator/emulator.cpp
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
library "$folder" -fsanitize=address
library "$target/cuda-emulator"
compile "$folder/fragments" -fsanitize=address kernels/cuda/emulator/fragments.cpp kernels/cuda/emulator/emulator.cpp
# The sanitizer must come first in a program that it was not linked to. Rust's test harness keeps what it allocates.
sanitizer=$(g++ -print-file-name=libasan.so)

# programs PACKAGE TEST... builds tests and prints their paths.
programs() {
  local log=$target/cuda-emulator/build.log package=$1
  shift
  cargo test --locked -p "$package" --features "$package/cuda" --no-run --message-format json "${@/#/--test=}" 2>"$log" |
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4 || { cat "$log" >&2; return 1; }
}

cargo test --locked -p muse-kernels -p muse-runtime --features muse-runtime/cuda --lib -- cuda:: device::
kernels=$(programs muse-kernels agreement best choose cuda_errors cuda_memory cuda_steps delta heads images sounds whole_sequences)
models=$(programs muse-runtime model recurrent images sounds drafter speculation cuda_memory cuda_steps)
for order in forwards backwards; do
  echo "threads $order"
  MUSE_EMULATOR_ORDER=$order "$folder/fragments"
  for program in $kernels; do
    LD_LIBRARY_PATH=$folder LD_PRELOAD=$sanitizer ASAN_OPTIONS=detect_leaks=0 MUSE_EMULATOR_ORDER=$order "$program"
  done
done
for program in $models; do
  LD_LIBRARY_PATH=$target/cuda-emulator "$program" cuda
done
