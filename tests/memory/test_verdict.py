"""What fits which machine, what is said where it does not, and that whoever follows it is let in."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import gptoss_mlx
from gptoss_mlx import memory
from gptoss_mlx.cli import main
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.convert import convert
from gptoss_mlx.convert.names import release_tensors
from gptoss_mlx.convert.presets import DENSE, Preset
from gptoss_mlx.errors import MemoryLimitError, RequestError
from gptoss_mlx.memory import (
    CONTEXT,
    Machine,
    Need,
    Verdict,
    admission,
    cache_bytes,
    check_context,
    check_folder,
    check_load,
    largest_context,
)
from gptoss_mlx.weights import load_model
from toy import write_toy

GB = 1_000_000_000
CONFIGS = {"20b": ModelConfig(), "120b": ModelConfig(num_hidden_layers=36, num_local_experts=128)}
MACS = {
    "16": Machine("metal", 16 << 30, 11_453_246_122),
    "16, newer": Machine("metal", 16 << 30, 12_713_000_000),
    "24": Machine("metal", 24 << 30, 17_180_000_000),
    "32": Machine("metal", 32 << 30, 22_900_000_000),
    "64": Machine("metal", 64 << 30, 51_500_000_000),
    "96": Machine("metal", 96 << 30, 77_300_000_000),
    "128": Machine("metal", 128 << 30, 103_000_000_000),
}
"""Metal's recommended working sets as they have been logged, or are commonly reported."""


@cache
def need(size: str, dense: str) -> Need:
    """A converted model, or with "release" the released folder."""
    if dense == "release":
        return Need.of_tensors(CONFIGS[size], release_tensors(CONFIGS[size]).values(), size)
    return Need.of_preset(CONFIGS[size], Preset(dense), size)


@cache
def longest(size: str, dense: str, machine: Machine) -> int:
    """The longest context of the usual ones that is let in."""
    usual = (2048, 4096, 32768, 65536, 131072)
    return max((tokens for tokens in usual if check_load(need(size, dense), machine, tokens).fits), default=0)


@pytest.mark.parametrize(
    ("mac", "size", "contexts"),
    [
        ("16", "20b", {"bf16": 0, "q8": 0, "mxfp8": 0, "q6": 0, "q4": 2048}),
        ("16, newer", "20b", {"bf16": 0, "q8": 4096, "mxfp8": 4096, "q6": 4096, "q4": 32768}),
        ("24", "20b", {**dict.fromkeys(DENSE, 131072), "bf16": 65536}),
        ("32", "20b", dict.fromkeys(DENSE, 131072)),
        ("64", "20b", dict.fromkeys(DENSE, 131072)),
        ("96", "20b", dict.fromkeys(DENSE, 131072)),
        ("64", "120b", dict.fromkeys(DENSE, 0)),
        ("96", "120b", dict.fromkeys(DENSE, 131072)),
        ("128", "120b", dict.fromkeys(DENSE, 131072)),
    ],
)
def test_macs(mac: str, size: str, contexts: dict[str, int]) -> None:
    assert {dense: longest(size, dense, MACS[mac]) for dense in contexts} == contexts
    assert longest(size, "release", MACS[mac]) <= contexts["bf16"]


def test_the_refusal_names_the_numbers_and_every_way_out() -> None:
    verdict = check_load(need("20b", "bf16"), MACS["24"], 131072)
    assert not verdict.fits
    assert verdict.needed > verdict.available == 17_180_000_000
    for words in (
        "20b: 17.27 GB", "weights 13.76 GB", "131,072 tokens",
        "17.18 GB to be had (Metal's limit on a Mac of 25.77 GB)",
        "a context of 110,592 tokens, or `gptoss-mlx convert --dense q8`", ", or `sudo sysctl iogpu.wired_limit_mb=",
    ):  # fmt: skip
        assert words in verdict.note
    assert [(a.tokens, a.dense, a.wired_mb is not None) for a in verdict.advice] == [
        (110592, None, False), (None, "q8", False), (None, None, True),
    ]  # fmt: skip
    with pytest.raises(MemoryLimitError) as caught:
        verdict.require()
    assert str(caught.value) == verdict.note


@pytest.mark.parametrize(
    ("mac", "size", "dense", "tokens", "ways"),
    [
        ("16", "20b", "q8", 4096, [(None, None, True)]),
        ("16", "20b", "q4", 4096, [(3072, None, False), (None, None, True)]),
        ("16", "20b", "bf16", 4096, [(3072, "q4", False), (None, "q8", True)]),
        ("16, newer", "20b", "bf16", 4096, [(None, "q8", False)]),
        ("64", "120b", "q8", 4096, []),
        ("16", "120b", "q4", 4096, []),
    ],
)
def test_advice(mac: str, size: str, dense: str, tokens: int, ways: list[tuple[int | None, str | None, bool]]) -> None:
    verdict = check_load(need(size, dense), MACS[mac], tokens)
    assert [(a.tokens, a.dense, a.wired_mb is not None) for a in verdict.advice] == ways
    assert ("no form of this model fits here" in verdict.note) == (not ways)


machines = st.builds(
    lambda device, total, share, native, kv: Machine(device, total, int(total * share), native and device == "cpu", kv),
    st.sampled_from(["cpu", "metal", "cuda"]),
    st.integers(GB, 200 * GB),
    st.floats(0.05, 1),
    st.booleans(),
    st.sampled_from(["float32", "bfloat16", "q8", "q4"]),
)
needs = st.builds(need, st.sampled_from(["20b", "120b"]), st.sampled_from(["release", *DENSE]))
contexts = st.integers(1, 131072)


@given(needs, machines, contexts, st.integers(0, 100 * GB), st.integers(0, 131071))
def test_more_memory_and_less_context_never_refuse(
    model: Need, machine: Machine, tokens: int, more: int, fewer: int
) -> None:
    larger = replace(machine, total=machine.total + more, free=machine.free + more)
    before, after = check_load(model, machine, tokens), check_load(model, larger, max(1, tokens - fewer))
    assert after.fits >= before.fits
    assert after.needed <= before.needed


@given(needs, machines, contexts)
def test_whoever_follows_the_advice_is_let_in(model: Need, machine: Machine, tokens: int) -> None:
    verdict = check_load(model, machine, tokens)
    assert verdict.fits == (verdict.needed <= verdict.available)
    assert "\n" not in verdict.note
    assert not (verdict.fits and verdict.advice)
    assert verdict.fits or all(a.words in verdict.note for a in verdict.advice)
    for advice in verdict.advice:
        other = model if advice.dense is None else need(model.name, advice.dense)
        follows = machine
        if advice.wired_mb is not None:
            assert machine.device == "metal"
            assert advice.wired_mb <= machine.most_wired
            follows = replace(machine, free=advice.wired_mb << 20)
        assert advice.tokens is None or advice.tokens < tokens
        assert check_load(other, follows, advice.tokens or tokens).fits


SMALL = Machine("cpu", 8 * GB, 6 * GB, native=True, kv="float32")


def test_a_converted_model_larger_than_the_memory_runs_from_the_disk_with_a_warning() -> None:
    verdict = check_load(need("120b", "q8"), SMALL).require()
    assert "64.02 GB needed" in verdict.note
    assert "read from the disk" in verdict.note
    assert not verdict.advice
    assert not check_load(need("120b", "q8"), replace(SMALL, native=False)).fits
    assert not check_load(need("20b", "q8"), replace(SMALL, total=80 * GB, free=80 * GB)).note


def test_a_released_model_must_fit_and_converting_it_is_the_way_out() -> None:
    verdict = check_load(need("20b", "release"), SMALL)
    assert not verdict.fits
    assert [a.dense for a in verdict.advice] == ["q8"]
    assert "may stay on the disk" in verdict.note


def test_keys_and_values_must_fit_even_where_weights_need_not() -> None:
    verdict = check_load(need("20b", "q8"), SMALL, 131072)
    assert [a.dense for a in verdict.advice] == [None]
    assert 32768 < (verdict.advice[0].tokens or 0) < 131072


def test_a_nearly_full_gpu_is_warned_of() -> None:
    assert "slows it down" in check_load(need("20b", "q8"), MACS["16, newer"]).require().note
    assert not check_load(need("20b", "q8"), MACS["24"]).note


def test_a_context_beyond_the_models_counts_as_that() -> None:
    assert check_load(need("20b", "q8"), MACS["32"], 10**9) == check_load(need("20b", "q8"), MACS["32"], 131072)


@given(machines, contexts, st.integers(1, 20), st.integers(0, 50 * GB))
def test_admission(machine: Machine, tokens: int, sequences: int, used: int) -> None:
    config = CONFIGS["20b"]
    verdict = check_context(config, tokens, machine, used=used, sequences=sequences)
    assert verdict.needed >= sequences * cache_bytes(config, tokens, machine.kv_width)
    assert bool(verdict.note) == (not verdict.fits)
    assert "\n" not in verdict.note
    most = largest_context(config, machine, used=used, sequences=sequences)
    if most:
        assert check_context(config, most, machine, used=used, sequences=sequences).fits
    if not verdict.fits:
        assert most < tokens
        assert [a.tokens for a in verdict.advice] == [most] * bool(most)
    roomier = check_context(config, tokens, machine, used=used // 2, sequences=1 + sequences // 2)
    assert roomier.fits >= verdict.fits


def test_sequences_are_admitted_until_the_memory_is_promised() -> None:
    machine, model = MACS["128"], need("120b", "bf16")
    used, admitted = model.resident(machine), 0
    while check_context(model.config, 131072, machine, used=used).fits:
        used += cache_bytes(model.config, 131072)
        admitted += 1
    assert admitted == 7
    assert "left beside the" in check_context(model.config, 131072, machine, used=used).note


def test_what_an_engine_asks() -> None:
    machine, model = MACS["24"], need("20b", "bf16")
    running: list[int] = []
    fits = admission(model.config, machine, used=model.resident(machine), running=lambda: running)
    while fits(32768):
        running.append(32768)
    assert len(running) == 3
    assert fits(2048)
    with pytest.raises(MemoryLimitError, match=r"a sequence of 131,072 tokens: .* tokens fit$"):
        fits(131072)


@pytest.mark.parametrize("wrong", [0, -3])
def test_what_is_asked_must_be_positive(wrong: int) -> None:
    config, machine = CONFIGS["20b"], MACS["32"]
    for call in (
        lambda: check_load(need("20b", "q8"), machine, wrong),
        lambda: check_context(config, wrong, machine, used=0),
        lambda: check_context(config, 1, machine, used=0, sequences=wrong),
        lambda: largest_context(config, machine, used=0, sequences=wrong),
    ):
        with pytest.raises(RequestError, match=f"1 or more expected, {wrong} found"):
            call()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that has no room for anything."""
    machine = Machine("cpu", 1000, 1000, native=True)
    monkeypatch.setattr(Machine, "measure", lambda: machine)
    return machine


def test_loading_asks_first(toy: Path, tiny: Machine) -> None:
    with pytest.raises(MemoryLimitError, match="needed") as caught:
        gptoss_mlx.load(toy)
    assert str(caught.value).startswith(str(toy))
    assert "\n" not in str(caught.value)
    assert gptoss_mlx.load(toy, force=True).logits([1, 2]).shape[0] == 2


def test_the_context_that_must_fit_can_be_chosen(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Need.of_folder(toy)
    machine = Machine("metal", 10 * GB, model.total(Machine("metal", 1, 1), 1000))
    monkeypatch.setattr(Machine, "measure", lambda: machine)
    assert CONTEXT > 1000
    load_model(toy, context=1000)
    with pytest.raises(MemoryLimitError):
        load_model(toy)
    with pytest.raises(RequestError):
        load_model(toy, context=0)


def test_loading_sets_the_limits(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.measure()
    seen: list[Machine] = []
    monkeypatch.setattr(Machine, "measure", lambda: machine)
    monkeypatch.setattr(memory, "set_limits", seen.append)
    load_model(toy)
    assert seen == [machine]


def test_a_folder_is_checked_where_it_lies(sources: dict[str, Path], tmp_path: Path) -> None:
    convert(sources["hf"], tmp_path / "out", dense="q4")
    found = check_folder(tmp_path / "out", 100)
    assert isinstance(found, Verdict)
    assert found.needed == Need.of_folder(tmp_path / "out").total(Machine.measure(), 100)
    assert found.fits
    assert not check_folder(tmp_path / "out", machine=Machine("cpu", 10, 10)).fits


def test_commands_refuse_in_one_line_or_warn_where_forced(toy: Path, tiny: Machine) -> None:
    arguments = ["generate", str(toy), "the", "--max-tokens", "2", "--temp", "0"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"Error: {toy}: ")
    assert refused.stderr.count("\n") == 1
    forced = CliRunner().invoke(main, [*arguments, "--force"])
    assert forced.exit_code == 0
    assert forced.stderr.startswith(f"warning: {toy}: ")
    assert forced.stdout


def test_commands_say_nothing_where_there_is_room(toy: Path) -> None:
    result = CliRunner().invoke(main, ["chat", "hello", "--model", str(toy), "--max-tokens", "2", "--context", "500"])
    assert result.exit_code == 0
    assert "warning" not in result.stderr
    assert CliRunner().invoke(main, ["chat", "--context", "0"]).exit_code == 2
