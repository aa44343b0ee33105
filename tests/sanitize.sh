#!/usr/bin/env bash
# The kernel tests under the address and undefined-behaviour sanitizers: builds the native kernels once more in a
# temporary folder and puts them, beside a copy of the package, in front of what is installed. Arguments go to pytest.
#
# Needs GCC with its sanitizer libraries, CMake, Ninja, nanobind and the test requirements in the active environment.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "sanitize.sh: $1" >&2
    exit 1
}

for tool in python cmake ninja g++; do
    command -v "$tool" > /dev/null || fail "$tool is missing"
done
for module in nanobind pytest hypothesis mlx.core; do
    python -c "import $module" 2> /dev/null || fail "the Python module $module is missing; activate the environment"
done
asan=$(g++ -print-file-name=libasan.so)
[[ $asan == /* ]] || fail "g++ has no libasan.so; install its sanitizer libraries"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake -S gptoss_mlx/kernels -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGPTOSS_SANITIZE=ON \
    -DCMAKE_CXX_COMPILER=g++ -DPython_EXECUTABLE="$(command -v python)" > "$work/cmake.log" ||
    fail "cmake failed: $(cat "$work/cmake.log")"
ninja -C "$work/build" > "$work/ninja.log" || fail "the build failed: $(cat "$work/ninja.log")"

mkdir "$work/tree"
cp -r gptoss_mlx convert tests pyproject.toml "$work/tree"
rm -f "$work"/tree/gptoss_mlx/kernels/_native*.so
cp "$work"/build/_native*.so "$work/tree/gptoss_mlx/kernels"
ln -s ../convert "$work/tree/gptoss_mlx/convert"  # where an installed package has it
cat > "$work/tree/sitecustomize.py" << 'SITE'
import sys  # an editable install finds its own folder before the path is searched

sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildRedirectingFinder"]
SITE

# No leaks: Python and MLX leave memory to the system when they exit, and so do the pool's threads. Tests that measure
# memory would see the sanitizer's store of what was freed, and isa_check is another program that is built elsewhere.
LD_PRELOAD="$asan $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
export LD_PRELOAD
export ASAN_OPTIONS="detect_leaks=0:handle_sigbus=0:${ASAN_OPTIONS:-}" UBSAN_OPTIONS="print_stacktrace=1:${UBSAN_OPTIONS:-}"
export GPTOSS_MLX_REQUIRE_KERNELS=1 PYTHONPATH="$work/tree"
cd "$work/tree"
python - "$work" << 'CHECK' || fail "the sanitized build is not what Python imports"
import sys

from gptoss_mlx.kernels import extension, why_off

print(why_off, end="", file=sys.stderr)
sys.exit(extension is None or not extension.__file__.startswith(sys.argv[1]))
CHECK
python -m pytest -p no:cacheprovider -q tests/kernels --ignore tests/kernels/test_isa_check.py -k "not nothing_behind and not nothing_is_copied and not comes_with_writing" "$@"
