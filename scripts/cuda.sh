#!/usr/bin/env bash
# Tests of the CUDA backend without a GPU: its kernels compiled for the CPU by kernels/cuda/emulator, behind a libcuda.so.1
# of the same folder. Every operation and every fault, once with the detector of races and once with the address sanitizer,
# which does not go with it, and with threads backwards; what the detector finds in kernels that are wrong, what the twins of
# PTX do of themselves; tiny models end to end. As many programs run at once as there are CPUs.
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

emulator=kernels/cuda/emulator
# Where nothing is instrumented, a switch of threads takes most of the time.
FAST=(-O2 -flto=auto -fno-semantic-interposition)

# is_new OUT says whether no source is newer.
is_new() {
  [ -e "$1" ] && [ -z "$(find kernels/cuda scripts/cuda.sh -newer "$1" -not -path '*/images/*' -type f)" ]
}

# library FOLDER FLAGS... builds libcuda.so.1.
library() {
  local out=$1/libcuda.so.1
  shift
  is_new "$out" || compile "$out" -shared -fPIC "$@" $emulator/{kernels,driver,memory,streams,emulator,ptx}.cpp
}

# instrumented FOLDER NAME makes an object that tells the detector of races of each access, and of copies of structs whole.
instrumented() {
  compile "$1/$2.o" -c -fPIC -DEMULATOR_RACES -fsanitize=thread --param=tsan-instrument-func-entry-exit=0 -fno-tree-sra \
    "$emulator/$2.cpp"
}

# races FOLDER builds libcuda.so.1 with the detector of races, and the tests of what it finds.
races() {
  ! is_new "$1/libcuda.so.1" || return 0
  instrumented "$1" faults
  compile "$1/faults" -O2 -DEMULATOR_RACES "$1/faults.o" $emulator/{emulator,ptx,races}.cpp
  instrumented "$1" kernels
  compile "$1/libcuda.so.1" -shared -fPIC -O2 -DEMULATOR_RACES "$1/kernels.o" $emulator/{driver,memory,streams,emulator,ptx,races}.cpp
}

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/cuda-emulator"/{sanitized,races}
if [ "${1:-}" = --library ]; then
  library "$target/cuda-emulator" "${FAST[@]}" >&2
  realpath "$target/cuda-emulator"
  exit
fi

need_rust
(cd kernels/cuda && sha256sum --quiet --check images/sources.sha256) ||
  { echo "the kernels have changed since they were compiled: run scripts/cubins.sh" >&2; exit 1; }
need g++:g++ addr2line:binutils
plain=$(realpath "$target/cuda-emulator")
folder=$plain/sanitized races=$plain/races
compiling=()
races "$races" & compiling+=($!)
library "$folder" -fsanitize=address & compiling+=($!)
library "$plain" "${FAST[@]}" & compiling+=($!)
compile "$folder/fragments" -fsanitize=address $emulator/{fragments,emulator,ptx}.cpp & compiling+=($!)
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
        echo "cd '$at' && LD_LIBRARY_PATH='$races' '$program'"
        echo "cd '$at' && $sanitized MUSE_EMULATOR_ORDER=backwards '$program'" ;;
    esac
  done
  for order in forwards backwards; do
    echo "MUSE_EMULATOR_ORDER=$order '$folder/fragments'"
  done
  echo "'$races/faults'"
}
commands <<<"$programs" | longest_first agreement whole_sequences model delta cuda_steps | together
