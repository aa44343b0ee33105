"""The tokenizer: byte-exact, deaf to control spellings, and never half a character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_harmony import HarmonyEncoding as Oracle

from gptoss_mlx.errors import TokenizerError
from gptoss_mlx.tokenizer import HARMONY_TOKENS, StreamDecoder, Tokenizer
from tiny_tokenizer import SPECIALS, tiny_tokenizer, tiny_tokenizer_json, write_tiny_tokenizer

TINY = tiny_tokenizer()
SPELLINGS = st.sampled_from((*SPECIALS, "<|start|>user<|message|>", "<|", "|>", "é", "日本", " "))
HOSTILE = st.lists(SPELLINGS | st.text(max_size=8), max_size=6).map("".join)


def test_harmony_tokens_are_found_by_spelling() -> None:
    assert list(TINY.special) == list(SPECIALS)
    assert (TINY.start, TINY.endoftext) == (TINY.id_of("<|start|>"), TINY.id_of("<|endoftext|>"))
    assert TINY.stop_tokens == {TINY.return_, TINY.call, TINY.endoftext}
    assert TINY.end not in TINY.stop_tokens
    assert TINY.size == 1 + max(TINY.special.values())


@given(HOSTILE)
def test_control_spellings_in_a_text_stay_text(text: str) -> None:
    ids = TINY.encode(text)
    assert not any(map(TINY.is_special, ids))
    assert TINY.decode(ids) == text


def test_spellings_that_are_words_of_the_vocabulary_too_stay_text(tmp_path: Path) -> None:
    """A trainer may list the specials in the vocabulary as well, and a splitter may leave them whole."""
    description = json.loads(tiny_tokenizer_json())
    for token in description["added_tokens"]:
        description["model"]["vocab"][token["content"]] = token["id"]
    description["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    description["pre_tokenizer"]["trim_offsets"] = True
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    for text in ("<|end|>", "<|start|>user<|message|>", "a<|end|>"):
        tokenizer = Tokenizer.from_file(path)
        ids = tokenizer.encode(text)
        assert not any(map(tokenizer.is_special, ids))
        assert tokenizer.decode(ids) == text


def test_added_tokens_that_are_not_special_stay_text(tmp_path: Path) -> None:
    description = json.loads(tiny_tokenizer_json())
    extra = {"id": TINY.size, "content": "<extra>", "special": False, "normalized": False}
    description["added_tokens"].append({"single_word": False, "lstrip": False, "rstrip": False, **extra})
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("a<extra><|end|>b") == TINY.encode("a<extra><|end|>b")
    assert tokenizer.token_bytes(TINY.size) == b"<extra>"
    assert tokenizer.size == TINY.size + 1


def test_lone_surrogates_become_replacement_characters() -> None:
    assert TINY.decode(TINY.encode("a\ud800b")) == "a\ufffdb"
    assert TINY.decode(TINY.encode("\ud83d\ude42")) == "🙂"


@given(st.lists(st.integers(-3, TINY.size + 3)))
def test_decoding_joins_the_bytes(ids: list[int]) -> None:
    data = b"".join(map(TINY.token_bytes, ids))
    assert TINY.decode(ids) == data.decode("utf-8", "replace")


def test_unknown_ids_have_no_bytes() -> None:
    for unknown in (-1, TINY.size, 201087, 2**70, -(2**70)):
        assert TINY.token_bytes(unknown) == b""
        assert not TINY.is_special(unknown)


@given(st.text())
def test_stream_never_gives_half_a_character(text: str) -> None:
    decoder = StreamDecoder(TINY)
    bytes_seen, told = b"", ""
    for token in TINY.encode(text):
        told += decoder.push(token)
        bytes_seen += TINY.token_bytes(token)
        assert told == bytes_seen.decode("utf-8", "ignore")
    assert told + decoder.flush() == TINY.decode(TINY.encode(text))


@given(st.lists(st.integers(0, 255)))
def test_stream_of_any_bytes_equals_decoding_at_once(ids: list[int]) -> None:
    decoder = StreamDecoder(TINY)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == TINY.decode(ids)
    assert decoder.flush() == ""


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: no such file; copy"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"model": 3}'])
def test_unreadable_file_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(TokenizerError, match="cannot be read as a tokenizer") as caught:
        Tokenizer.from_file(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", HARMONY_TOKENS)
def test_missing_harmony_token_is_named(tmp_path: Path, token: str) -> None:
    path = write_tiny_tokenizer(tmp_path)
    path.write_text(path.read_text().replace(token, "<|other|>"))
    with pytest.raises(TokenizerError, match=token.replace("|", r"\|")):
        Tokenizer.from_file(path)


def test_vocabulary_without_all_bytes_is_refused(tmp_path: Path) -> None:
    description = json.loads(tiny_tokenizer_json())
    del description["model"]["vocab"]["Ġ"]
    description["model"]["merges"] = [pair for pair in description["model"]["merges"] if "Ġ" not in "".join(pair)]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description))
    with pytest.raises(TokenizerError, match="byte-level"):
        Tokenizer.from_file(path)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no token '<|nonsense|>'".replace("|", r"\|")):
        TINY.id_of("<|nonsense|>")


def test_a_token_that_spells_no_bytes_is_named(tmp_path: Path) -> None:
    description = json.loads(tiny_tokenizer_json())
    description["model"]["vocab"]["a b"] = 5000  # a blank is spelled differently
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(TokenizerError, match="token 5000 expected to spell bytes, 'a b' found"):
        Tokenizer.from_folder(tmp_path).token_bytes(5000)


def test_released_ids(real_tokenizer: Tokenizer) -> None:
    released = real_tokenizer
    assert (released.start, released.end, released.message) == (200006, 200007, 200008)
    assert (released.channel, released.constrain) == (200005, 200003)
    assert (released.return_, released.call) == (200002, 200012)
    assert (released.startoftext, released.endoftext, released.size) == (199998, 199999, 200019)
    assert released.encode("<|end|>") == [27, 91, 419, 91, 29]
    assert released.encode("Is 91 prime?") == [3031, 220, 8956, 9197, 30]


@given(text=HOSTILE)
def test_encodes_and_decodes_as_openai_harmony(real_tokenizer: Tokenizer, oracle: Oracle, text: str) -> None:
    plain = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ids = real_tokenizer.encode(text)
    assert ids == oracle.encode(plain, disallowed_special=())
    assert real_tokenizer.decode(ids) == oracle.decode(ids)


@given(ids=st.lists(st.integers(0, 200017), max_size=20))
def test_decodes_any_ids_as_openai_harmony(real_tokenizer: Tokenizer, oracle: Oracle, ids: list[int]) -> None:
    assert real_tokenizer.decode(ids) == oracle.decode(ids)
    decoder = StreamDecoder(real_tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.flush() == oracle.decode(ids)
