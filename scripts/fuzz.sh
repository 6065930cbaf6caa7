#!/usr/bin/env bash
# The targets of scripts/fuzz under libFuzzer: scripts/fuzz.sh [TARGET [SECONDS]]; all of them, each for a minute. Seeds
# are the tests' own files; what was found stays in scripts/fuzz/corpus, and what breaks a target in scripts/fuzz/artifacts:
# `scripts/fuzz.sh TARGET FILE` runs that alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_rust
need c++:g++
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked

# Sanitizers are of a nightly compiler, or of one that is told to be.
export RUSTC_BOOTSTRAP=1
fuzz=(--fuzz-dir scripts/fuzz --target-dir target/fuzz --features libfuzzer)
list=${1-$(cargo fuzz list --fuzz-dir scripts/fuzz)}
mapfile -t targets <<<"$list"
if [ -f "${2-}" ]; then
  exec cargo fuzz run "${fuzz[@]}" "${targets[0]}" "$2"
fi

seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
mkdir "$seeds"/{parse,image,sound,gguf,safetensors,template,config}
cp runtime/format/tests/*.muse "$seeds/parse"
cp runtime/tests/pictures/*.{png,jpg,webp} "$seeds/image"
cp runtime/tests/sounds/*.{wav,flac} "$seeds/sound"
cp quantize/tests/fixtures/gguf/blocks.gguf "$seeds/gguf"
cp systemd/mused.toml "$seeds/config"
for file in quantize/tests/fixtures/*/checkpoint/chat_template.jinja; do
  cp "$file" "$seeds/template/$(cksum <"$file" | cut -d' ' -f1)"
done
# The first byte says which file of a folder it is.
for file in quantize/tests/fixtures/bert/checkpoint/{config,modules,tokenizer_config}.json; do
  for choice in 2 3 4 5 6; do
    { printf "\\x0$choice"; cat "$file"; } >"$seeds/safetensors/$choice-$(basename "$file")"
  done
done
{ printf '\x01'; printf '{"t":{"dtype":"BF16","shape":[4,8],"data_offsets":[0,64]}}'; } >"$seeds/safetensors/header"

for target in "${targets[@]}"; do
  corpus=scripts/fuzz/corpus/$target
  mkdir -p "$corpus" "$seeds/$target"
  cargo fuzz run "${fuzz[@]}" "$target" "$corpus" "$seeds/$target" -- \
    -max_total_time="${2-60}" -timeout=20 -rss_limit_mb=2048 -malloc_limit_mb=1024 -max_len=65536 -print_final_stats=1
done
