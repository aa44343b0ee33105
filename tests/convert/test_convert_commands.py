"""`gptoss-mlx synth`, `convert` and `verify` as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gptoss_mlx.cli import main


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_whole_way(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    made = _run("synth", source, "--size", "tiny", "--layers", 2, "--layout", "original", "--seed", 3)
    assert made.exit_code == 0
    assert "layout original, seed 3" in made.output
    converted = _run("convert", source, out, "--dense", "q4")
    assert converted.exit_code == 0
    assert converted.output.count("\n") == 1
    assert "kB in 1 file(s)" in converted.output
    verified = _run("verify", source, out)
    assert verified.exit_code == 0
    assert "bit for bit" in verified.output
    assert "affine 4-bit g64" in verified.output
    assert f"{out}: holds" in verified.output
    every = _run("verify", source, out, "--all")
    assert "model.layers.1.mlp.experts.gate_proj" in every.output


def test_verify_fails_with_the_names_of_what_is_wrong(sources: dict[str, Path], tmp_path: Path) -> None:
    _run("synth", tmp_path / "other", "--layers", 3, "--seed", 9)
    _run("convert", tmp_path / "other", tmp_path / "out")
    result = _run("verify", sources["hf"], tmp_path / "out")
    assert result.exit_code == 1
    assert "WRONG" in result.output
    assert "model.norm.weight: " in result.output
    assert "does NOT hold" in result.output


def test_failures_are_one_line(sources: dict[str, Path], tmp_path: Path) -> None:
    assert _run("convert", sources["hf"], tmp_path / "out").exit_code == 0
    again = _run("convert", sources["hf"], tmp_path / "out")
    assert again.exit_code == 1
    assert again.output.startswith("Error: ")
    assert again.output.count("\n") == 1


def test_an_interrupt_is_one_line_that_says_how_to_go_on(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("gptoss_mlx.convert.conversion.write_side_files", interrupt)
        result = _run("convert", sources["hf"], tmp_path / "out")
    assert result.exit_code == 130
    assert result.output == "interrupted; the same command with --resume continues\n"
    resumed = _run("convert", sources["hf"], tmp_path / "out", "--resume")
    assert resumed.exit_code == 0
    assert "1 of them from before" in resumed.output


def test_a_change_of_preset_tells_its_loss(sources: dict[str, Path], tmp_path: Path) -> None:
    _run("convert", sources["hf"], tmp_path / "q8")
    result = _run("convert", tmp_path / "q8", tmp_path / "q4", "--dense", "q4")
    assert "note: 14 matrices that were already affine 8-bit g64 became affine 4-bit g64" in result.output


@pytest.mark.parametrize("preset", ["q5", ""])
def test_unknown_presets_are_refused(preset: str, sources: dict[str, Path], tmp_path: Path) -> None:
    assert _run("convert", sources["hf"], tmp_path / "out", "--dense", preset).exit_code == 2
