#!/usr/bin/env bash
# Installs the service: binaries, unit, bus policy and activation, user, configuration, manual pages, completions.
#
#   sudo scripts/install.sh
#   DESTDIR=/tmp/package scripts/install.sh      # for a package: only copies
#   sudo scripts/install.sh --uninstall          # leaves /etc/muse and /var/lib/muse, the models
#
# An existing /etc/muse/mused.toml is kept. Builds what is not built, as the user who called sudo.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

root=${DESTDIR:-}
programs=(mused musectl muse-quantize muse-bench)
pages() { ls "$root"/usr/share/man/man[18]/{mused,musectl,muse-quantize}{,-*}.[18] 2>/dev/null || true; }

[ -n "$root" ] || [ "$(id -u)" = 0 ] || { echo "run it as root: sudo $0 $*" >&2; exit 1; }
case ${1:-} in
  '') ;;
  --uninstall)
    [ -n "$root" ] || systemctl disable --now mused 2>/dev/null || true
    for program in "${programs[@]}"; do
      rm -f "$root/usr/bin/$program" "$root/usr/share/bash-completion/completions/$program" \
        "$root/usr/share/zsh/vendor-completions/_$program" "$root/usr/share/fish/vendor_completions.d/$program.fish"
    done
    pages | xargs -r rm -f
    rm -f "$root"/usr/lib/systemd/system/mused.service "$root"/usr/lib/{sysusers,tmpfiles}.d/muse.conf \
      "$root"/usr/share/dbus-1/{system.d/org.museproject.Inference1.conf,system-services/org.museproject.Inference1.service} \
      "$root"/usr/share/dbus-1/interfaces/org.museproject.Inference1*.xml
    [ -n "$root" ] || systemctl daemon-reload || true
    echo "removed; /etc/muse and /var/lib/muse are left"
    exit 0
    ;;
  *) echo "usage: scripts/install.sh [--uninstall]" >&2; exit 2 ;;
esac

build='. scripts/lib.sh; need_rust; cargo build --release --locked -p mused -p muse-quantize -p muse-benches --bins'
if [ -n "${SUDO_USER:-}" ] && [ "$(id -u)" = 0 ]; then
  sudo -u "$SUDO_USER" -H bash -c "set -e; $build"
else
  bash -c "set -e; $build"
fi
bin=${CARGO_TARGET_DIR:-target}/release

for program in "${programs[@]}"; do
  install -Dm755 "$bin/$program" "$root/usr/bin/$program"
done
install -Dm644 systemd/mused.service -t "$root/usr/lib/systemd/system"
install -Dm644 systemd/sysusers.conf "$root/usr/lib/sysusers.d/muse.conf"
install -Dm644 systemd/tmpfiles.conf "$root/usr/lib/tmpfiles.d/muse.conf"
install -Dm644 systemd/org.museproject.Inference1.conf -t "$root/usr/share/dbus-1/system.d"
install -Dm644 systemd/org.museproject.Inference1.service -t "$root/usr/share/dbus-1/system-services"
install -Dm644 daemon/interfaces/*.xml -t "$root/usr/share/dbus-1/interfaces"
[ -e "$root/etc/muse/mused.toml" ] || install -Dm644 systemd/mused.toml -t "$root/etc/muse"

made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
"$bin/musectl" man "$made/man"
"$bin/muse-quantize" man "$made/man"
for section in 1 8; do
  install -Dm644 "$made"/man/*."$section" -t "$root/usr/share/man/man$section"
done
for program in musectl muse-quantize; do
  for shell in bash zsh fish; do
    "$bin/$program" completions "$shell" > "$made/$shell"
  done
  install -Dm644 "$made/bash" "$root/usr/share/bash-completion/completions/$program"
  install -Dm644 "$made/zsh" "$root/usr/share/zsh/vendor-completions/_$program"
  install -Dm644 "$made/fish" "$root/usr/share/fish/vendor_completions.d/$program.fish"
done

if [ -z "$root" ]; then
  systemd-sysusers muse.conf
  systemd-tmpfiles --create muse.conf
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl reload dbus
  fi
  cat <<END
installed. Next:
  usermod -aG muse USER                                       # who may call the service; takes effect at the next login
  cp model.muse /var/lib/muse/models/
  systemctl enable --now mused
  musectl doctor
END
fi
