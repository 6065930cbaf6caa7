#!/usr/bin/env bash
# Every check of the project: formatting, lints, tests on x86-64, as aarch64 under qemu, on an emulated AVX-512 and on an
# emulated GPU, the systemd unit, the XML, and a real model over a real bus. Installs what is missing on Debian (as root
# or with sudo).
#
# A step that cannot run here (no network, no root, a package that left the mirror) is listed as NOT RUN with its reason;
# nothing else is skipped, but that under emulation sweeps over what no CPU changes run one case (kernels/tests/sweep). The last line is "N passed, M failed"; the status is 0 where M is 0.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
exec </dev/null
export CARGO_TERM_PROGRESS_WHEN=never

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
table=() not_run=() passed=0 failed=0

# step NAME COMMAND... runs it, shows its output and counts its tests; a step without tests counts as one.
step() {
  local name=$1 log=$logs/log start=$SECONDS status ran bad
  shift
  printf '\n=== %s\n' "$name"
  (set -euo pipefail; "$@") 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  read -r ran bad < <(awk '/^test result: / { p += $4; f += $6 } END { print p + 0, f + 0 }' "$log")
  case $status in
    0) [ "$ran" -gt 0 ] || ran=1 ;;
    77) not_run+=("$name: $(tail -1 "$log")") ;;
    *) [ "$bad" -gt 0 ] || bad=1 ;;
  esac
  passed=$((passed + ran)) failed=$((failed + bad))
  local word=ok
  [ "$status" = 0 ] || word=FAILED
  [ "$status" != 77 ] || word='NOT RUN'
  table+=("$(printf '%-28s %-8s %5d s' "$name" "$word" $((SECONDS - start)))")
}

unit_is_hardened() {
  need systemd-analyze:systemd
  systemd-analyze security --no-pager --offline=true --threshold=15 systemd/mused.service
}

xml_is_well_formed() {
  need python3:python3
  python3 - daemon/interfaces/*.xml systemd/org.*.conf <<'END'
import sys
from xml.dom import minidom

for path in sys.argv[1:]:
    print(path, minidom.parse(path).documentElement.tagName)
END
}

# As many programs at once as there are CPUs, the examples in the documentation as one of them.
on_x86_64() {
  need_rust
  local programs folder program
  programs=$(test_programs --workspace --locked)
  {
    echo 'cargo test --workspace --locked --no-fail-fast --doc'
    while IFS=$'\t' read -r folder program; do
      printf 'cd %q && %q\n' "$folder" "$program"
    done <<<"$programs"
  } | longest_first speculation muse_runtime golden memory model real_bus | together
}

# On `max` everything but the quantizer's program (`cli`), which is for workstations: cargo's runner covers a test, not what
# it starts. On the CPUs that choose other kernels what a choice changes: every kernel, and tiny models end to end.
on_aarch64() {
  need_rust
  # Each set of features on the CPU that has no more, and of a sweep over what no CPU changes one case: kernels/tests/sweep.
  export MUSE_EMULATES_EACH_CPU=yes
  local packages=(-p muse-format -p muse-boards -p muse-kernels -p muse-runtime -p muse-quantize)
  scripts/aarch64.sh --cpu max -- --locked "${packages[@]}" --lib --test '[!c]*' --test choose
  local weaker=(--cpu cortex-a76 --cpu cortex-a72)
  scripts/aarch64.sh "${weaker[@]}" -- --locked "${packages[@]}" --lib -- cpu::
  scripts/aarch64.sh "${weaker[@]}" -- --locked "${packages[@]}" --test agreement --test best --test choose --test delta \
    --test heads --test images --test sounds --test whole_sequences
  # But for what the reference alone does, whose code no CPU changes.
  scripts/aarch64.sh "${weaker[@]}" -- --locked "${packages[@]}" --test model --test recurrent --test drafter -- \
    --skip the_answer_does_not_depend --skip what_keep_keeps
}

# The kernels' unit tests alone: they call each variant, and the emulator takes 500 times as long as a CPU.
on_avx512() {
  need_rust
  scripts/avx512.sh -- --locked --release -p muse-kernels --lib
}

(need_rust) || exit 1
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
step "formatting" cargo fmt --all --check
# Also the fuzz targets, which nothing else builds; `scripts/fuzz.sh` does. Nothing is linked with the fuzzer here.
step "lints" env CUSTOM_LIBFUZZER_PATH=/none/libfuzzer.a cargo clippy --workspace --features muse-fuzz/libfuzzer --all-targets --locked -- -D warnings
step "lints, CUDA" cargo clippy -p muse-kernels -p muse-runtime -p mused -p muse-benches --features mused/cuda,muse-benches/cuda --all-targets --locked -- -D warnings
step "lints, aarch64" scripts/aarch64.sh --lint -- --locked -p muse-kernels
step "tests, x86-64" on_x86_64
step "tests, aarch64 under qemu" on_aarch64
# Where the CPU has it, "tests, x86-64" has run these variants.
grep -qsw avx512_vnni /proc/cpuinfo || step "tests, AVX-512 under bochs" on_avx512
step "CUDA compiled" scripts/cubins.sh --check
step "tests, CUDA emulated" scripts/cuda.sh
step "systemd unit" unit_is_hardened
step "XML" xml_is_well_formed
step "real model over D-Bus" scripts/e2e.sh

printf '\n'
printf '%s\n' "${table[@]}"
for line in "${not_run[@]}"; do
  printf 'NOT RUN  %s\n' "$line"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
