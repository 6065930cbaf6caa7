#!/usr/bin/env bash
# From a clone to an answer: brings a small model from PyPI, quantizes it, starts mused on a bus of its own and streams
# the answer to a question.
#
#   scripts/demo.sh
#   scripts/demo.sh "Name three rivers."
#
# Installs what is missing on Debian (as root or with sudo); the model stays in ${XDG_CACHE_HOME:-~/.cache}/muse.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

question=${*:-What is gravity?}
say() { echo "==> $*" >&2; }

say "1/5 checking tools"
need_rust
need dbus-daemon:dbus
say "2/5 bringing SmolLM2-135M-Instruct"
gguf=$(small_model)
say "3/5 building (a few minutes the first time)"
cargo build --release --locked -p muse-quantize -p mused
bin=${CARGO_TARGET_DIR:-target}/release

folder=$(mktemp -d)
# shellcheck disable=SC2329 # the trap calls it
finish() { stop_service; rm -rf "$folder"; }
trap finish EXIT
say "4/5 quantizing, each weight kept as the GGUF stores it"
mkdir "$folder/models"
"$bin/muse-quantize" convert "$gguf" -o "$folder/models/chat.muse" >&2
say "5/5 starting mused and asking: $question"
start_service "$bin" "$folder" "$folder/models"
"$bin/musectl" --session generate --model chat --temperature 0 --max-tokens 200 -- "$question"
