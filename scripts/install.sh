#!/usr/bin/env bash
# Installs mused, musectl and muse-quantize with their unit, bus policy, man pages and completions.
#
#   cargo build --release --workspace && sudo scripts/install.sh
#   DESTDIR=/tmp/image scripts/install.sh      into a folder, as packagers do
#
# Variables: DESTDIR (empty), PREFIX (/usr), BINARIES (target/release). Running it twice is fine; an edited
# /etc/muse/mused.toml is kept. With DESTDIR nothing outside it is touched and nothing is started.
set -euo pipefail
cd "$(dirname "$0")/.."

destdir=${DESTDIR:-}
prefix=${PREFIX:-/usr}
binaries=${BINARIES:-target/release}
to=$destdir$prefix

for binary in mused musectl; do
    if [ ! -x "$binaries/$binary" ]; then
        echo "install.sh: $binaries/$binary is missing; run: cargo build --release --workspace" >&2
        exit 1
    fi
done

install -D -m 0755 -t "$to/bin" "$binaries/mused" "$binaries/musectl"
if [ -x "$binaries/muse-quantize" ]; then
    install -D -m 0755 -t "$to/bin" "$binaries/muse-quantize"
fi

# The unit names the binary by its path.
install -d -m 0755 "$to/lib/systemd/system"
sed "s|^ExecStart=/usr/|ExecStart=$prefix/|" systemd/mused.service > "$to/lib/systemd/system/mused.service"
chmod 0644 "$to/lib/systemd/system/mused.service"
install -D -m 0644 systemd/sysusers.conf "$to/lib/sysusers.d/muse.conf"
install -D -m 0644 systemd/tmpfiles.conf "$to/lib/tmpfiles.d/muse.conf"
install -D -m 0644 -t "$to/share/dbus-1/system-services" systemd/org.museproject.Inference1.service
install -D -m 0644 -t "$to/share/dbus-1/system.d" systemd/org.museproject.Inference1.conf
install -D -m 0644 -t "$to/share/dbus-1/interfaces" daemon/interfaces/*.xml
if [ ! -e "$destdir/etc/muse/mused.toml" ]; then
    install -D -m 0644 systemd/mused.toml "$destdir/etc/muse/mused.toml"
fi

# Both are made by the program itself; with another machine's binaries they are left out.
pages=$(mktemp -d)
trap 'rm -rf "$pages"' EXIT
if "$binaries/musectl" man "$pages" 2>/dev/null; then
    install -D -m 0644 -t "$to/share/man/man1" "$pages"/*.1
    install -D -m 0644 -t "$to/share/man/man8" "$pages"/*.8
    "$binaries/musectl" completions bash > "$pages/musectl"
    install -D -m 0644 "$pages/musectl" "$to/share/bash-completion/completions/musectl"
    "$binaries/musectl" completions zsh > "$pages/_musectl"
    install -D -m 0644 "$pages/_musectl" "$to/share/zsh/site-functions/_musectl"
    "$binaries/musectl" completions fish > "$pages/musectl.fish"
    install -D -m 0644 "$pages/musectl.fish" "$to/share/fish/vendor_completions.d/musectl.fish"
else
    echo "install.sh: $binaries/musectl does not run here: man pages and completions are left out" >&2
fi

if [ -n "$destdir" ]; then
    exit 0
fi
systemd-sysusers muse.conf
systemd-tmpfiles --create muse.conf
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl reload dbus || true
fi
echo "Installed. Next:"
echo "  sudo usermod -aG muse \$USER      let yourself talk to the service, then log in again"
echo "  sudo cp MODEL.muse /var/lib/muse/models/"
echo "  sudo systemctl enable --now mused && musectl doctor"
