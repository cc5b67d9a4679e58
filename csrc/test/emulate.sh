#!/usr/bin/env bash
# The kernels for AVX-512 in Bochs, an emulator of whole machines, under a Linux kernel whose only program is the test.
# Says so and succeeds where a program or the kernel is missing. On Debian it takes the packages bochs, bochs-term, cpio,
# grub-pc-bin, mtools and xorriso, and a kernel: KERNEL names one, unpacked from linux-image-cloud-amd64 for instance.
#
#     emulate.sh [CASES]
set -euo pipefail
cd "$(dirname "$0")/.."

CXX=${CXX:-c++}
KERNEL=${KERNEL:-$(find /boot -maxdepth 1 -name 'vmlinuz*' 2>/dev/null | sort | tail -n 1)}
for program in "$CXX" bochs cpio grub-mkrescue mformat script xorriso; do
  if ! command -v "$program" >/dev/null; then
    echo "emulate: skipped, there is no $program"
    exit 0
  fi
done
if [ "$(uname -m)" != x86_64 ] || [ ! -r "$KERNEL" ]; then
  echo "emulate: skipped, there is no Linux kernel for x86_64 (KERNEL=$KERNEL)"
  exit 0
fi

build=$(mktemp -d)
machine=
finish() {
  if [ -n "$machine" ]; then kill -- "-$machine" 2>/dev/null || true; fi
  rm -rf "$build"
}
trap finish EXIT

# AVX-512 is compiled as in the library. Smaller outputs go past the caches, and Bochs rounds ties to a half upwards.
defines=(-DNDEBUG -DBATCHNORM_X86 -DBATCHNORM_AVX512 -DBATCHNORM_STREAMED=16384 -DBATCHNORM_TIES_EITHER_WAY)
flags=(-std=c++17 -Wall -Wextra -Werror "${defines[@]}" -pthread -I.)
isa() {
  for part in isa epilogues; do
    "$CXX" "${flags[@]}" -fno-math-errno -fno-trapping-math -ffp-contract=fast "${@:2}" -DBATCHNORM_ISA="$1" \
      -c "kernels/$part.cc" -o "$build/$1-$part.o"
  done
}
isa baseline -O1
isa avx2 -O1 -mavx2 -mfma -mf16c
isa avx512 -O3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c
mkdir -p "$build/files" "$build/disk/boot/grub"
"$CXX" "${flags[@]}" -O2 -static library/*.cc test/random_calls.cc "$build"/*.o -o "$build/files/init"

(cd "$build/files" && echo init | cpio --quiet -o -H newc) >"$build/disk/boot/files"
cp "$KERNEL" "$build/disk/boot/kernel"
# With XSAVEC, XSAVES or PKU the kernel takes the size of the emulated registers for wrong, and leaves AVX-512 off.
cat >"$build/disk/boot/grub/grub.cfg" <<END
set timeout=0
menuentry test {
  linux /boot/kernel console=ttyS0,115200 nosmp mitigations=off clearcpuid=321,323,515 -- ${1:-20} avx512
  initrd /boot/files
}
END
grub-mkrescue -o "$build/disk.iso" "$build/disk" >/dev/null 2>&1

cd "$build"
cat >machine <<END
megs: 512
romimage: file=${BOCHS_FILES:=/usr/share/bochs}/BIOS-bochs-latest
vgaromimage: file=$BOCHS_FILES/VGABIOS-lgpl-latest
cpu: model=corei7_skylake_x, count=1
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=disk.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=console
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
speaker: enabled=0
display_library: term
log: log
END
echo continue >commands
touch console
set -m
# Bochs draws its screen on a terminal with a keyboard, and may be built with a debugger, which asks how to begin.
mkfifo keyboard
script -qc 'stty rows 50 cols 132; bochs -q -f machine -rc commands' /dev/null <>keyboard >/dev/null 2>&1 &
machine=$!
for _ in $(seq 1800); do
  if grep -aq 'Attempted to kill init' console; then break; fi
  if ! kill -0 "$machine" 2>/dev/null; then break; fi
  sleep 2
done
# The kernel stops when its only program ends, and prints how that ended.
if ! grep -aq 'Attempted to kill init! exitcode=0x00000000' console; then
  echo "emulate: the test failed, or did not run to its end"
  tail -n 20 console
  exit 1
fi
echo "${1:-20} random calls with AVX-512 agree"
