#!/usr/bin/env bash
# Runs one static program in an emulated PC whose CPU has AVX-512 VNNI: cargo's runner for `avx512.sh`.
#
#   AVX512_KERNEL=vmlinuz AVX512_INIT=init scripts/avx512-boot.sh PROGRAM ARGUMENT...
#
# A Linux kernel starts INIT, which checks the CPU and runs PROGRAM; there is nothing else, so a program that reads files
# of the host cannot run here. What it writes comes back by the serial line. INIT ends with PROGRAM's status, whereupon
# the kernel panics and names that status, which is then this script's.
set -euo pipefail
limit_s=${AVX512_SECONDS:-600}

fail() {
  echo "avx512-boot: $*" >&2
  exit 1
}

work=$(mktemp -d)
emulator=
finish() {
  [ -z "$emulator" ] || kill -KILL "$emulator" 2>/dev/null || true # it ignores SIGTERM
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

# --- the disc: kernel, programs, boot loader
program=$1
shift
for argument in "$@"; do
  [[ $argument != *[[:space:]\"]* ]] || fail "a kernel's command line cannot carry the argument '$argument'"
done
mkdir "$work/root" "$work/disc"
cp "$AVX512_INIT" "$work/root/init"
cp "$program" "$work/root/test"
(cd "$work/root" && printf '%s\n' init test | cpio -o -H newc --quiet) >"$work/disc/initrd"
cp "$AVX512_KERNEL" "$work/disc/linux"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/disc"

# Bochs 2.7 describes XSAVES, XSAVEC and PKU differently from what they do, and Linux then turns AVX-512 off; with the
# second group Linux 6.1 faults. The rest is there for the speed of the start.
hidden=pku,ospke,xsavec,xsaves,pcid,invpcid,smap,smep,erms,fsrm,umip,mwait,monitor
options="console=ttyS0,115200 quiet loglevel=1 clearcpuid=$hidden acpi=off nolapic idle=poll mitigations=off"
options+=" lsm=none cryptomgr.notests initcall_blacklist=trace_eval_init,load_system_certificate_list"
cat >"$work/disc/isolinux.cfg" <<END
default test
prompt 0
label test
  linux linux
  append initrd=initrd $options -- /test $*
END
xorriso -as mkisofs -quiet -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table \
  -o "$work/disc.iso" "$work/disc" 2>/dev/null || fail "xorriso could not write the disc"

# --- the machine. `ips` only says how fast its clocks go: slow ones, so that what waits for them costs little.
cat >"$work/bochsrc" <<END
config_interface: textconfig
display_library: term
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_icelake_u, count=1, ips=10000000
clock: sync=none
memory: guest=256, host=256
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial
log: $work/log
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
END
echo c >"$work/debugger" # Debian's build starts in its debugger: continue
mkfifo "$work/serial"
exec 3<>"$work/serial"
TERM=vt100 bochs-bin -q -f "$work/bochsrc" -rc "$work/debugger" </dev/null >"$work/screen" 2>&1 3>&- &
emulator=$!

# Its screen is a pseudoterminal of its own, and it stops when nobody reads that.
screen=
until [ -n "$screen" ]; do
  kill -0 "$emulator" 2>/dev/null || { tail -20 "$work/screen" >&2; fail "bochs does not start"; }
  sleep 0.1
  screen=$(sed -n 's/^Bochs connected to screen "\(.*\)"$/\1/p' "$work/screen")
done
{ stty raw -echo && exec cat >/dev/null; } <"$screen" 2>/dev/null 3>&- &

# --- its output, to the line that ends it
held=
while :; do
  if IFS= read -r -t 5 line <&3; then
    line=$held${line%$'\r'} held=
    case $line in
      *'Kernel panic'*exitcode=0x*) break ;;
      *) printf '%s\n' "$line" ;;
    esac
  else
    held+=$line
    kill -0 "$emulator" 2>/dev/null || { tail -20 "$work/screen" "$work/log" >&2; fail "bochs ended before the program"; }
    [ "$SECONDS" -lt "$limit_s" ] || fail "not done after $limit_s s; the last it wrote: '$held'"
  fi
done
code=$((16#${line##*exitcode=0x}))
[ $((code & 127)) = 0 ] || fail "the first process was ended by signal $((code & 127))"
exit $((code >> 8 & 255))
