#!/usr/bin/env bash
# The targets of scripts/fuzz under libFuzzer: scripts/fuzz.sh [TARGET [SECONDS]]; all of them, each for a minute. Seeds
# are the tests' own files; what was found stays in scripts/fuzz/corpus, and what breaks a target in scripts/fuzz/artifacts:
# `scripts/fuzz.sh TARGET FILE` runs that alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_rust
need c++:g++

folder=scripts/fuzz
if [ $# = 0 ]; then
  mapfile -t targets < <(basename -s .rs "$folder"/targets/*.rs)
else
  targets=("$1")
fi

# The fuzzer is told of our crates and of what reads for them (not zbus_utils, the bus's signatures: with it zbus does not
# compile). All else is built as for tests, which is much faster. The folder
# is its own: cargo builds most of what it finds anew where RUSTC_BOOTSTRAP has changed.
packages=(muse-format muse-kernels muse-boards muse-runtime muse-quantize mused muse-fuzz
  claxon derivre hound image image-webp llguidance minijinja minijinja-contrib png safetensors tokenizers toml_parser zbus
  zune-jpeg fdeflate fancy-regex serde_json spm_precompiled toktrie)
coverage=-Cllvm-args=-sanitizer-coverage
flags="'--cfg=fuzzing', '-Zsanitizer=address', '-Cpasses=sancov-module', '$coverage-level=4'"
flags+=", '$coverage-inline-8bit-counters', '$coverage-pc-table', '$coverage-trace-compares'"
config=()
for package in "${packages[@]}"; do
  config+=(--config "profile.dev.package.$package.rustflags=[$flags]")
done
# Sanitizers and flags of a package are of a nightly compiler, or of one that is told to be.
RUSTC_BOOTSTRAP=1 cargo build --locked --target-dir target/fuzz -Zprofile-rustflags "${config[@]}" \
  -p muse-fuzz --features libfuzzer "${targets[@]/#/--bin=}"

fuzz() {
  local target=$1
  shift
  mkdir -p "$folder/artifacts/$target"
  "target/fuzz/debug/$target" -artifact_prefix="$folder/artifacts/$target/" -timeout=20 -rss_limit_mb=2048 \
    -malloc_limit_mb=1024 -max_len=131072 -len_control=10 "$@"
}
if [ -f "${2-}" ]; then
  fuzz "$1" "$2"
  exit
fi

seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
mkdir "$seeds"/{parse,image,sound,gguf,safetensors,template,config,tokenizer}
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
# Another pattern in a tokenizer: one that looks at all of the text for each match, and one that is refused.
for pattern in '(?s:.)*bb|a' '(a+)+(?!bc)'; do
  { printf '\x10\x05\x00\x01\x00\x00\x01\x00\x00\x00\x00\x80\x0b%s' "$pattern"; printf 'a%.0s' {1..4096}; } \
    >"$seeds/tokenizer/$(cksum <<<"$pattern" | cut -d' ' -f1)"
done
{ printf '\x01'; printf '{"t":{"dtype":"BF16","shape":[4,8],"data_offsets":[0,64]}}'; } >"$seeds/safetensors/header"

for target in "${targets[@]}"; do
  corpus=$folder/corpus/$target
  mkdir -p "$corpus" "$seeds/$target"
  fuzz "$target" "$corpus" "$seeds/$target" -max_total_time="${2-60}" -print_final_stats=1
done
