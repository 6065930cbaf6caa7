#!/usr/bin/env bash
# A real model over a real bus: SmolLM2 from its GGUF to an answer, by musectl and by plain busctl.
# Uses the release build. Status 77: it cannot run here, and the last line says why.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# What llama.cpp answers greedily from the same file.
question='What is gravity?'
beginning='Gravity is a fundamental concept in physics'

need_rust
need dbus-daemon:dbus busctl:systemd python3:python3
gguf=$(small_model)
cargo build --release --locked -p muse-quantize -p mused
bin=${CARGO_TARGET_DIR:-target}/release

folder=$(mktemp -d)
# shellcheck disable=SC2329 # the trap calls it
finish() {
  local status=$?
  stop_service
  if [ $status != 0 ] && [ $status != 77 ] && [ -s "$folder/mused.log" ]; then
    echo "--- mused's log"
    tail -50 "$folder/mused.log"
  fi
  rm -rf "$folder"
}
trap finish EXIT

passed=0
ok() { passed=$((passed + 1)); echo "ok: $*"; }
fail() { echo "FAILED: $*"; exit 1; }
begins() { case $2 in "$beginning"*) ok "$1: $2" ;; *) fail "$1 answered: $2" ;; esac; }

mkdir "$folder/models"
model=$folder/models/chat.muse
"$bin/muse-quantize" convert "$gguf" -o "$model"
"$bin/muse-quantize" verify "$model" && ok "the file verifies"

# A damaged file beside the good one must not keep the service from starting, or from serving the good one.
head -c 100000 "$model" > "$folder/models/cut.muse"
if "$bin/muse-quantize" verify "$folder/models/cut.muse" 2>"$folder/refusal"; then
  fail "verify took a truncated file"
else
  [ $? = 1 ] || fail "verify of a truncated file ended with status $?"
  ok "a truncated file is refused: $(tail -1 "$folder/refusal")"
fi

start_service "$bin" "$folder" "$folder/models"
manager=(org.museproject.Inference1 /org/museproject/Inference1 org.museproject.Inference1.Manager)
bus=(busctl --address="$DBUS_SESSION_BUS_ADDRESS" --timeout=120)

answer=$(timeout 120 "$bin/musectl" --session generate --model chat --temperature 0 --max-tokens 48 "$question")
begins "musectl streamed" "$answer"

reply=$("${bus[@]}" --json=short call "${manager[@]}" Generate 'sa{sv}' "$question" \
  3 model s chat temperature d 0 max_tokens u 48)
text=$(python3 -c 'import json, sys; print(json.loads(sys.argv[1])["data"][0])' "$reply")
begins "busctl" "$text"
[ "$text" = "$answer" ] || fail "musectl and busctl differ"
ok "both answers are the same"

schema='{"type": "object", "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer",
  "minimum": 0, "maximum": 120}}, "required": ["name", "age"], "additionalProperties": false}'
printf '%s' "$schema" > "$folder/schema.json"
answer=$(timeout 120 "$bin/musectl" --session generate --model chat --temperature 0 --max-tokens 120 \
  --json-schema "$folder/schema.json" 'Invent a person who lives in Rome.')
is_person='import json, sys; p = json.loads(sys.argv[1]); sys.exit(set(p) != {"name", "age"} or not 0 <= p["age"] <= 120)'
if python3 -c "$is_person" "$answer"; then ok "JSON of a schema: $answer"; else fail "not of the schema: $answer"; fi

# refused WHAT PATTERN CALL... the call must fail, and the message say what PATTERN says.
refused() {
  local what=$1 pattern=$2 message
  shift 2
  if message=$("${bus[@]}" call "${manager[@]}" "$@" 2>&1); then
    fail "$what was taken: $message"
  fi
  grep -qiE -- "$pattern" <<<"$message" || fail "$what is refused without saying why: $message"
  ok "$what: $message"
}
refused "a model that is not there" nonesuch Generate 'sa{sv}' hello 1 model s nonesuch
refused "a damaged model" 'cut.*bytes' Load 'sa{sv}' cut 0
refused "an unknown option" 'no option.*colour' Generate 'sa{sv}' hello 2 model s chat colour s red

kill -0 "$service_pid" || fail "mused is gone"
answer=$(timeout 120 "$bin/musectl" --session generate --model chat --temperature 0 --max-tokens 16 "$question")
begins "after the refusals" "$answer"
kill "$service_pid"
wait "$service_pid" && ok "mused ends cleanly on SIGTERM"
service_pid=
echo "test result: ok. $passed passed; 0 failed"
