#!/usr/bin/env bash
# Runs cargo tests built for aarch64 Linux, under qemu-user, once for each CPU model:
#
#   scripts/aarch64.sh -- -p muse-format
#   scripts/aarch64.sh --cpu max --cpu cortex-a76 --cpu cortex-a72 -- -p muse-kernels -p muse-runtime
#   scripts/aarch64.sh --lint -- -p muse-kernels        (clippy instead: it sees what only aarch64 compiles)
#
# Arguments after `--` go to `cargo test`. The models that choose different kernels: `max` has the dot product and
# int8 matrix instructions, `cortex-a76` (RK3588, Raspberry Pi 5) the dot product alone, `cortex-a72` neither.
# The tests are compiled once: a model is only an argument of the emulator. As many programs run at once as there are CPUs.
#
# What is missing is installed: the linker and qemu with apt (as root or with sudo), the standard library with rustup or
# else by `aarch64-sysroot.sh`. Where that is impossible the script says why in one line and exits with 77: nothing ran.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
target=aarch64-unknown-linux-gnu

usage() {
  echo "usage: scripts/aarch64.sh [--lint | --cpu MODEL...] -- CARGO_ARGUMENT..." >&2
  exit 2
}

# The tests that take longest, the longest first.
LONGEST=(golden muse_runtime model speculation agreement memory recurrent drafter delta pictures)

cpus=() lint=
while [ $# -gt 0 ]; do
  case $1 in
    --cpu) [ $# -ge 2 ] || usage; cpus+=("$2"); shift 2 ;;
    --lint) lint=yes; shift ;;
    --) shift; break ;;
    *) usage ;;
  esac
done
[ $# -gt 0 ] || usage
[ ${#cpus[@]} -gt 0 ] || cpus=(max)

# --- the linker, the C library and the emulator
packages=()
command -v aarch64-linux-gnu-gcc >/dev/null || packages+=(gcc-aarch64-linux-gnu)
[ -e /usr/aarch64-linux-gnu/lib/libc.so ] || packages+=(libc6-dev-arm64-cross)
command -v qemu-aarch64-static >/dev/null || packages+=(qemu-user-static)
[ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
known=$(qemu-aarch64-static -cpu help || true) # it lists them and exits with 1
for cpu in "${cpus[@]}"; do
  grep -qxE -- " *$cpu" <<<"$known" || cannot_run "aarch64: this qemu does not know the CPU model '$cpu'"
done

# --- the standard library: rustup's, or one built from Debian's sources
std_of() {
  compgen -G "$1/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null
}
sysroot=$(rustc --print sysroot)
# The linker that rustup brings takes half the time of GNU's.
lld=$sysroot/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/gcc-ld
flags=
[ ! -x "$lld/ld.lld" ] || flags="-C link-arg=-B$lld -C link-arg=-fuse-ld=lld"
if ! std_of "$sysroot"; then
  if ! { command -v rustup >/dev/null && rustup -q target add "$target" >&2 && std_of "$sysroot"; }; then
    sysroot=$("$here/aarch64-sysroot.sh") || cannot_run "aarch64: no standard library for $target: \`rustup target add $target\` gives it"
    flags+=" --sysroot $sysroot"
  fi
fi

prefix=CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU
export ${prefix}_LINKER=aarch64-linux-gnu-gcc ${prefix}_RUSTFLAGS="$flags" ${prefix}_RUSTDOCFLAGS="$flags"
if [ -n "$lint" ]; then
  cargo clippy --target "$target" --all-targets "$@" -- -D warnings
  exit
fi
cargo=() of_tests=
while [ $# -gt 0 ]; do
  [ "$1" != -- ] || { shift; of_tests=$(printf ' %q' "$@"); break; }
  cargo+=("$1")
  shift
done
# The NPU's library for the tests of kernels, which a filter leaves out.
library=()
case " ${cargo[*]} " in
  *" muse-kernels "*" --release "* | *" --release "*" muse-kernels "*) library=(--release) ;;&
  *" muse-kernels "*) cargo build --target "$target" --locked "${library[@]}" -p muse-kernels --example rknnrt ;;
esac
echo "== cargo test --target $target ${cargo[*]}, on ${cpus[*]}:$of_tests"
programs=$(test_programs --target "$target" "${cargo[@]}")
for cpu in "${cpus[@]}"; do
  while IFS=$'\t' read -r folder program; do
    printf 'cd %q && qemu-aarch64-static -cpu %s -L /usr/aarch64-linux-gnu %q%s\n' "$folder" "$cpu" "$program" "$of_tests"
  done <<<"$programs"
done | longest_first "${LONGEST[@]}" | together
