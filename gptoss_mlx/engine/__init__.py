"""The engine: token ids in, token ids out. It knows neither HTTP nor a terminal."""

from .options import EngineOptions
from .prefill import PREFILL_CHUNK, check_tokens, prefill
from .request import Figures, Generated, Guide, Request, TokenLogprobs
from .scheduler import Engine
from .stop import StopText

__all__ = [
    "PREFILL_CHUNK",
    "Engine",
    "EngineOptions",
    "Figures",
    "Generated",
    "Guide",
    "Request",
    "StopText",
    "TokenLogprobs",
    "check_tokens",
    "prefill",
]
