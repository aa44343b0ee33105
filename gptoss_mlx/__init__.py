"""A runtime for OpenAI's open-weight gpt-oss models on MLX.

import gptoss_mlx

model = gptoss_mlx.load("demo")
print(model.chat("What is the capital of France?").final)
"""

from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_here = Path(__file__).parent
if not (_here / "convert").is_dir():  # a source tree, where the converter lies beside this folder
    __path__.append(str(_here.parent))

from .errors import GptOssError  # noqa: E402
from .events import Reply  # noqa: E402
from .harmony import Conversation, Message  # noqa: E402
from .runtime import GptOss, load  # noqa: E402
from .sampling import SamplingParams  # noqa: E402

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Conversation", "GptOss", "GptOssError", "Message", "Reply", "SamplingParams", "__version__", "load"]


def load_ipython_extension(shell: "InteractiveShell") -> None:
    """What `%load_ext gptoss_mlx` calls: makes the cell magic `%%gptoss` known."""
    from .magic import GptOssMagics

    shell.register_magics(GptOssMagics)
