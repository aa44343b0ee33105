"""The engine: token ids in, token ids out. It knows neither harmony nor a terminal."""

from .generate import PREFILL_CHUNK, Generated, check_tokens, generate, prefill
from .stop import StopText

__all__ = ["PREFILL_CHUNK", "Generated", "StopText", "check_tokens", "generate", "prefill"]
