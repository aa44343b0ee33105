#!/usr/bin/env bash
# Check the native kernels for 64-bit Arm without having one: compile tests/kernels/isa_check with a cross compiler and
# run it under QEMU on processors with and without dotprod and i8mm. Takes about a minute. On Debian and Ubuntu:
#   apt-get install g++-aarch64-linux-gnu qemu-user
set -euo pipefail

compiler=${CXX_AARCH64:-aarch64-linux-gnu-g++}
missing=()
command -v "$compiler" >/dev/null || missing+=(g++-aarch64-linux-gnu)
command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
if ((${#missing[@]})); then
  echo "tests/arm.sh: not installed: ${missing[*]} (apt-get install ${missing[*]})" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$(dirname "$0")/kernels/isa_check/build.sh" "$compiler" "$work" -O2 -Werror -static

# A processor, and the sets that are to be found on it, best first. What `max` has checked needs no second check.
run() {
  local processor=$1
  shift
  qemu-aarch64 -cpu "$processor" "$work/isa_check" "$@" >"$work/$processor.txt" 2>&1 || echo "failed: $?" >>"$work/$processor.txt"
}
run max i8mm dotprod neon portable &
run neoverse-n1 --best dotprod neon portable
run cortex-a72 --best neon portable
wait

for processor in max neoverse-n1 cortex-a72; do sed "s/^/$processor: /" "$work/$processor.txt"; done
! grep -q '^failed' "$work"/*.txt
