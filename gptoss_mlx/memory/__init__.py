"""Whether a model, and a sequence beside it, fits this machine: asked before memory is taken, answered with numbers.

A model that does not fit fails late otherwise, or takes a Mac down with it. `machine` says what memory there is,
`need` what a model takes of it, `verdict` compares the two and knows the ways out.
"""

from .machine import CACHE_LIMIT, KvWidth, Machine, set_limits
from .need import CHUNK, Need, activation_bytes, cache_bytes, kv_bytes
from .verdict import CONTEXT, Advice, Verdict, admission, check_context, check_folder, check_load, largest_context

__all__ = [
    "CACHE_LIMIT",
    "CHUNK",
    "CONTEXT",
    "Advice",
    "KvWidth",
    "Machine",
    "Need",
    "Verdict",
    "activation_bytes",
    "admission",
    "cache_bytes",
    "check_context",
    "check_folder",
    "check_load",
    "kv_bytes",
    "largest_context",
    "set_limits",
]
