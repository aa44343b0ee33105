"""`%load_ext gptoss_mlx`, then cells that begin with `%%gptoss` are questions to the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from . import demo, hub
from .errors import GptOssError
from .jupyter import follow, loading, place
from .runtime import GptOss, load
from .session import ChatSession

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

VARIABLE = "_reply"
"""Where the last Reply is found, as `_` is the last value."""


@magics_class
class GptOssMagics(Magics):
    """The cell magic, with the conversation that goes through the cells of a notebook."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._variables = shell.user_ns
        self._session: ChatSession | None = None
        self._name: str | None = None

    @magic_arguments()
    @argument("--model", help="Path, alias (20b, 120b, demo) or hub id; else the newest model here, else demo.")
    @argument("--effort", choices=["low", "medium", "high"], help="How long to think.")
    @argument("--system", metavar="TEXT", help="Instructions that the model should keep to.")
    @argument("--keep", dest="keep", action="store_true", default=True, help="Go on with the conversation (default).")
    @argument("--reset", dest="keep", action="store_false", help="Begin a new conversation.")
    @cell_magic
    def gptoss(self, line: str, cell: str) -> None:
        """Ask the model what stands in the cell, and show the answer while it comes.

        Options hold for the cells that follow, too, until they say otherwise. The Reply is in `_reply`.
        """
        options = parse_argstring(self.gptoss, line)
        question = cell.strip()
        if not question:
            raise UsageError("%%gptoss: a question expected below, nothing found")
        try:
            session = self._prepared(options.model, keep=options.keep)
            session.effort = options.effort or session.effort
            if options.system is not None:
                session.instructions = _unquoted(options.system)
            self._variables[VARIABLE] = follow(session.stream(question), place())
        except GptOssError as error:
            raise UsageError(str(error)) from None

    def _prepared(self, name: str | None, *, keep: bool) -> ChatSession:
        """The conversation, with the model loaded that is wanted."""
        if self._session is None or name not in (None, self._name):
            folder = hub.find(name) if name is not None else hub.newest() or demo.MODEL_FOLDER
            said = self._without_model()
            self._session, self._name = ChatSession(_load(folder), **said), name
        if not keep:
            self._session.clear()
        return self._session

    def _without_model(self) -> dict[str, Any]:
        """What goes on with another model; the old one is let go first, since two may not fit the memory."""
        session, self._session = self._session, None
        if session is None:
            return {}
        return {"effort": session.effort, "instructions": session.instructions, "messages": session.messages}


def _load(folder: Path) -> GptOss:
    if folder == demo.MODEL_FOLDER:
        print(demo.NOTICE)
    with loading() as progress:
        return load(folder, progress=progress)


def _unquoted(text: str) -> str:
    """The text of an option, which IPython leaves in its quotation marks."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text
