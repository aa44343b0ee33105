"""Answers that grow in place in the output of a notebook's cell, and a chat there.

Nothing but IPython is needed. Where ipywidgets is installed as well, the chat has a line to type in.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .errors import GptOssError, RequestError
from .events import Done, Event, Reply
from .notebook import Shown, page, shown_page

if TYPE_CHECKING:
    from .session import ChatSession

Show = Callable[[str], None]
"""Puts HTML in the place of what was there before."""

INTERVAL = 0.05
"""Seconds between two updates: browsers draw no faster, and each update goes through the kernel's connection."""

REST = 9.0
"""How much longer than a drawing took the next one waits at least: long answers must not slow the model down."""


def place() -> Show:
    """A new place in the output of the cell that runs.

    Raises:
        RequestError: this is no notebook.
    """
    try:
        from IPython import display, get_ipython
    except ImportError:
        raise RequestError("notebook: IPython is missing; run pip install 'gptoss-mlx[notebook]'") from None
    if get_ipython() is None:
        raise RequestError("notebook: a running Jupyter or IPython expected, none found; use session() in a program")
    handle = display.DisplayHandle()
    handle.display(display.HTML(""))
    return lambda page: handle.update(display.HTML(page))


@contextmanager
def loading(show: Show | None = None, title: str = "loading") -> Iterator[Callable[[int, int], None]]:
    """A bar while a model is loaded; yields what `load` takes as `progress`. It disappears at the end.

    `hub.pull` takes it as well, for the conversion (`title="converting"`); the download before it shows bars itself.
    """
    show = show or place()
    due = 0.0

    def report(done: int, total: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + INTERVAL
            bar = f'<progress value="{done}" max="{total}"></progress>'
            show(f"{html.escape(title)} {bar} {done / 1e9:.1f} of {total / 1e9:.1f} GB")

    try:
        yield report
    finally:
        show("")


def follow(events: Generator[Event, None, None], show: Show) -> Reply:
    """Show an answer while it comes, thoughts unfolded until the answer begins.

    Args:
        events: from `GptOss.stream` or `ChatSession.stream`; closed at the end, also after an interrupt.
        show: where.
    """
    shown, due = Shown(), 0.0
    with closing(events):
        try:
            for event in events:
                if isinstance(event, Done):
                    show(page(event.reply))
                    return event.reply
                shown.add(event)
                began = time.monotonic()
                if began >= due:
                    show(shown_page(shown, thinking=not shown.final))
                    drawn = time.monotonic()
                    due = drawn + max(INTERVAL, REST * (drawn - began))
        except BaseException:  # an interrupt as well: what has come stays, with a remark
            shown.remark = "interrupted"
            show(shown_page(shown))
            raise
    raise RuntimeError("an answer ended without its Done event")


class ChatWidget:
    """A chat in a notebook: `chat = model.chat_widget()`, then `chat("a question")` in any cell.

    With ipywidgets, a cell that ends in `chat` shows the conversation with a line to type in; without, the
    conversation alone.
    """

    def __init__(self, session: ChatSession) -> None:
        self.session = session
        self.reply: Reply | None = None
        """The last one."""
        self._pages: list[str] = []

    def __call__(self, question: str, **options: Any) -> None:
        """Ask, and show the answer while it comes; `reply` has it afterwards.

        Args:
            question: what to ask.
            options: of `GptOss.dialogue`, for this question alone.

        Raises:
            RequestError, HarmonyError: see `GptOss.dialogue`; this is no notebook.
        """
        self._ask(question, place(), **options)

    def clear(self) -> None:
        """Begin a new conversation."""
        self.session.clear()
        self.reply = None
        self._pages.clear()

    def _ask(self, question: str, show: Show, **options: Any) -> None:
        self.reply = follow(self.session.stream(question, **options), show)
        self._pages += [_asked(question), page(self.reply)]

    def _repr_html_(self) -> str:
        return "\n".join(self._pages) or "<p><em>Nothing has been asked; call this with a question.</em></p>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = {"text/plain": repr(self), "text/html": self._repr_html_()}
        return bundle | _box(self)._repr_mimebundle_() if find_spec("ipywidgets") else bundle


def _asked(question: str) -> str:
    return f"<p><strong>{html.escape(question)}</strong></p>"


def _box(chat: ChatWidget) -> Any:
    """The conversation with a line to type in."""
    import ipywidgets

    said = ipywidgets.HTML("\n".join(chat._pages))
    line = ipywidgets.Text(placeholder="Ask something", continuous_update=False, layout={"width": "100%"})

    def typed(change: dict[str, Any]) -> None:
        question = change["new"].strip()
        if not question:
            return
        line.disabled, line.value = True, ""
        before = "\n".join([*chat._pages, _asked(question)])

        def show(answer: str) -> None:
            said.value = f"{before}\n{answer}"

        try:
            chat._ask(question, show)
        except GptOssError as error:
            show(f"<p><em>{html.escape(str(error))}</em></p>")
        finally:
            line.disabled = False

    line.observe(typed, "value")
    return ipywidgets.VBox([said, line])
