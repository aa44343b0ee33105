#!/usr/bin/env bash
# Build isa_check, with the instruction sets of the processor that the compiler is for:
#   build.sh COMPILER FOLDER [FLAG...]
# Leaves FOLDER/isa_check and the object files beside it. The flags of each set are those of kernels/CMakeLists.txt.
set -euo pipefail

compiler=$1 folder=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
kernels=$here/../../../gptoss_mlx/kernels
common=(-std=c++20 -Wall -Wextra -Wno-psabi -Wno-uninitialized -Wno-maybe-uninitialized -Wno-unknown-warning-option
  -fno-math-errno "-I$kernels" "-I$here" "$@")

compile() {
  local object=$1 source=$2
  shift 2
  "$compiler" "${common[@]}" "$@" -c "$source" -o "$folder/$object.o"
}

compile_set() {
  local flags=
  case $1 in
    avx2) flags="-mavx2 -mfma -mf16c" ;;
    avx512) flags="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mfma -mf16c -mprefer-vector-width=512" ;;
    dotprod) flags="-march=armv8.2-a+dotprod" ;;
    i8mm) flags="-march=armv8.2-a+dotprod+i8mm" ;;
  esac
  # shellcheck disable=SC2086  # several words
  compile "$1" "$kernels/isa/$1.cpp" $flags
}

case $("$compiler" "$@" -dumpmachine) in
  x86_64* | amd64*) sets=(avx512 avx2 portable) ;;
  aarch64* | arm64*) sets=(i8mm dotprod neon portable) ;;
  *) sets=(portable) ;;
esac

mkdir -p "$folder"
jobs=()
for set in "${sets[@]}"; do
  compile_set "$set" &
  jobs+=($!)
done
for source in "$here"/*.cpp; do compile "check_$(basename "$source" .cpp)" "$source"; done
compile choice "$kernels/common/isa.cpp"
for job in "${jobs[@]}"; do wait "$job"; done
objects=("${sets[@]/#/$folder/}")
"$compiler" "$@" "${objects[@]/%/.o}" "$folder/choice.o" "$folder"/check_*.o -o "$folder/isa_check"
