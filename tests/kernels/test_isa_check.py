"""Every function of every instruction set against double precision, by a C++ program without MLX or Python.

The same program runs for Arm under an emulator: tests/arm.sh.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "isa_check"
KERNELS = Path(__file__).parents[2] / "gptoss_mlx" / "kernels"
COMPILER = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program and the object files of the instruction sets are."""
    if COMPILER is None or shutil.which("bash") is None:
        pytest.skip("needs a C++ compiler and bash")
    made = tmp_path_factory.mktemp("isa_check")
    built = subprocess.run(["bash", HERE / "build.sh", COMPILER, made, "-O1"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return made


def run(folder: Path, *expected: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([folder / "isa_check", *expected], capture_output=True, text=True)


def test_every_set_agrees_with_double_precision(folder: Path) -> None:
    result = run(folder)
    assert result.returncode == 0, result.stdout
    sets = re.findall(r"^(\w+): (\d+) checks, 0 failures$", result.stdout, re.MULTILINE)
    assert sets[-1][0] == "portable"
    assert all(int(checks) > 100_000 for _, checks in sets)


def test_other_sets_than_the_expected_ones_are_a_failure(folder: Path) -> None:
    result = run(folder, "portable", "another")
    assert result.returncode == 1
    assert "not those expected" in result.stdout


def test_a_set_defines_nothing_that_another_could_be_linked_to(folder: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    objects = [path for path in folder.glob("*.o") if (KERNELS / "isa" / f"{path.stem}.h").exists()]
    assert objects
    for path in objects:
        listed = subprocess.run(
            ["nm", "--defined-only", "--extern-only", path], capture_output=True, text=True, check=True
        )
        names = [line.split()[-1] for line in listed.stdout.splitlines()]
        own = (f"6gptoss{len(path.stem)}{path.stem}", f"{path.stem}_kernels")
        assert [name for name in names if not any(part in name for part in own)] == []


def test_flags_are_those_of_the_build() -> None:
    cmake = (KERNELS / "CMakeLists.txt").read_text()
    script = (HERE / "build.sh").read_text()
    flags = re.findall(r"isa/(\w+)\.cpp PROPERTIES COMPILE_OPTIONS\s+\"([^\"]*)\"", cmake)
    assert {name for name, _ in flags} == {"avx2", "avx512", "dotprod", "i8mm"}
    for name, options in flags:
        assert f'{name}) flags="{options.replace(";", " ")}"' in script
