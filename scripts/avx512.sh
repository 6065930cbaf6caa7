#!/usr/bin/env bash
# Runs cargo tests on an emulated x86-64 CPU with AVX-512 VNNI, for machines that have none:
#
#   scripts/avx512.sh -- --release -p muse-kernels --lib --test agreement
#   scripts/avx512.sh -- --release -p muse-kernels --lib matmul_q8
#
# Arguments after `--` go to `cargo test`. Every test program is a static one that starts in a machine of its own
# (`avx512-boot.sh`), without the host's files. The emulator is Bochs, as qemu's has no AVX-512; it is some hundred times
# slower than the host, so `--release` pays.
#
# What is missing is installed: Debian's bochs and the tools that make its disc with apt (as root or with sudo), and a
# kernel, which is only unpacked into ${XDG_CACHE_HOME:-~/.cache}/muse. Where that is impossible the script says why in
# one line and exits with 77: nothing ran.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
target=x86_64-unknown-linux-gnu

if [ "${1:-}" != -- ] || [ $# -lt 2 ]; then
  echo "usage: scripts/avx512.sh -- CARGO_ARGUMENT..." >&2
  exit 2
fi
shift
[ "$(uname -m)" = x86_64 ] || cannot_run "avx512: builds for x86-64 only on x86-64"

# --- the emulator, the boot loader, a kernel. Naming a screen for bochs spares the graphical one.
packages=()
command -v bochs-bin >/dev/null || packages+=(bochs bochs-term bochsbios vgabios)
[ -e /usr/lib/ISOLINUX/isolinux.bin ] || packages+=(isolinux)
[ -e /usr/lib/syslinux/modules/bios/ldlinux.c32 ] || packages+=(syslinux-common)
command -v xorriso >/dev/null || packages+=(xorriso)
command -v cpio >/dev/null || packages+=(cpio)
[ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
known=$(bochs-bin --help cpu 2>&1 </dev/null || true)
grep -qx corei7_icelake_u <<<"$known" || cannot_run "avx512: this bochs has no CPU with AVX-512 VNNI"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/muse
mkdir -p "$cache"
export AVX512_KERNEL=$cache/vmlinuz-cloud-amd64
if [ ! -e "$AVX512_KERNEL" ]; then
  command -v apt-get >/dev/null || cannot_run "avx512: needs a Debian kernel at $AVX512_KERNEL"
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2 }')
  [ -n "$package" ] || cannot_run "avx512: apt knows no linux-image-cloud-amd64"
  work=$(mktemp -d "$cache/kernel.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && apt-get -q download "$package" >&2 && dpkg-deb -x ./*.deb .) ||
    cannot_run "avx512: apt-get could not download $package"
  mv "$work"/boot/vmlinuz-* "$AVX512_KERNEL"
fi

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$(cargo locate-project --workspace --message-format plain | xargs dirname)/target}/avx512
export AVX512_INIT=$CARGO_TARGET_DIR/init
mkdir -p "$CARGO_TARGET_DIR"
rustc --edition 2024 -O -C target-feature=+crt-static -o "$AVX512_INIT" "$here/avx512-init.rs"
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$here/avx512-boot.sh"
echo "== cargo test --target $target on an emulated Ice Lake: $*"
log=$CARGO_TARGET_DIR/log
cargo test --target "$target" "$@" | tee "$log"
awk '/^test result: / { n += $4 + $6 } END { exit n == 0 }' "$log" || { echo "avx512: no test ran" >&2; exit 1; }
