#!/usr/bin/env bash
# Measures a peer and muse-bench in turns, each first in every other round, so that both see the same minutes.
set -euo pipefail

usage() {
  cat <<'END'
Usage: benches/compare.sh PEER PEER_MODEL OURS.muse [options] [-- PEER OPTIONS]

PEER is a command that takes the options of llama-bench and prints its JSON, such as
  .../llama.cpp/build/bin/llama-bench
  ".../venv/bin/python benches/peers/openvino_bench.py"
  ".../venv/bin/python benches/peers/mnn_bench.py"

  -p TOKENS    of the prompt, 0 for none [512]
  -n TOKENS    of the answer, 0 for none [128]
  -d TOKENS    in the cache before them [0]
  -t N,N       thread counts [1,2]
  --rounds N   each runs both programs, which repeat each figure twice [5]
  --json       print JSON

Needs jq. MUSE_BENCH names the program if it is not target/release/muse-bench.
END
}

fail() {
  echo "compare.sh: $*" >&2
  exit 2
}

files=() peer_options=() prompt=512 answer=128 depth=0 threads=1,2 rounds=5 json=false
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit ;;
    --json) json=true && shift ;;
    --) shift && peer_options=("$@") && break ;;
    -p | -n | -d | -t | --rounds)
      [[ ${2-} =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "$1 takes a number"
      case $1 in -p) prompt=$2 ;; -n) answer=$2 ;; -d) depth=$2 ;; -t) threads=$2 ;; *) rounds=$2 ;; esac
      shift 2
      ;;
    -*) fail "unknown option $1; a peer's own come after --" ;;
    *) files+=("$1") && shift ;;
  esac
done
[ ${#files[@]} = 3 ] || fail "takes a peer, its model and a .muse file; see --help"
command -v jq >/dev/null || fail "jq is not installed"
read -ra peer <<<"${files[0]}"
peer_model=${files[1]} ours=${files[2]}
muse=${MUSE_BENCH:-$(dirname "$0")/../target/release/muse-bench}
for file in "$peer_model" "$ours" "$muse"; do [ -e "$file" ] || fail "there is no $file"; done
[ "$depth" = 0 ] || peer_options+=(-d "$depth")

run_peer() { # THREADS
  "${peer[@]}" -m "$peer_model" -p "$prompt" -n "$answer" -t "$1" -r 2 -o json "${peer_options[@]}" 2>"$log" |
    jq -ce --argjson threads "$1" 'def rate(f): map(select(f).avg_ts) | first;
      {who: "peer", threads: $threads, prefill: rate(.n_prompt > 0 and .n_gen == 0), decode: rate(.n_gen > 0),
       build: "\(.[0].build_number) \(.[0].build_commit)"}'
}

run_muse() { # THREADS
  "$muse" "$ours" -p "$prompt" -n "$answer" -d "$depth" -t "$1" --rounds 2 --json 2>"$log" |
    jq -ce '.rows[0] | {who: "muse", threads, prefill: .prefill_tok_per_s, decode: .decode_tok_per_s,
      of_probe: .decode_of_probe, probe: .probe_gb_per_s}'
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
log=$folder/log rows=$folder/rows
for ((round = 0; round < rounds; round++)); do
  if ((round % 2)); then order=(run_muse run_peer); else order=(run_peer run_muse); fi
  for count in ${threads//,/ }; do
    for program in "${order[@]}"; do
      read -r load _ </proc/loadavg
      "$program" "$count" >"$folder/row" || { cat "$log" >&2 && fail "$program failed with $count threads"; }
      jq -c --argjson round "$round" --argjson load "$load" '. + {round: $round, load: $load}' "$folder/row" >>"$rows"
    done
  done
done

jq -s --arg peer "${files[0]}${peer_options[*]:+ ${peer_options[*]}}" --arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
  --argjson peer_bytes "$(stat -c %s "$peer_model")" --argjson our_bytes "$(stat -c %s "$ours")" \
  --argjson lengths "{\"prompt\": $prompt, \"answer\": $answer, \"depth\": $depth}" '
  def median: map(values) | sort | if length == 0 then null else (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2 end;
  def side(who; key): map(select(.who == who)[key]);
  def figure(key): . as $rows
    | (map(.round) | unique | map(. as $r | $rows | map(select(.round == $r))
        | (side("muse"; key)[0] // null) as $ours | side("peer"; key)[0] as $theirs
        | if $ours and $theirs then $ours / $theirs else null end) | map(values)) as $ratios
    | {peer: side("peer"; key) | median, muse: side("muse"; key) | median}
    | . + {ratio: (if .peer and .muse then .muse / .peer else null end), lowest: ($ratios | min), highest: ($ratios | max)};
  {peer: $peer, build: (map(select(.build).build) | first), cpu: $cpu, peer_bytes: $peer_bytes, our_bytes: $our_bytes,
   lengths: $lengths, rounds: (map(.round) | max + 1), load_median: (map(.load) | median), load_max: (map(.load) | max),
   rows: (group_by(.threads) | map({threads: .[0].threads, prefill: figure("prefill"), decode: figure("decode"),
     probe_gb_per_s: side("muse"; "probe") | median, of_probe: side("muse"; "of_probe") | median}))}' "$rows" >"$folder/report"

if $json; then
  cat "$folder/report"
  exit
fi
jq -r '"\(.peer), build \(.build), \(.peer_bytes / 1e6 | round) MB against \(.our_bytes / 1e6 | round) MB",
  "\(.cpu), \(.rounds) rounds, load \(.load_median), at most \(.load_max)"' "$folder/report"
jq -r 'def short: if . == null then "-" else . * 100 | round / 100 end;
  ["threads", "what", "peer_tok/s", "muse_tok/s", "ratio", "lowest", "highest", "probe_GB/s", "of_probe"],
  (.rows[] | . as $row | (["prefill", "decode"][] | . as $what | $row[$what] as $f
    | [$row.threads, $what, $f.peer, $f.muse, $f.ratio, $f.lowest, $f.highest]
      + if $what == "decode" then [$row.probe_gb_per_s, $row.of_probe] else [null, null] end
    | map(if type == "string" then . else short end))) | @tsv' "$folder/report" | column -t
