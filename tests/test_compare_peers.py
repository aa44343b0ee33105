"""The comparison script, with a stand-in for llama_cpp in the runs' processes."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptoss_mlx import hub, machine
from gptoss_mlx.bench import Settings

ROOT = Path(__file__).parent.parent
DEMO = hub.find("demo")

LLAMA = '''
"""A stand-in for llama_cpp: counts tokens as a cache would, says nothing."""
import ctypes, os, types
llama_token = ctypes.c_int32
logits = (ctypes.c_float * 1824)()
state = types.SimpleNamespace(held=0)
def llama_log_callback(f): return f
def llama_log_set(f, data): f(1, b"noise", None)
def llama_backend_init(): pass
def llama_model_default_params(): return None
def llama_model_load_from_file(path, params): return path.endswith(b".gguf")
def llama_context_default_params(): return types.SimpleNamespace()
def llama_init_from_model(model, params):
    assert (params.n_batch, params.n_ubatch, params.n_threads) == (2048, 512, os.cpu_count())
    state.room = params.n_ctx
    return 1
def llama_model_get_vocab(model): return 0
def llama_vocab_n_tokens(vocab): return int(os.environ.get("STAND_IN_IDS", 1824))
def llama_batch_get_one(ids, count): return list(ids)
def llama_decode(context, ids):
    state.held += len(ids)
    with open(os.environ["STAND_IN_LOG"], "a") as log: print(state.held, *ids, file=log)
    return int(state.held > state.room or max(ids) >= 1824)
def llama_get_logits_ith(context, index): return logits
def llama_get_memory(context): return 0
def llama_memory_clear(memory, data): state.held = 0
'''


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The comparison script; its children find the stand-in and log what that is given. Memory reads 8 GB/s."""
    monkeypatch.setattr(machine, "machine_reading", lambda threads: 8.0)
    (tmp_path / "llama_cpp.py").write_text(LLAMA)
    (tmp_path / "demo.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield importlib.import_module("compare_peers")
    sys.modules.pop("compare_peers")


def test_compare_with_a_stand_in(peers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(DEMO), "--gguf", str(tmp_path / "demo.gguf"), "--prompt", "6", "--context", "9", "--generate", "2"]
    peers.main([*words, "--alternations", "1", "--json"])
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["work"] == {"prompt": 6, "generate": 2, "context": 9}
    assert found["reading_gb_per_s"] == 8
    assert list(found["medians"]) == ["gptoss_mlx", "llama.cpp"]
    assert set(found["ratios"]["llama.cpp"]) == {"load", "prefill", "decode", "peak memory"}
    assert found["rounds"][0]["gptoss_mlx"]["bytes_per_token"] > 1_000_000
    assert err.splitlines()[-1] == "round 1 of 1: llama.cpp"

    ran = [[int(word) for word in line.split()] for line in (tmp_path / "log").read_text().splitlines()]
    assert [held for held, *_ in ran] == [4, 5, 6, 9, 10, 11] * 2
    tokens = Settings(6, 2, 9).tokens(1824, 11)[0].tolist()
    assert [token for _, *ids in ran[2:6] for token in ids] == tokens


def rounds(peers: Any) -> list[Any]:
    def figures(speed: float, **more: float) -> dict[str, float]:
        common = {"load_s": 1 / speed, "prefill_tokens_per_s": 10 * speed, "peak_memory_bytes": 1e9}
        return {"decode_tokens_per_s": speed, **common, **more}

    return [
        peers.Round(10 * ours, {"gptoss_mlx": figures(ours, bytes_per_token=5e9), "mlx-lm": figures(theirs)})
        for ours, theirs in ((4.0, 2.0), (10.0, 4.0), (3.0, 1.0))
    ]


def test_ratios_are_taken_within_a_round(peers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = peers.summary(rounds(peers))
    assert found["medians"]["gptoss_mlx"]["decode_tokens_per_s"] == 4
    for what in ("load", "prefill", "decode"):
        assert found["ratios"]["mlx-lm"][what] == pytest.approx({"median": 2.5, "min": 2, "max": 3})
    assert found["ratios"]["mlx-lm"]["peak memory"]["median"] == 1
    assert found["achieved_percent_of_reading"] == 50
    peers.print_table({"machine": "a machine", "work": {"prompt": 6, "generate": 2, "context": 9}, **found})
    out = capsys.readouterr().out
    assert "2.50 (2.00 to 3.00)" in out
    assert "a machine reads 40.0 GB/s; gptoss_mlx decodes at 50 % of that" in out


def test_who_is_first_changes(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def apart(runtime: Any, work: Any) -> dict[str, float]:
        order.append(runtime.name)
        return {"vocabulary": 1824}

    monkeypatch.setattr(peers, "run_apart", apart)
    runtimes = [peers.Runtime(name, sys.executable, DEMO) for name in "ab"]
    peers.compare(runtimes, peers.Work(1, 1, 1), 3)
    assert "".join(order) == "ababbaab"


def test_a_peer_s_failure_is_one_line(peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = peers.Work(6, 2, 6)
    broken, gguf = tmp_path / "demo.bin", tmp_path / "demo.gguf"
    broken.write_bytes(b"?")
    with pytest.raises(SystemExit, match=r"llama\.cpp: .*demo\.bin: llama\.cpp does not load it"):
        peers.run_apart(peers.Runtime("llama.cpp", sys.executable, broken), work)
    with pytest.raises(SystemExit, match="does not start"):
        peers.run_apart(peers.Runtime("llama.cpp", str(tmp_path / "python"), gguf), work)
    with pytest.raises(SystemExit, match=r"1824 ids expected .* 9 found"):
        peers.same_model(peers.Runtime("a", "", DEMO), peers.Runtime("b", "", gguf), {"vocabulary": 9})
    (tmp_path / "llama_cpp.py").unlink()
    monkeypatch.setenv("PYTHONPATH", "")
    if importlib.util.find_spec("llama_cpp") is None:
        with pytest.raises(SystemExit, match="pip install llama-cpp-python"):
            peers.run_apart(peers.Runtime("llama.cpp", sys.executable, gguf), work)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([str(DEMO)], "a peer expected"),
        ([str(DEMO), "--gguf", "nowhere.gguf"], "nowhere.gguf does not exist"),
        ([str(DEMO), "--mlx-lm", str(DEMO), "--prompt", "0"], "1 or more"),
        ([str(DEMO), "--mlx-lm", str(DEMO), "--context", "5"], "no shorter than the prompt"),
    ],
)
def test_bad_arguments_end_the_comparison(peers: Any, words: list[str], says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        peers.main(words)
