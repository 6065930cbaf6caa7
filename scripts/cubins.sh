#!/usr/bin/env bash
# Compiles kernels/cuda/module.cu to what the program embeds, kernels/cuda/images/*.gz, with NVIDIA's compilers from PyPI (x86-64, no GPU needed).
# Run it after every change of a .cu or .cuh file; scripts/cuda.sh checks images/sources.sha256.
#
#   compute_80.ptx  12.6's NVRTC. Any GPU from sm_80 on, by the driver's own compiler: the fallback.
#   sm_87.cubin     12.6: the Orins under JetPack 6, whose driver refuses what 13.x makes.
#   sm_90.cubin     12.6: H100, H200 and GH200, under drivers as old.
#   sm_110.cubin    13.0's nvcc: Thor.
#   sm_120.cubin    13.0's nvcc: GeForce RTX 50, RTX PRO and GB10.
#
# It compiles for sm_80 too, fails where ptxas spills a register anywhere, and writes what each kernel takes to
# images/registers.txt.
#
#   scripts/cubins.sh          writes the images
#   scripts/cubins.sh --check  fails where they are not what the sources make
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need python3:python3 g++:g++

kernels=$PWD/kernels/cuda committed=$PWD/kernels/cuda/images
tools=${XDG_CACHE_HOME:-$HOME/.cache}/muse/cuda
PACKAGES_12=(nvidia-cuda-nvrtc-cu12==12.6.85 nvidia-cuda-nvcc-cu12==12.6.85)
PACKAGES_13=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85)

# unpack FOLDER PACKAGE... brings wheels from PyPI once.
unpack() {
  local folder=$1
  shift
  [ ! -d "$folder" ] || return 0
  need_pip
  mkdir -p "$folder.part"
  python3 -m pip -q download --no-deps --only-binary :all: -d "$folder.part/wheels" "$@" </dev/null ||
    cannot_run "pip could not download $*"
  local wheel
  for wheel in "$folder.part"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$folder.part"
  done
  rm -r "$folder.part/wheels"
  mv "$folder.part" "$folder"
}

# ptx ARCH OUT compiles to PTX with NVRTC 12.6.
ptx() {
  LD_LIBRARY_PATH=$tools/12.6/nvidia/cuda_nvrtc/lib python3 - "$kernels" "$1" "$2" <<'END'
import ctypes, sys

folder, arch, out = sys.argv[1:]
nvrtc = ctypes.CDLL("libnvrtc.so.12")
program = ctypes.c_void_p()
source = b'#include "module.cu"\n'
options = [f"--gpu-architecture={arch}".encode(), f"--include-path={folder}".encode(), b"--std=c++17"]
nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"kernels.cu", 0, None, None)
failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))


def text(kind):
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
    return buffer.value


print(text("ProgramLog").decode(), file=sys.stderr, end="")
if failed:
    sys.exit(f"NVRTC: error {failed}")
# A tenth of the text is comments around each line of inline PTX.
lines = text("PTX").rstrip(b"\0").splitlines(keepends=True)
open(out, "wb").writelines(line for line in lines if not line.lstrip().startswith(b"//"))
END
}

# check NAME LOG reads what `ptxas -v` said: no spills, and the registers of each kernel.
check() {
  awk -v image="$1" '
    /Compiling entry function/ { split($0, part, "\047"); kernel = part[2] }
    /spill/ { if ($0 !~ / 0 bytes spill stores, 0 bytes spill loads/) { print image ": " kernel " spills:" $0 > "/dev/stderr"; bad = 1 } stack = $1 }
    /Used [0-9]+ registers/ { match($0, /Used [0-9]+/); printf "%-7s %-28s %3d registers, %s bytes of stack\n", image, kernel, substr($0, RSTART + 5, RLENGTH - 5), stack }
    END { exit bad }' "$2"
}

unpack "$tools/12.6" "${PACKAGES_12[@]}"
unpack "$tools/13.0" "${PACKAGES_13[@]}"
cuda12=$tools/12.6/nvidia cuda13=$tools/13.0/nvidia/cu13
chmod +x "$cuda12"/cuda_nvcc/bin/* "$cuda13"/bin/* "$cuda13"/nvvm/bin/*
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
images=$work/images
mkdir -p "$images"

compiling=()
for sm in 110 120; do
  "$cuda13/bin/nvcc" -cubin -std=c++17 -O3 -arch=sm_$sm -Xptxas -v -I"$kernels" -o "$images/sm_$sm.cubin" \
    "$kernels/module.cu" 2>"$work/sm_$sm" &
  compiling+=($!)
done
for sm in 80 87 90; do
  ptx compute_$sm "$work/compute_$sm.ptx"
  "$cuda12/cuda_nvcc/bin/ptxas" -arch=sm_$sm -v -o "$work/sm_$sm.cubin" "$work/compute_$sm.ptx" 2>"$work/sm_$sm"
done
for process in "${compiling[@]}"; do
  wait "$process" || { cat "$work"/sm_* >&2; exit 1; }
done
mv "$work"/{compute_80.ptx,sm_87.cubin,sm_90.cubin} "$images/"
for sm in 80 87 90 110 120; do
  check sm_$sm "$work/sm_$sm"
done >"$images/registers.txt"
(cd "$kernels" && LC_ALL=C sha256sum ./*.cu ./*.cuh) >"$images/sources.sha256"
if [ "${1:-}" = --check ]; then
  # What is compressed is compared: other versions of gzip may write other bytes of the same.
  cp -r "$committed" "$work/committed"
  gzip -d "$work"/committed/*.gz
  diff -r "$work/committed" "$images" || { echo "the images are old: run scripts/cubins.sh" >&2; exit 1; }
else
  gzip -9n "$images"/*.ptx "$images"/*.cubin
  rm -f "$committed"/*
  cp "$images"/* "$committed/"
fi
ls -l "$committed"
