"""Docstrings of three styles tell the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.tools.docstring import Docstring, read_docstring

GOOGLE = """Height of the tide.

    Above chart datum: see the atlas.

    Args:
        port (str, optional): three letters,
            in capitals.
        hours: how far ahead: 0 is now
        *rest: more

    Returns:
        hours: no parameter
    """
NUMPY = """
    Height of the tide.

    Above chart datum: see the atlas.

    Parameters
    ----------
    port : str, optional
        three letters,
        in capitals.
    hours
        how far ahead: 0 is now
    *rest : int
        more

    Returns
    -------
    hours
        no parameter
    """
REST = """Height of the tide.

    Above chart datum: see the atlas.

    :param str port: three letters,
        in capitals.
    :type port: str
    :param hours: how far ahead: 0 is now
    :param *rest: more
    :returns: hours: no parameter
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_three_styles_tell_the_same(text: str) -> None:
    assert read_docstring(text) == Docstring(
        "Height of the tide.\n\nAbove chart datum: see the atlas.",
        {"port": "three letters, in capitals.", "hours": "how far ahead: 0 is now", "rest": "more"},
    )


@pytest.mark.parametrize("text", [None, "", "  \n "])
def test_no_docstring_says_nothing(text: str | None) -> None:
    assert read_docstring(text) == Docstring()


def test_several_names_share_a_description() -> None:
    told = read_docstring("F.\n\nParameters\n----------\nx, y : float\n    a coordinate")
    assert told.parameters == {"x": "a coordinate", "y": "a coordinate"}


def test_types_may_hold_brackets_and_colons() -> None:
    told = read_docstring("F.\n\nArgs:\n    d (dict[str, tuple(int)]): pairs\n    e: one\n\n      two\n")
    assert told.parameters == {"d": "pairs", "e": "one two"}


LINES = ["Args:", "Parameters", "-----", "  x (int): a", "x : int", "   b", ":param x: c", ":type x: int", "", "d:"]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=8)).map("\n".join))
def test_any_text_is_read(text: str) -> None:
    read_docstring(text)
