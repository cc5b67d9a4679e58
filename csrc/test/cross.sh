#!/usr/bin/env bash
# The kernels for NEON, compiled by a cross compiler and run under QEMU; says so and succeeds where either is missing.
# On Debian both come with the packages g++-aarch64-linux-gnu and qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."

CXX=${CROSS_CXX:-aarch64-linux-gnu-g++}
EMULATOR=${EMULATOR:-qemu-aarch64}
for program in "$CXX" "$EMULATOR"; do
  if ! command -v "$program" >/dev/null; then
    echo "cross: skipped, there is no $program"
    exit 0
  fi
done

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
defines=(-DNDEBUG -DBATCHNORM_NEON -DBATCHNORM_EMULATED -DBATCHNORM_STREAMED=16384)
flags=(-std=c++17 -O2 -Wall -Wextra -Werror "${defines[@]}" -pthread -I.)
for part in isa epilogues; do
  "$CXX" "${flags[@]}" -fno-math-errno -fno-trapping-math -DBATCHNORM_ISA=neon -c "kernels/$part.cc" -o "$build/$part.o"
done
for driver in random_calls concurrent_calls; do
  "$CXX" "${flags[@]}" -static library/*.cc "test/$driver.cc" "$build"/*.o -o "$build/$driver"
done
"$EMULATOR" "$build/random_calls" "${1:-40}"
"$EMULATOR" "$build/concurrent_calls"
