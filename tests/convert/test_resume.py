"""Interruption at any point, then --resume: the same bytes as a run that nobody disturbed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workbench import contents

from gptoss_mlx.convert import convert
from gptoss_mlx.errors import ConversionError

SHARD = 250_000
MANIFEST = "conversion.json"


class Stop:
    """A progress callback that interrupts after so many bytes."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, done: int, total: int) -> None:
        if done > self.after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def undisturbed(sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    convert(sources["hf"], folder, shard_bytes=SHARD)
    return contents(folder)


def _total(files: dict[str, bytes]) -> int:
    return int(json.loads(files["model.safetensors.index.json"])["metadata"]["total_size"])


@settings(max_examples=12)
@given(data=st.data())
def test_interrupted_anywhere_and_resumed(
    data: st.DataObject,
    sources: dict[str, Path],
    undisturbed: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    out = tmp_path_factory.mktemp("resumed") / "out"
    total = _total(undisturbed)
    for attempt in range(data.draw(st.integers(1, 3))):
        with pytest.raises(KeyboardInterrupt):
            convert(
                sources["hf"],
                out,
                shard_bytes=SHARD,
                resume=attempt > 0,
                progress=Stop(data.draw(st.integers(0, total - 1))),
            )
        assert not out.exists()
    convert(sources["hf"], out, shard_bytes=SHARD, resume=True)
    assert contents(out) == undisturbed
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_finished_shards_are_kept(sources: dict[str, Path], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(sources["hf"], tmp_path / "out", shard_bytes=SHARD, progress=Stop(3 * SHARD))
    finished = json.loads((tmp_path / "out.partial" / MANIFEST).read_text())["finished"]
    assert finished
    times = {name: (tmp_path / "out.partial" / name).stat().st_mtime_ns for name in finished}
    report = convert(sources["hf"], tmp_path / "out", shard_bytes=SHARD, resume=True)
    assert report.shards_resumed == len(finished) < report.shards
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in times.items())
    assert contents(tmp_path / "out") == undisturbed


def test_a_shard_of_another_size_is_written_again(
    sources: dict[str, Path], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        convert(sources["hf"], tmp_path / "out", shard_bytes=SHARD, progress=Stop(3 * SHARD))
    first = json.loads((tmp_path / "out.partial" / MANIFEST).read_text())["finished"][0]
    path = tmp_path / "out.partial" / first
    path.write_bytes(path.read_bytes()[:-1])
    convert(sources["hf"], tmp_path / "out", shard_bytes=SHARD, resume=True)
    assert contents(tmp_path / "out") == undisturbed


KILLED = """
import sys, time
from gptoss_mlx.convert import convert

def progress(done, total):
    if done > 2 * {shard}:
        print(done, flush=True)
        time.sleep(60)

convert({source!r}, {out!r}, shard_bytes={shard}, progress=progress)
"""


def test_a_killed_process_leaves_what_can_be_resumed(
    sources: dict[str, Path], undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script = KILLED.format(source=str(sources["hf"]), out=str(out), shard=SHARD)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()  # it is in the middle of a shard now
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    convert(sources["hf"], out, shard_bytes=SHARD, resume=True)
    assert contents(out) == undisturbed


def test_unfinished_side_files_are_made_good(
    sources: dict[str, Path], undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("gptoss_mlx.convert.conversion.write_side_files", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            convert(sources["hf"], tmp_path / "out", shard_bytes=SHARD)
    report = convert(sources["hf"], tmp_path / "out", shard_bytes=SHARD, resume=True)
    assert report.shards_resumed == report.shards
    assert contents(tmp_path / "out") == undisturbed


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_full_disk_is_one_line_and_can_be_resumed(
    sources: dict[str, Path], undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", full)
        with pytest.raises(ConversionError, match="No space left on device; what is finished is kept"):
            convert(sources["hf"], tmp_path / "out", shard_bytes=SHARD)
    convert(sources["hf"], tmp_path / "out", shard_bytes=SHARD, resume=True)
    assert contents(tmp_path / "out") == undisturbed


class TestRefusals:
    @pytest.fixture
    def interrupted(self, damaged: Path, tmp_path: Path) -> Path:
        with pytest.raises(KeyboardInterrupt):
            convert(damaged, tmp_path / "out", shard_bytes=SHARD, progress=Stop(2 * SHARD))
        return tmp_path / "out"

    def test_nothing_to_resume(self, damaged: Path, tmp_path: Path) -> None:
        with pytest.raises(ConversionError, match="nothing to resume; convert without --resume"):
            convert(damaged, tmp_path / "out", resume=True)
        assert [path.name for path in tmp_path.iterdir()] == [damaged.name]

    def test_another_preset(self, interrupted: Path, damaged: Path) -> None:
        with pytest.raises(ConversionError, match="has dense 'q8', not 'q4'"):
            convert(damaged, interrupted, shard_bytes=SHARD, dense="q4", resume=True)

    def test_another_source(self, interrupted: Path, damaged: Path) -> None:
        path = sorted(damaged.glob("model*"))[0]
        path.write_bytes(path.read_bytes())  # changed since
        with pytest.raises(ConversionError, match="has another source"):
            convert(damaged, interrupted, shard_bytes=SHARD, resume=True)

    def test_starting_over_must_be_asked_for(self, interrupted: Path, damaged: Path) -> None:
        with pytest.raises(ConversionError, match="continue it with --resume, or start over with --overwrite"):
            convert(damaged, interrupted)
        convert(damaged, interrupted, overwrite=True)
        assert (interrupted / "config.json").exists()
        assert not interrupted.with_name("out.partial").exists()

    def test_a_damaged_manifest(self, interrupted: Path, damaged: Path) -> None:
        (interrupted.with_name("out.partial") / MANIFEST).write_text("{")
        with pytest.raises(ConversionError, match="not readable"):
            convert(damaged, interrupted, shard_bytes=SHARD, resume=True)

    def test_a_replacement_can_be_resumed(self, damaged: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        convert(damaged, out)
        with pytest.raises(KeyboardInterrupt):
            convert(damaged, out, dense="q4", overwrite=True, shard_bytes=SHARD, progress=Stop(2 * SHARD))
        report = convert(damaged, out, dense="q4", overwrite=True, shard_bytes=SHARD, resume=True)
        assert report.shards_resumed > 0
        assert not (out / "model.safetensors").exists()  # the old one had a single file
