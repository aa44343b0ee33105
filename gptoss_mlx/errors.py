"""Everything that this package raises on purpose.

    GptOssError
    ├── ConfigError        a config.json that is missing, unreadable or of another architecture
    ├── CheckpointError    tensors missing, unexpected, truncated, of a wrong shape, dtype or value
    ├── ConversionError    a conversion that cannot start or go on (output exists, disk too small)
    ├── ModelNotFoundError a name that leads to no model on this machine
    ├── MemoryLimitError   a model or a context that does not fit this machine
    ├── TokenizerError     a tokenizer.json that is missing or does not serve gpt-oss
    ├── HarmonyError       a conversation that cannot be rendered (never raised for a model's output)
    ├── ToolError          a tool that cannot be started or is misconfigured (never raised for what a model calls)
    ├── BusyError          too many requests wait already
    └── RequestError       an argument of a call out of its range (also a ValueError)
        └── ContextError   a prompt longer than the model's context

A message is one line that names the thing, what was expected, what was found, and the way out. The command
line prints it as it stands.
"""


class GptOssError(Exception):
    """Base of every error that gptoss_mlx raises on purpose."""


class ConfigError(GptOssError):
    """A config.json is missing, unreadable, incomplete or describes another architecture."""


class CheckpointError(GptOssError):
    """A checkpoint's tensors are missing, unexpected, truncated, or of a wrong shape, dtype or value."""


class ConversionError(GptOssError):
    """A conversion cannot start or go on: the output exists, the disk is too small, nothing to resume."""


class ModelNotFoundError(GptOssError):
    """A model name leads to nothing on this machine (and nothing may be downloaded)."""


class MemoryLimitError(GptOssError):
    """A model, or a sequence beside it, needs more memory than there is."""


class TokenizerError(GptOssError):
    """A tokenizer.json is missing, unreadable, or lacks a harmony token."""


class HarmonyError(GptOssError):
    """A conversation cannot be rendered or read from JSON; never raised for a model's output."""


class ToolError(GptOssError):
    """A tool cannot be started or is misconfigured; never raised for what a model calls."""


class RequestError(GptOssError, ValueError):
    """An argument is out of its range or contradicts another one."""


class ContextError(RequestError):
    """A prompt is longer than the model's context, or leaves no room for an answer there.

    Args:
        prompt: what the caller calls it.
        tokens: that it has.
        limit: how many it may have.
    """

    def __init__(self, prompt: str, tokens: int, limit: int) -> None:
        super().__init__(
            f"{prompt}: at most {limit} tokens fit the model's context, {tokens} found; shorten the conversation"
        )
        self.tokens = tokens
        self.limit = limit


class BusyError(GptOssError):
    """Too many requests wait already; the same request may be served later."""
