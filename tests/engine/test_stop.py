"""Stop texts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gptoss_mlx.engine import StopText


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_text_streams_what_a_search_finds(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stopper = StopText(stops)
    out = ""
    for piece in pieces:
        out += stopper.push(piece)
        if stopper.hit is not None:
            break
    if stopper.hit is None:
        out += stopper.flush()
    assert not any(stop in out for stop in stops)
    assert text.startswith(out)
    if stopper.hit is None:
        assert out == text
    else:
        assert text.startswith(out + stopper.hit)


def test_stop_text_holds_back_only_beginnings() -> None:
    stopper = StopText(["END"])
    assert [stopper.push(piece) for piece in ("an E", "x", "EN", "", "De")] == ["an ", "Ex", "", "", ""]
    assert stopper.hit == "END"
