#!/usr/bin/env bash
# Makes kernels/src/rknn/sys.rs of kernels/rknn/rknn_matmul.h, with bindgen.
#
#   scripts/rknn.sh                  writes sys.rs
#   scripts/rknn.sh --check FOLDER   FOLDER holds Rockchip's rknn_api.h and rknn_matmul_api.h: what bindgen makes of those
#                                    must say of every name that is used here what sys.rs says
#
# Building the crate needs none of this.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_rust
need clang:clang

bindgen=target/tools/bin/bindgen
[ -x "$bindgen" ] || cargo install bindgen-cli --version 0.73.2 --locked --root target/tools

# bindings HEADER CLANG-ARGUMENTS...
bindings() {
  local header=$1
  shift
  local names='rknn_matmul_(create|set_io_mem|set_core_mask|run|destroy)|rknn_(create|destroy)_mem|rknn_mem_sync'
  # Sizes and offsets are asserted at compile time.
  "$bindgen" "$header" --allowlist-function "$names" --default-enum-style moduleconsts --no-doc-comments \
    --dynamic-loading Rknn --dynamic-link-require-all --use-core --rust-edition 2024 --rust-target 1.89 \
    --no-derive-debug --formatter rustfmt -- "$@"
}

case ${1:-} in
  '') bindings kernels/rknn/rknn_matmul.h >kernels/src/rknn/sys.rs ;;
  --check)
    folder=${2:?"$0 --check FOLDER"}
    # Theirs has more numbers in each module of constants, and no other difference.
    theirs=$(bindings "$folder/rknn_matmul_api.h" -I"$folder" | tr -d ' \n')
    while IFS= read -r line; do
      grep -qF -- "$line" <<<"$theirs" || { echo "not in Rockchip's headers: $line" >&2; exit 1; }
    done < <(grep -v '^/\*\|^[ }]*$' kernels/src/rknn/sys.rs | tr -d ' ')
    echo "every line of sys.rs is what Rockchip's headers say" ;;
  *) echo "usage: $0 [--check FOLDER]" >&2; exit 2 ;;
esac
