"""Log-probabilities of given tokens against the whole logits in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import gptoss_mlx
from gptoss_mlx import GptOss
from gptoss_mlx.errors import CheckpointError, RequestError
from gptoss_mlx.evaluation.scoring import log_softmax, score_blocks, score_endings, score_tokens
from gptoss_mlx.runtime import LOGITS_ROWS
from toy import write_toy

LONG = [i * 7 % 390 for i in range(700)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> GptOss:
    return gptoss_mlx.load(write_toy(tmp_path_factory.mktemp("toy")), exact=True)


def direct(logits: npt.NDArray[np.float32], targets: list[int]) -> list[float]:
    """Log-probabilities by the definition, one position after the other."""
    rows = logits.astype(np.float64)
    return [
        float(row[t] - row.max() - np.log(np.exp(row - row.max()).sum())) for row, t in zip(rows, targets, strict=True)
    ]


def test_log_softmax_is_exact_and_keeps_huge_logits() -> None:
    logits = np.array([[0, 0, 0, 0], [1e4, 1e4, -1e4, -1e4]], np.float32)
    assert log_softmax(logits)[0] == pytest.approx([-np.log(4)] * 4, abs=1e-15)
    assert log_softmax(logits)[1] == pytest.approx([-np.log(2), -np.log(2), *2 * [-2e4 - np.log(2)]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(CheckpointError, match="finite numbers expected"):
        log_softmax(np.array([[0, value]], np.float32))


def test_blocks_are_the_logits_cut_up(toy: GptOss) -> None:
    whole = toy.logits(LONG)
    wanted = [0, 5, 511, 512, 513, *range(600, 690)]
    blocks = list(toy.logits_blocks(LONG, wanted))
    assert max(map(len, blocks)) == LOGITS_ROWS
    assert np.abs(np.concatenate(blocks) - whole[wanted]).max() <= 2e-5 * np.abs(whole).max()
    assert list(toy.logits_blocks(LONG, [])) == []


def test_blocks_go_on_from_a_cache(toy: GptOss) -> None:
    cache = toy.model.make_cache()
    first = np.concatenate(list(toy.logits_blocks(LONG[:100], cache=cache)))
    second = np.concatenate(list(toy.logits_blocks(LONG[100:130], cache=cache)))
    assert np.abs(np.concatenate([first, second]) - toy.logits(LONG[:130])).max() <= 2e-5 * np.abs(first).max()
    with pytest.raises(RequestError, match="131072 tokens fit"):
        list(toy.logits_blocks([1] * 131000, cache=cache))


@pytest.mark.parametrize("first", [1, 17, 699])
def test_tokens_are_scored_by_what_is_before_them(toy: GptOss, first: int) -> None:
    expected = direct(toy.logits(LONG)[first - 1 : -1], LONG[first:])
    found = score_tokens(toy, LONG, first)
    assert found.logprobs == pytest.approx(expected, abs=1e-4)


def test_greedy_says_whether_a_token_is_the_likeliest() -> None:
    blocks = [np.array([[0, 1, 2], [3, 1, 2]], np.float32), np.array([[0, 9, 2]], np.float32)]
    assert score_blocks(blocks, [2, 1, 1]).greedy.tolist() == [True, False, True]


def test_endings_share_their_prompt(toy: GptOss) -> None:
    prompt, endings = LONG[:150], [[3], [3, 4, 5], LONG[:40], [7, 7]]
    for ending, found in zip(endings, score_endings(toy, prompt, endings), strict=True):
        alone = score_tokens(toy, [*prompt, *ending], len(prompt))
        assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert found.greedy.tolist() == alone.greedy.tolist()


def test_ids_out_of_range_are_refused(toy: GptOss) -> None:
    with pytest.raises(RequestError, match="ids from 0 to 399"):
        score_tokens(toy, [1, 400, 2])
    with pytest.raises(RequestError, match="ids from 0 to 399"):
        score_tokens(toy, [1, 2, 400])
