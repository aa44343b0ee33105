"""Folders of prompt states, as tests fill them and look into them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from numbered import Run, empty

from gptoss_mlx.engine.persist import PromptFolder
from gptoss_mlx.engine.prefix import PrefixStore

LARGE = 1 << 30
LINE = [n % 50 for n in range(3000)]
OTHER = LINE[:700] + [70] * 800


def opened(
    folder: Path, said: list[str] | None = None, fingerprint: str = "model", budget: int = LARGE
) -> PromptFolder:
    """The folder as a new process sees it; nothing in it may be refused unless the test listens."""
    report: Callable[[str], None] = pytest.fail if said is None else said.append
    return PromptFolder(folder, fingerprint, empty, budget=budget, report=report)


def grown(tokens: Sequence[int], *boundaries: int, store: PrefixStore | None = None) -> PrefixStore:
    """A store with the states of a run at these positions."""
    store, run = store or PrefixStore(LARGE), Run()
    for first, last in zip((0, *boundaries), boundaries, strict=False):
        run.feed(tokens[first:last])
        store.add(run.tokens, run.caches)
    return store


def recalled(folder: PromptFolder, tokens: Sequence[int], limit: int = LARGE, store: PrefixStore | None = None) -> int:
    """How much of a prompt comes back, which has to be right and to go on rightly."""
    store = store or PrefixStore(LARGE)
    folder.recall(store, tokens, limit)
    for branch in store.branches():
        for position, caches in branch.states.items():
            Run(branch.tokens[:position].tolist(), caches).check()
    found = store.find(tokens, limit)
    if found is None:
        return 0
    run = Run(tokens[: found[0]], found[1])
    run.feed([5] * 300)
    run.check()
    return found[0]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def only(folder: Path) -> Path:
    (path,) = files(folder)
    return path


def reseal(path: Path, change: Callable[[Any], Any] | bytes) -> None:
    """Change the header of a file as one would who knows the checksum."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = change if isinstance(change, bytes) else json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    text += b" " * (-(8 + len(text)) % 8)
    header = len(text).to_bytes(8, "little") + text
    path.write_bytes(header + data[8 + length : -4] + zlib.crc32(header).to_bytes(4, "little"))
