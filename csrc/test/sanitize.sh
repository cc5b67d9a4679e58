#!/usr/bin/env bash
# The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and calls at once under ThreadSanitizer.
# The plain instruction set stands in for AVX-512 by its width where the machine lacks that.
set -euo pipefail
cd "$(dirname "$0")/.."

CXX=${CXX:-c++}
if ! command -v "$CXX" >/dev/null; then
  echo "sanitize: skipped, there is no C++ compiler ($CXX)"
  exit 0
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
flags=(-std=c++17 -O1 -g1 -Wall -Wextra -Werror -fno-math-errno -fno-trapping-math -fno-omit-frame-pointer -pthread -I.)
library=(library/calls.cc library/interface.cc library/isas.cc library/plan.cc library/pool.cc)

isas=(baseline)
defines=(-DNDEBUG -DBATCHNORM_STREAMED=16384)
case "$(uname -m)" in
  x86_64) isas+=(avx2) defines+=(-DBATCHNORM_X86) ;;
esac
if grep -qs avx512vl /proc/cpuinfo; then
  isas+=(avx512)
  defines+=(-DBATCHNORM_AVX512)
fi

isa_flags() {
  case "$1" in
    baseline) echo "-DBATCHNORM_VECTOR_BYTES=64 -Wno-psabi" ;;
    avx2) echo "-mavx2 -mfma -mf16c" ;;
    avx512) echo "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c" ;;
  esac
}

# compile NAME SANITIZERS DRIVER ISA...
compile() {
  local name=$1 sanitizers=$2 driver=$3 objects=() waiting=()
  shift 3
  for isa in "$@"; do
    for part in isa epilogues; do
      # shellcheck disable=SC2046
      "$CXX" "${flags[@]}" "$sanitizers" $(isa_flags "$isa") -DBATCHNORM_ISA="$isa" \
        -c "kernels/$part.cc" -o "$build/$name-$isa-$part.o" &
      waiting+=($!)
      objects+=("$build/$name-$isa-$part.o")
    done
  done
  for pid in "${waiting[@]}"; do wait "$pid"; done
  "$CXX" "${flags[@]}" "$sanitizers" "${wanted[@]}" "${library[@]}" "$driver" "${objects[@]}" -o "$build/$name"
}

wanted=("${defines[@]}")
compile address -fsanitize=address,undefined test/random_calls.cc "${isas[@]}"
UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "$build/address" "${1:-60}"

wanted=(-DNDEBUG)
compile thread -fsanitize=thread test/concurrent_calls.cc baseline
# ThreadSanitizer of some compilers needs addresses where it expects them.
fixed=()
if command -v setarch >/dev/null && setarch -R true 2>/dev/null; then fixed=(setarch -R); fi
TSAN_OPTIONS=halt_on_error=1 "${fixed[@]}" "$build/thread"
