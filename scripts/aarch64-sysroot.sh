#!/usr/bin/env bash
# Builds the aarch64 Linux standard library with the installed rustc, from Debian's `rust-src` of the same version, and
# prints the path of a sysroot that holds it: for machines where rustup cannot give the target.
#
# It takes about a minute once; the result is kept in ${XDG_CACHE_HOME:-~/.cache}. The system's apt and the installed
# toolchain are left as they are. Any failure: the reason on stderr, nothing on stdout, status 1.
set -euo pipefail
target=aarch64-unknown-linux-gnu
version=$(rustc -V | awk '{ print $2 }')
host=$(rustc -vV | awk '/^host:/ { print $2 }')
sysroot=${XDG_CACHE_HOME:-$HOME/.cache}/aarch64-sysroot-$version

fail() {
  echo "aarch64-sysroot: $*" >&2
  exit 1
}

mkdir -p "$(dirname "$sysroot")"
exec 9>"$sysroot.lock"
flock 9 # two test runs at once build it once
if [ ! -e "$sysroot/.done" ]; then
  for tool in apt-get apt-cache dpkg-deb; do
    command -v $tool >/dev/null || fail "needs Debian's $tool"
  done
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT

  # rust-src through an apt of its own: its version is newer than what the machine's release offers
  mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null |
    awk 'NR == 1 { print $1 }' || true)
  mirror=${mirror:-http://deb.debian.org/debian}
  apt=$work/apt
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,sources,preferences}
  cat > "$apt/sources/debian.sources" <<END
Types: deb
URIs: $mirror
Suites: trixie-backports
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
  cat > "$apt/apt.conf" <<END
Dir::State::lists "$apt/lists";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
Dir::Etc::preferencesparts "$apt/preferences";
APT::Sandbox::User "root";
END
  export APT_CONFIG=$apt/apt.conf
  apt-get -qq update >&2 || fail "the mirror $mirror does not answer"
  package=$(apt-cache madison rust-src | awk -v v="$version" '$3 ~ "^" v "[+~-]" && !p { p = $3 } END { print p }')
  [ -n "$package" ] || fail "no rust-src $version in trixie-backports at $mirror"
  (cd "$work" && apt-get -q download "rust-src=$package" >&2 && dpkg-deb -x rust-src_*.deb source) ||
    fail "rust-src $package could not be downloaded from $mirror"
  unset APT_CONFIG

  # std, test and proc_macro as cargo builds them for a crate that is empty
  mkdir -p "$work/empty/src"
  printf '[package]\nname = "empty"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n' > "$work/empty/Cargo.toml"
  : > "$work/empty/src/lib.rs"
  (cd "$work/empty" && RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$work/source/usr/src/rustc-$version/library \
    RUSTFLAGS="-Zforce-unstable-if-unmarked -Cembed-bitcode=yes" CARGO_TARGET_DIR=$work/target \
    cargo build --release -Zbuild-std=std,test,proc_macro -Zbuild-std-features=panic-unwind,backtrace,default \
    --target $target >&2) || fail "std did not build from rust-src $package"

  mkdir -p "$sysroot/lib/rustlib/$target/lib"
  cp "$work/target/$target/release/deps/"lib*.rlib "$sysroot/lib/rustlib/$target/lib/"
  rm -f "$sysroot/lib/rustlib/$target/lib/"libempty-*.rlib
  ln -sfn "$(rustc --print sysroot)/lib/rustlib/$host" "$sysroot/lib/rustlib/$host"
  touch "$sysroot/.done"
fi
echo "$sysroot"
